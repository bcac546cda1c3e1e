"""One array of blocks in Zarr, loose or packed, as it was when it was opened."""

import sys
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import zarr
from zarr.core.metadata import ArrayV3Metadata

from .. import locations
from . import shards
from .decoding import decode_chunk
from .folder import Folder
from .mapping import map_file
from .packed import LOOSE_NAME, SHARD_NAME, PackedArray, ShapeOfArray
from .packed_local import LocalPacked
from .packed_remote import KeptSpans, RemotePacked
from .plain_chunks import is_plain

if TYPE_CHECKING:
    from .place import Place


class ZarrArray:
    """The blocks of the array at ``node``. Threads may share it.

    ``packed``: its shards, and the blocks beside them; None if it is loose. ``kept``: parts of shards that are in memory.
    """

    def __init__(self, place: "Place", node: str, found: zarr.Array, kept: KeptSpans) -> None:
        """``found``: as zarr opens it."""
        self.place, self.node = place, node
        metadata, blocks_per_shard = found.metadata, None
        if isinstance(metadata, ArrayV3Metadata):
            blocks_per_shard = shards.blocks_per_shard(metadata.to_dict())
        if blocks_per_shard:
            loose = ArrayV3Metadata.from_dict(shards.as_loose(found.metadata.to_dict()))
            found = zarr.Array(zarr.AsyncArray(loose, found.store_path))
        # Chunks full of the fill value must be written too: an all-black block is done, not missing.
        # open_array(config=...) is silently ignored on an existing array in zarr 3.1.6; with_config works.
        self.loose = found.with_config({"write_empty_chunks": True})  # zarr's array of the loose blocks
        self.block_size = found.chunks[0]
        self.packed = self._open_packed(blocks_per_shard, kept) if blocks_per_shard else None

    def _open_packed(self, blocks_per_shard: int, kept: KeptSpans) -> PackedArray:
        shape = ShapeOfArray.of(self.loose, blocks_per_shard)
        if isinstance(self.place, Folder):
            return LocalPacked(self.place, self.node, shape)
        return RemotePacked(self.place, self.node, shape, kept)

    @cached_property
    def plain(self) -> bool:
        """Whether chunks are plain, see plain_chunks.py."""
        return is_plain(self.loose)

    @property
    def has_plain_files(self) -> bool:
        """Whether chunks are in local files as rows are in memory here."""
        native = sys.byteorder == "little" or self.loose.dtype.itemsize == 1
        return isinstance(self.place, Folder) and self.plain and native

    # Blocks

    def present(self) -> set[int] | None:
        """Blocks whose chunk is there; None if the array has been packed since it was opened."""
        if self.packed:
            return self.packed.present()
        names = self.place.names(self.node)
        if any(map(SHARD_NAME.fullmatch, names)):
            return None
        return {int(match[1]) for name in names if (match := LOOSE_NAME.fullmatch(name))}

    def chunk_bytes(self) -> dict[int, int]:
        """Block -> bytes of its chunk, of those that are there."""
        if self.packed:
            return self.packed.chunk_bytes()
        sizes = self.place.sizes(self.node)
        return {int(match[1]): size for name, size in sizes.items() if (match := LOOSE_NAME.fullmatch(name))}

    def write(self, block: int, rows: np.ndarray) -> None:
        """Write a block's rows as one chunk, atomically."""
        start = block * self.block_size
        try:
            self.loose[start : start + len(rows)] = rows
        except FileNotFoundError:
            # Another process, starting or ending on this store, took our temporary file for a dead writer's.
            self.loose[start : start + len(rows)] = rows
        if self.packed:
            self.packed.forget()

    def read(self, block: int) -> np.ndarray:
        """The rows of a block. Raises ``ValueError`` if its chunk is damaged, or for one that is missing in a place where there
        would not be fill values."""
        if self.packed:
            try:
                return self._decoded(block, self.packed.read(block))
            except ValueError:  # perhaps another process made new shards since we looked
                self.packed.forget()
                return self._decoded(block, self.packed.read(block))
        if not isinstance(self.place, Folder):
            return self._decoded(block, self.chunk(block))
        start = block * self.block_size
        return np.asarray(self.loose[start : start + self.block_size])

    def chunk(self, block: int) -> bytes | None:
        """A block's chunk as it is stored; None if it is missing."""
        return self.packed.read(block) if self.packed else self.place.read_bytes(self.key(block))

    def mapped(self, block: int) -> np.ndarray | None:
        """A block's chunk, uint8, mapped from its file; None if it is missing."""
        if isinstance(self.packed, LocalPacked):
            return self.packed.mapped(block)
        return map_file(locations.join(self.place.path, self.key(block)))

    def is_file(self, block: int) -> bool:
        """Whether a block's chunk is, or would be, a file of its own."""
        return self.packed is None or block in self.packed.loose()

    def key(self, block: int) -> str:
        """The name of a loose block."""
        return f"{self.node}/c." + ".".join([str(block)] + ["0"] * (self.loose.ndim - 1))

    def path(self, block: int) -> str:
        """Where a block's chunk is, for messages."""
        if self.packed is None or self.is_file(block):
            return locations.join(self.place.path, self.key(block))
        shard = self.packed.shard_key(block // self.packed.shape.blocks_per_shard)
        return f"{locations.join(self.place.path, shard)} (block {block})"

    def _decoded(self, block: int, chunk: bytes | None) -> np.ndarray:
        """The rows of a chunk."""
        if chunk is None:
            raise ValueError("there is no such block")
        return decode_chunk(chunk, self.loose, block)
