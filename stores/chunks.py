"""The blocks of one store's arrays: which are there, their rows by image id, and the small ones that are kept in memory.

Rows come as they are stored; :mod:`dmkd.stores.rows` proves which image they belong to, by small arrays of their block (checks,
class ids, views). The last :data:`KEPT_BYTES` of these are kept, so each is read once whether a store is read in order or not.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from . import layout
from .errors import DamagedChunkError, DamagedMetadataError, MissingBlockError, UsageError, write_error
from .trees.tree import open_tree

if TYPE_CHECKING:
    from .trees.tree import Tree

KEPT_BYTES = 64 * 2**20

Ids = int | slice | Sequence[int] | np.ndarray


class KeptChunks:
    """The most recently read chunks, by (node, block), up to a number of bytes. Safe to share between threads."""

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
        """Drop everything kept of these blocks."""
        wanted = set(blocks)
        with self._lock:
            for key in [key for key in self._chunks if key[1] in wanted]:
                self._drop(key)

    def _drop(self, key: tuple[str, int]) -> None:
        if (rows := self._chunks.pop(key, None)) is not None:
            self.bytes -= rows.nbytes


class Chunks:
    """The chunks of the store at ``path``. Opens on first use in each process, so it can be pickled; threads may share it.

    ``tree`` is the backend that the store is written in, ``kept`` the chunks kept in memory.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.tree: Tree = open_tree(path)
        self._listing = Lock()
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def refresh(self) -> None:
        """Forget what has been read: attributes, listings and rows."""
        self.kept = KeptChunks()
        self._attributes: dict[str, Any] | None = None
        self._present: dict[str, set[int]] = {}  # node -> the blocks that were there at its last listing

    # What all arrays share

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's attributes, read once."""
        if self._attributes is None:
            self._attributes = self.tree.attributes()
        return self._attributes

    @property
    def num_images(self) -> int:
        return self.shape(layout.IMAGES)[0]

    @property
    def block_size(self) -> int:
        return self.attributes["block_size"]

    @property
    def num_blocks(self) -> int:
        return -(-self.num_images // self.block_size)

    def block_ids(self, block: int) -> range:
        """The image ids of a block; the last block may hold fewer than ``block_size``."""
        return range(block * self.block_size, min((block + 1) * self.block_size, self.num_images))

    def resolve_ids(self, ids: Ids) -> np.ndarray:
        """Any way of naming ids -> int64 (n,); a boolean mask over all N images selects its true ones."""
        if isinstance(ids, slice):
            return np.arange(*ids.indices(self.num_images))
        array = np.asarray([ids] if isinstance(ids, int | np.integer) else ids)
        if array.dtype == bool:
            if array.shape != (self.num_images,):
                raise UsageError(f"A mask over image ids must have shape ({self.num_images},), not {array.shape}.")
            return np.flatnonzero(array)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise UsageError(f"Image ids must be a list of whole numbers, not {array.dtype} of shape {array.shape}.")
        return array.astype(np.int64)

    def look_again(self, blocks: Sequence[int]) -> None:
        """Rely on nothing that has been read of these blocks."""
        self.kept.forget(blocks)
        self.tree.look_again()

    # Which blocks are there

    def shape(self, node: str) -> tuple[int, ...]:
        """(N, ...) of an array."""
        return self.tree.shape(node)

    def dtype(self, node: str) -> np.dtype:
        return self.tree.dtype(node)

    def has(self, node: str, block: int) -> bool:
        """Whether a block's chunk exists."""
        return self.tree.has_block(node, block)

    def missing(self, node: str) -> list[int]:
        """The blocks of an array that have no chunk, ascending, by one listing."""
        self._present[node] = self.tree.present_blocks(node)
        return [block for block in range(self.num_blocks) if block not in self._present[node]]

    def _require(self, node: str, blocks: Iterable[int]) -> None:
        """Raise ``MissingBlockError`` unless all of these blocks are there."""
        wanted = set(blocks)
        if not wanted <= self._present.get(node, set()):
            with self._listing:  # threads that begin together ask once
                if not wanted <= self._present.get(node, set()):
                    self.missing(node)
        if absent := sorted(wanted - self._present.get(node, set())):
            raise MissingBlockError(
                f"Block {absent[0]} of {node} in {self.path} has not been made yet ({len(absent)} of the blocks asked "
                "for are missing): rerun the command that makes it (dmkd generate, import or label); "
                "if that finds nothing to do, run `dmkd verify --repair` first."
            )

    # Reading

    def read(self, node: str, ids: np.ndarray) -> np.ndarray:
        """Rows (n, ...) of ids int64 (n,), as they are stored. Raises ``UsageError`` for ids out of range,
        ``MissingBlockError``, ``DamagedChunkError``."""
        return self._gather(node, ids, self.decoded)

    def read_small(self, node: str, ids: np.ndarray) -> np.ndarray:
        """As :meth:`read`, of an array whose chunks are worth keeping in memory."""
        return self._gather(node, ids, self._kept_block)

    def read_block(self, node: str, block: int) -> np.ndarray:
        """All rows of a block, as they are stored. Raises ``MissingBlockError``, ``DamagedChunkError``."""
        self._require(node, [block])
        return self.decoded(node, block)

    def decoded(self, node: str, block: int) -> np.ndarray:
        """As :meth:`read_block`, of a block that is known to be there."""
        try:
            return self.tree.read_block(node, block)
        except DamagedMetadataError:
            raise
        except (ValueError, RuntimeError) as error:
            raise damaged_chunk(self.tree.chunk_path(node, block), str(error)) from error

    def _gather(self, node: str, ids: np.ndarray, read: Callable[[str, int], np.ndarray]) -> np.ndarray:
        if ids.size and (ids.min() < 0 or ids.max() >= self.num_images):
            bad = ids[(ids < 0) | (ids >= self.num_images)][0]
            raise UsageError(f"{self.path} has image ids 0 to {self.num_images - 1}; there is no image {bad}.")
        places = dict(by_block(ids, self.block_size))
        self._require(node, places)
        rows = np.empty((len(ids), *self.shape(node)[1:]), self.dtype(node))

        def take(block: int) -> None:
            wanted = places[block]
            rows[wanted] = read(node, block)[ids[wanted] - block * self.block_size]

        self.tree.for_each(take, places)
        return rows

    def _kept_block(self, node: str, block: int) -> np.ndarray:
        rows = self.kept.get(node, block)
        if rows is None:
            rows = self.decoded(node, block)
            self.kept.put(node, block, rows)
        return rows

    def refuse(self, nodes: tuple[str, ...], ids: np.ndarray, wrong: np.ndarray) -> None:
        """Raise ``DamagedChunkError`` if any row is ``wrong``, bool (n,). ``nodes``: the arrays that may be at fault,
        likeliest first."""
        if not wrong.any():
            return
        bad = int(ids[wrong][0])
        chunk = self.tree.chunk_path(nodes[0], bad // self.block_size)
        others = f" (or {', '.join(nodes[1:])} of this block)" if nodes[1:] else ""
        raise DamagedChunkError(
            f"Chunk {chunk}{others} does not hold what was written for image {bad}: it is damaged or belongs to another block or "
            "store. `dmkd verify --repair` finds and deletes what is broken, so that it can be made again."
        )

    # Writing

    def write(self, node: str, block: int, rows: np.ndarray) -> None:
        """Write a block's chunk; shape and dtype have been checked. Raises ``StoreWriteError`` if the disk fails."""
        try:
            self.tree.write_block(node, block, rows)
        except OSError as error:
            raise write_error(self.tree.chunk_path(node, block), error) from error

    def delete(self, node: str, block: int) -> None:
        """Delete a block's chunk: from then on it is missing."""
        self.tree.delete_block(node, block)
        self._present.get(node, set()).discard(block)


def by_block(ids: np.ndarray, block_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Ids int64 (n,) -> (block, positions in ``ids`` of its ids), block by block."""
    blocks = ids // block_size
    order = np.argsort(blocks, kind="stable")
    starts = np.flatnonzero(np.diff(blocks[order], prepend=-1))
    for places in np.split(order, starts[1:]) if len(ids) else ():
        yield int(blocks[places[0]]), places


def damaged_chunk(path: str, problem: str) -> DamagedChunkError:
    """The error for a chunk whose own bytes are wrong."""
    return DamagedChunkError(
        f"Chunk {path} is damaged ({problem}): run `dmkd verify --repair`, which deletes what is broken, then rerun the "
        "command that made it."
    )
