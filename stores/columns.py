"""Columns: one number an image under a user's name, such as a score of their own; bound to its image like every other row."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import layout
from .checks import column_checks
from .chunks import Chunks
from .errors import DamagedChunkError, MissingBlockError
from .identity import fingerprint
from .rows import Rows


class ColumnRows(Rows):
    """float64 (N,) of the column with this identity, without the check that is stored beside each number."""

    def __init__(self, chunks: Chunks, node: str, identity: str) -> None:
        super().__init__(chunks, node)
        self._identity = identity

    @property
    def shape(self) -> tuple[int, ...]:
        return super().shape[:1]

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        wrong = ~column_bound(self._identity, ids, self._chunks.read_small(layout.CHECKS, ids), rows)
        self._chunks.refuse((self._node,), ids, wrong)
        return np.ascontiguousarray(rows[:, 0])


class Column:
    """A column of a store: ``column[ids]`` is float64 (n,)."""

    def __init__(self, chunks: Chunks, name: str, attributes: dict[str, Any]) -> None:
        """``attributes``: those of its node."""
        self.name = name
        self.node = f"{layout.COLUMNS}/{name}"
        self.attributes = attributes
        self.identity: str = attributes["identity"]
        self.description: str = attributes["description"]
        self.of_rounds: bool = attributes.get("of_rounds", False)  # written with each block, not by a user
        self.rows = ColumnRows(chunks, self.node, self.identity)
        self._chunks = chunks

    def __getitem__(self, ids: Any) -> np.ndarray:
        return self.rows[ids]

    def has_block(self, block: int) -> bool:
        """Whether a block has numbers."""
        return self._chunks.has(self.node, block)

    def missing_blocks(self) -> list[int]:
        """Blocks that have no numbers, ascending."""
        return self._chunks.missing(self.node)

    def read_blocks(self, blocks: Sequence[int], damaged: list[str]) -> dict[int, np.ndarray]:
        """Block -> its numbers, float64 (n,). Of blocks that are damaged ``damaged`` gets a sentence, and they are left out."""

        def read(block: int) -> np.ndarray | str:
            try:
                return self.rows.block(block)
            except (DamagedChunkError, MissingBlockError) as error:
                return str(error)

        found = dict(zip(blocks, self._chunks.tree.map(read, blocks), strict=True))
        damaged += [one for one in found.values() if isinstance(one, str)]
        return {block: one for block, one in found.items() if not isinstance(one, str)}

    def known(self, ids: np.ndarray) -> np.ndarray:
        """float64 (n,): the numbers of ids int64 (n,), NaN where there are none."""
        values = np.full(len(ids), np.nan)
        absent = np.isin(ids // self._chunks.block_size, self.missing_blocks())
        values[~absent] = self.rows[ids[~absent]]
        return values


def column_identity(store: str, name: str, numbers: str | None) -> str:
    """Of the column of this name in the store with this identity. ``numbers``: the sha256 of those that it was begun with; None
    in stores where it was not recorded yet."""
    recorded = {} if numbers is None else {"numbers": numbers}
    return fingerprint({"store": store, "column": name, **recorded})


def bind_column(identity: str, ids: np.ndarray, image_checks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Numbers float64 (n,) -> as stored, (n, 2): each with the check that ties it to its column, image and pixels."""
    return np.stack([values, column_checks(identity, ids, image_checks, values).astype(np.float64)], 1)


def column_bound(identity: str, ids: np.ndarray, image_checks: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Which rows (n, 2), as stored, belong to these images: bool (n,)."""
    return column_checks(identity, ids, image_checks, stored[:, 0]) == stored[:, 1]


def read_columns(chunks: Chunks) -> dict[str, Column]:
    """All columns of a store by name, sorted. One that was removed, or whose creation was interrupted, is left out."""
    names = chunks.tree.children(layout.COLUMNS)
    found = dict(
        zip(names, chunks.tree.map(lambda name: chunks.tree.attributes(f"{layout.COLUMNS}/{name}"), names), strict=True)
    )
    return {name: Column(chunks, name, its) for name, its in found.items() if its.get("identity")}
