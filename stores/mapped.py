"""Rows straight from files: a local, uncompressed chunk, in a file of its own or in a shard, is its block's rows in C order, then
their crc32c.

Mapped into memory, rows are read at the speed of memory and without a copy in between, in any order; Zarr decodes whole
chunks. What Zarr would have checked is checked here: a block's checksum at its first touch. Nothing here writes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import google_crc32c
import numpy as np

from .chunks import Chunks, damaged_chunk
from .errors import MissingBlockError

CHECKSUM_BYTES = 4
DEFAULT_MAX_MAPS = 65_530  # Linux's default, for where the limit can't be read


class MappedBlocks(ABC):
    """Rows of blocks that are mapped into memory when they are first touched. Read-only; threads may share it.

    At most ``max_maps`` blocks stay mapped: a process may hold 65,530 maps on Linux, and ImageNet takes 20,000 an array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, block_size: int, max_maps: int = 2**30) -> None:
        self.shape, self.dtype, self.block_size, self.max_maps = shape, dtype, block_size, max_maps
        self._row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        self._blocks: dict[int, np.ndarray] = {}

    def block(self, block: int) -> np.ndarray:
        """The rows of a block, (B, ...), read-only; past the array's end the last block may hold fill values.

        Raises what :meth:`read` raises.
        """
        rows = self._blocks.get(block)
        if rows is None:
            rows = self.read(block)
            self._stay_mapped(block, rows)
        return rows

    def _stay_mapped(self, block: int, rows: np.ndarray) -> None:
        while len(self._blocks) >= self.max_maps:  # the oldest goes; whoever still reads it keeps it mapped
            self._blocks.pop(next(iter(self._blocks)), None)
        self._blocks[block] = rows

    @abstractmethod
    def read(self, block: int) -> np.ndarray:
        """The same rows, verified, and not kept: for callers that copy them."""

    def take(self, ids: np.ndarray, out: np.ndarray, view: np.ndarray | None = None) -> None:
        """Copy the rows of int64 ``ids`` (n,) to ``out`` (n, ...), or of each row only ``view`` (n,), an index of axis 1.

        Neighbouring ids of one block are copied in one go, so sorted ids are faster. numpy releases the GIL
        while it copies.
        """
        blocks = ids // self.block_size
        rows = ids - blocks * self.block_size
        if view is not None:
            rows = rows * self.shape[1] + view
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        stops = [*starts[1:].tolist(), len(ids)]
        for start, stop, block in zip(starts.tolist(), stops, blocks[starts].tolist(), strict=True):
            source = self.block(block)
            if view is not None:
                source = source.reshape(-1, *source.shape[2:])
            # "raise" would go through a buffer; the ids are known to exist. (np.take is this, three calls further down.)
            source.take(rows[start:stop], 0, out[start:stop], "clip")


class MappedArray(MappedBlocks):
    """One array of a store whose chunks are in files as they are in memory."""

    def __init__(
        self,
        chunks: Chunks,
        node: str,
        max_maps: int = 2**30,
        prove: Callable[[np.ndarray, np.ndarray], object] | None = None,
    ) -> None:
        """``prove`` is called with a block's ids int64 (n,) and rows (n, ...) at its first touch, instead of comparing the
        chunk's checksum, and raises ``DamagedChunkError`` if the rows do not belong to these ids: misplaced chunks are
        found too."""
        if not can_be_mapped(chunks, node):
            raise ValueError(f"{node} of {chunks.path} is not a local array of uncompressed chunks")
        super().__init__(chunks.shape(node), chunks.dtype(node), chunks.block_size, max_maps)
        self.node, self._chunks, self._prove = node, chunks, prove
        self._verified = np.zeros(chunks.num_blocks, bool)

    def read(self, block: int) -> np.ndarray:
        """The rows of a block as stored, verified at the first touch.

        Raises ``MissingBlockError`` if there is no such chunk, ``DamagedChunkError`` if its size or, at the first
        touch, its checksum is wrong.
        """
        count = self.block_size * self._row_bytes
        tree = self._chunks.tree
        try:
            content = tree.mapped_chunk(self.node, block)
        except FileNotFoundError as error:
            raise MissingBlockError(
                f"Block {block} of {self.node} in {self._chunks.path} has not been made yet: rerun the command that makes "
                "it (dmkd generate, import or label)."
            ) from error
        except ValueError as error:
            raise damaged_chunk(tree.chunk_path(self.node, block), str(error)) from error
        if len(content) != count + CHECKSUM_BYTES:
            problem = f"it has {len(content):,} bytes, not {count + CHECKSUM_BYTES:,}"
            raise damaged_chunk(tree.chunk_path(self.node, block), problem)
        rows = content[:count].view(self.dtype).reshape(self.block_size, *self.shape[1:])
        if not self._verified[block]:
            if self._prove:
                ids = np.array(self._chunks.block_ids(block))
                self._prove(ids, rows[: len(ids)])
            elif google_crc32c.value(content[:count]) != int.from_bytes(content[count:].tobytes(), "little"):
                raise damaged_chunk(tree.chunk_path(self.node, block), "stored and computed checksum do not match")
            self._verified[block] = True
        return rows


def can_be_mapped(chunks: Chunks, node: str) -> bool:
    """Whether an array's chunks are local files that hold its rows as they are, each followed by its crc32c."""
    return chunks.tree.has_plain_files(node)


def block_reader(chunks: Chunks, nodes: Iterable[str]) -> Callable[[str, int], np.ndarray]:
    """What reads a block of one of these arrays as it is stored, the fastest way there is: (node, block) -> (B, ...) or, of the
    last block, fewer rows. Raises ``MissingBlockError``, ``DamagedChunkError``."""
    mapped = {node: MappedArray(chunks, node) for node in nodes if can_be_mapped(chunks, node)}

    def read(node: str, block: int) -> np.ndarray:
        rows = np.array(mapped[node].read(block)) if node in mapped else chunks.decoded(node, block)
        return rows[: len(chunks.block_ids(block))]

    return read


def map_limit() -> int:
    """Maps that the arrays of one loader may hold together: half of what the process is allowed."""
    try:
        with open("/proc/sys/vm/max_map_count") as file:
            return int(file.read()) // 2
    except (OSError, ValueError):
        return DEFAULT_MAX_MAPS // 2
