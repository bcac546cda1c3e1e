"""Rows of a store's arrays by image id, each proved to be that image's before it is handed out (:mod:`dmkd.stores.checks`).

Besides the chunk that is asked for, a row is proved by small arrays of its block (checks, class ids, views). These are kept
in memory, the last :data:`KEPT_BYTES` of them, so reading a store block by block or in any order reads them once.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from . import layout
from .checks import class_checks, encoded_checks, image_checks, quality_checks, views_bound
from .errors import DamagedChunkError

if TYPE_CHECKING:
    from .store import Store

KEPT_BYTES = 64 * 2**20

Ids = int | slice | Sequence[int] | np.ndarray
Read = TypeVar("Read")


class KeptChunks:
    """The chunks read last, by (node, block), up to a number of bytes. Safe to share between threads."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._chunks: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._lock = Lock()

    def get(self, node: str, block: int) -> np.ndarray | None:
        with self._lock:
            if (rows := self._chunks.get((node, block))) is not None:
                self._chunks.move_to_end((node, block))
            return rows

    def put(self, node: str, block: int, rows: np.ndarray) -> None:
        with self._lock:
            self._drop((node, block))
            self._chunks[node, block] = rows
            self.bytes += rows.nbytes
            while self.bytes > self.max_bytes:
                self._drop(next(iter(self._chunks)))

    def forget(self, blocks: Sequence[int]) -> None:
        """Drop everything that is kept of these blocks."""
        wanted = set(blocks)
        with self._lock:
            for key in [key for key in self._chunks if key[1] in wanted]:
                self._drop(key)

    def _drop(self, key: tuple[str, int]) -> None:
        if (rows := self._chunks.pop(key, None)) is not None:
            self.bytes -= rows.nbytes


class Rows(ABC):
    """One array of a store, read by image id: ``rows[7]``, ``rows[10:20]``, ``rows[[5, 3, 3]]``.

    ``shape`` is (N, ...) and ``dtype`` that of the array. Reading ids of a block that has not been made raises
    ``MissingBlockError``, never fill values; a damaged chunk, or one that belongs elsewhere, raises ``DamagedChunkError``.
    """

    def __init__(self, store: "Store", node: str) -> None:
        self._store, self._node = store, node

    def __getitem__(self, ids: Ids) -> np.ndarray:
        if isinstance(ids, int | np.integer):
            return self[[int(ids)]][0]
        wanted = self._store.resolve_ids(ids)
        return proved(self._store, wanted, lambda: self._proved(wanted, self._store._read(self._node, wanted)))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._store._tree.shape(self._node)

    @property
    def dtype(self) -> np.dtype:
        return self._store._tree.dtype(self._node)

    def __len__(self) -> int:
        return self.shape[0]

    def block(self, block: int) -> np.ndarray:
        """All rows of one block."""
        ids = np.array(self._store.block_ids(block))
        return proved(self._store, ids, lambda: self._proved(ids, self._store._read_block(self._node, block)))

    def prove(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Raise ``DamagedChunkError`` unless ``rows``, (n, ...) straight from the file, are those of ids int64 (n,)."""
        proved(self._store, ids, lambda: self._proved(ids, rows))

    @abstractmethod
    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """``rows`` as a reader gets them, after making sure that they are those of these ids, (n,)."""


class ImageRows(Rows):
    """uint8 (N, H, W, 3)"""

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        class_ids = self._store._read_small(layout.CLASS_IDS, ids)
        stored = self._store._read_small(layout.CHECKS, ids)
        found = image_checks(ids, class_ids, rows)
        # Only where class ids and checks agree the pixels are to blame.
        _refuse(self._store, (layout.CLASS_IDS, layout.CHECKS), ids, found[:, 0] != stored[:, 0])
        _refuse(self._store, (self._node,), ids, found[:, 1] != stored[:, 1])
        return rows


class ClassRows(Rows):
    """int32 (N,)"""

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        stored = self._store._read_small(layout.CHECKS, ids)
        _refuse(self._store, (self._node, layout.CHECKS), ids, class_checks(ids, rows) != stored[:, 0])
        return rows


class CheckRows(Rows):
    """uint32 (N, 2): the image checks, of which the first column is proved here and the second by the pixels."""

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        class_ids = self._store._read_small(layout.CLASS_IDS, ids)
        _refuse(self._store, (self._node, layout.CLASS_IDS), ids, class_checks(ids, class_ids) != rows[:, 0])
        return rows


class ViewRows(Rows):
    """float32 (N, V, P): without the last component of the array, which says whose views they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        num_images, num_views, stored = super().shape
        return num_images, num_views, stored - 1

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        _refuse(self._store, (self._node,), ids, ~views_bound(ids, rows))
        return np.ascontiguousarray(rows[:, :, :-1])


class QualityRows(Rows):
    """float32 (N, 3) of the label set with this identity."""

    def __init__(self, store: "Store", node: str, identity: str) -> None:
        super().__init__(store, node)
        self._identity = identity

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        checks = f"{self._node.rsplit('/', 1)[0]}/{layout.CHECKS}"
        stored = self._store._read_small(checks, ids)
        found = quality_checks(self._identity, ids, self._store._read_small(layout.CHECKS, ids), rows)
        _refuse(self._store, (self._node, checks), ids, found != stored[:, 0])
        return rows


def proved_encoded(
    store: "Store",
    identity: str,
    ids: np.ndarray,
    arrays: dict[str, np.ndarray],
    nodes: dict[str, str],
    checks: str,
    views: str,
) -> dict[str, np.ndarray]:
    """``arrays``, the codec's (name -> (n, ...), stored at ``nodes``) of the label set with this identity, after making sure that
    they are those of ids int64 (n,) and were made from the images and ``views`` that are there now."""
    of_images, of_views = store._read_small(layout.CHECKS, ids), store._read_small(views, ids)
    found = encoded_checks(identity, ids, of_images, of_views, arrays)
    wrong = found != store._read_small(checks, ids)[:, 1]
    _refuse(store, (*nodes.values(), checks, views), ids, wrong)
    return arrays


def proved(store: "Store", ids: np.ndarray, read: Callable[[], Read]) -> Read:
    """What ``read`` gives. Another process may have made a block anew since the small arrays that prove it were kept: if
    anything is wrong they are forgotten, and all is read once more before it is told."""
    try:
        return read()
    except DamagedChunkError:
        store._kept.forget(np.unique(ids // store.block_size).tolist())
        return read()


def by_block(ids: np.ndarray, block_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Ids int64 (n,) -> (block, places in ``ids`` that lie in it), block by block."""
    blocks = ids // block_size
    order = np.argsort(blocks, kind="stable")
    starts = np.flatnonzero(np.diff(blocks[order], prepend=-1))
    for places in np.split(order, starts[1:]) if len(ids) else ():
        yield int(blocks[places[0]]), places


def _refuse(store: "Store", nodes: tuple[str, ...], ids: np.ndarray, wrong: np.ndarray) -> None:
    """Raise ``DamagedChunkError`` if any row is wrong. ``nodes``: the arrays one of which is to blame, the likeliest first."""
    if not wrong.any():
        return
    bad = int(ids[wrong][0])
    chunk = store._tree.chunk_path(nodes[0], bad // store.block_size)
    others = f" (or {', '.join(nodes[1:])} of this block)" if nodes[1:] else ""
    raise DamagedChunkError(
        f"Chunk {chunk}{others} does not hold what was written for image {bad}: it is damaged, or that of another block or "
        "store. `dmkd verify --repair` finds and deletes what is broken, so that it can be made again."
    )
