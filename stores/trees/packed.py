"""The blocks of a packed array: in shards (:mod:`dmkd.stores.trees.shards`), and beside them loose ones, which take precedence.

What is written or deleted after an array was packed is loose: a file ``c.<block>.0.0.0`` with the block's chunk, or with
:data:`DELETED`. So nobody ever changes a shard but :meth:`PackedArray.fold`, which makes new ones of the loose blocks and
what is in the old ones; all others may write at the same time, as they may write loose arrays.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import shards
from .place import Place
from .plain_chunks import is_plain, plain_bytes

if TYPE_CHECKING:
    import zarr

LOOSE_NAME = re.compile(r"c\.(\d+)(?:\.0)*")
SHARD_NAME = re.compile(r"(\d+)(?:\.0)*")
DELETED = b"deleted"  # in place of a chunk: the block is missing, whatever its shard holds


class ShapeOfArray(NamedTuple):
    """What a packed array's metadata say of its blocks."""

    blocks: int
    blocks_per_shard: int
    ending: str  # of chunk and shard names: ".0.0.0"
    chunk_bytes: int | None  # of every chunk, where they are all of one size

    @classmethod
    def of(cls, array: "zarr.Array", blocks_per_shard: int) -> "ShapeOfArray":
        """Of an array, opened as one of loose blocks."""
        blocks = -(-array.shape[0] // array.chunks[0])
        chunk_bytes = plain_bytes(array) if is_plain(array) else None
        return cls(blocks, blocks_per_shard, ".0" * (array.ndim - 1), chunk_bytes)


class Listing(NamedTuple):
    """What is in an array's folder, with sizes in bytes."""

    loose: dict[int, int]
    deleted: set[int]
    shards: dict[int, int]

    def loose_state(self, block: int) -> tuple[bool, int | None]:
        return block in self.deleted, self.loose.get(block)


class PackedArray(ABC):
    """The blocks of one packed array. Threads may share it. Raises ``ValueError`` for damage, ``OSError`` or a ``StoreError``
    where the disk or the bucket fails."""

    def __init__(self, place: Place, node: str, shape: ShapeOfArray) -> None:
        self.place, self.node, self.shape = place, node, shape

    # Which blocks are there

    def present(self) -> set[int]:
        """Blocks that are there; those of a shard whose index is damaged count, and are found damaged when they are read."""
        listing = self._list()
        blocks = set(listing.loose)
        for shard, size in listing.shards.items():
            blocks.update(self._blocks_of(shard, size))
        return blocks - listing.deleted

    def chunk_bytes(self) -> dict[int, int]:
        """Block -> bytes of its chunk."""
        listing = self._list()
        found: dict[int, int] = {}
        for shard, size in listing.shards.items():
            first = shard * self.shape.blocks_per_shard
            if self.shape.chunk_bytes is not None:
                found |= dict.fromkeys(self._blocks_of(shard, size), self.shape.chunk_bytes)
                continue
            try:
                index = self._index(shard, size)
            except ValueError:
                found |= dict.fromkeys(self._blocks_of(shard, size), 0)
                continue
            found |= {first + place: int(index[place, 1]) for place in shards.blocks_in(index).tolist()}
        found |= listing.loose
        return {block: size for block, size in sorted(found.items()) if block not in listing.deleted}

    def loose(self) -> set[int]:
        """Blocks that the next :meth:`fold` puts into a shard, or takes out of one."""
        listing = self._list()
        return set(listing.loose) | listing.deleted

    def has(self, block: int) -> bool:
        listing = self._list()
        if block in listing.loose or block in listing.deleted:
            return block in listing.loose
        shard = block // self.shape.blocks_per_shard
        return shard in listing.shards and block in self._blocks_of(shard, listing.shards[shard])

    # Reading and deleting

    @abstractmethod
    def read(self, block: int) -> bytes | None:
        """A block's chunk as it is stored; None if it is missing."""

    def delete(self, block: int) -> None:
        shard = block // self.shape.blocks_per_shard
        listing = self._list()
        if shard in listing.shards and block in self._blocks_of(shard, listing.shards[shard]):
            self.place.write_bytes(self.loose_key(block), DELETED)
        elif block in listing.loose:
            self.place.remove(self.loose_key(block))
        self.forget()

    @abstractmethod
    def forget(self) -> None:
        """Another look at what there is, at the next read."""

    # Packing

    def fold(
        self, chunk_is_sound: Callable[[bytes], bool], only_full: bool, advance: Callable[[int], object]
    ) -> list[int]:
        """Put loose blocks into shards -> those that are damaged: their shards stay as they are.

        ``only_full``: leave shards alone whose blocks are not all there yet. ``advance`` is told numbers of blocks. A kill
        leaves every block in one place or in both, equal.
        """
        listing = self._list()
        waiting: dict[int, list[int]] = {}
        for block in sorted(listing.deleted.union(listing.loose)):
            waiting.setdefault(block // self.shape.blocks_per_shard, []).append(block)

        def read(block: int) -> bytes | None:
            chunk = self.read(block)
            if chunk is None and block in listing.loose:
                raise _FoldedError
            return chunk

        present = self.present() if only_full else set()
        damaged: list[int] = []
        for shard, blocks in waiting.items():
            if only_full and not present.issuperset(self._blocks(shard)):
                continue
            try:
                self._write_shard(shard, read, chunk_is_sound)
            except _DamagedError as error:
                damaged.append(error.block)
                continue
            except _FoldedError:
                self.forget()
                continue
            now = self._list()
            for block in blocks:
                if now.loose_state(block) == listing.loose_state(block):  # else somebody has just made it
                    self.place.remove(self.loose_key(block))
            self.forget()
            advance(len(blocks))
        return damaged

    def fill(
        self, sizes: Mapping[int, int], read: Callable[[int], bytes | None], chunk_is_sound: Callable[[bytes], bool]
    ) -> Iterator[int]:
        """Write all shards of another array's chunks: ``sizes`` are those of its blocks that are there, ``read`` gives them. A
        shard that has blocks of the same sizes already stays. Yields numbers of blocks; ``ValueError`` if one is damaged."""
        there = self.chunk_bytes()
        for shard in range(-(-self.shape.blocks // self.shape.blocks_per_shard)):
            blocks = self._blocks(shard)
            wanted = {block: sizes[block] for block in blocks if block in sizes}
            if wanted != {block: there[block] for block in blocks if block in there}:
                try:
                    self._write_shard(shard, read, chunk_is_sound)
                except _DamagedError as error:
                    raise ValueError(f"block {error.block} of {self.node} is damaged") from error
                self.forget()
            yield len(wanted)

    def _write_shard(
        self, shard: int, read: Callable[[int], bytes | None], chunk_is_sound: Callable[[bytes], bool]
    ) -> None:
        def chunks() -> Iterator[bytes | None]:
            for block in self._blocks(shard):
                try:
                    chunk = read(block)
                except ValueError as error:
                    raise _DamagedError(block) from error
                if chunk is not None and not chunk_is_sound(chunk):
                    raise _DamagedError(block)
                yield chunk
            for _ in range(self.shape.blocks_per_shard - len(self._blocks(shard))):
                yield None

        with suppress(_EmptyError), self.place.new_file(self.shard_key(shard)) as file:
            if not shards.write_shard(file, chunks()):
                raise _EmptyError
            return
        self.place.remove(self.shard_key(shard))

    def _blocks(self, shard: int) -> range:
        """The blocks of a shard; of the last one, as far as the array goes."""
        first = shard * self.shape.blocks_per_shard
        return range(first, min(first + self.shape.blocks_per_shard, self.shape.blocks))

    # Names

    def loose_key(self, block: int) -> str:
        return f"{self.node}/c.{block}{self.shape.ending}"

    def shard_key(self, shard: int) -> str:
        return f"{self.node}/{shard}{self.shape.ending}"

    # Below: listings and indices

    def _list(self) -> Listing:
        """What is there now."""
        found = Listing({}, set(), {})
        for name, size in self.place.sizes(self.node).items():
            if match := LOOSE_NAME.fullmatch(name):
                block = int(match[1])
                if size == len(DELETED) and self.place.read_bytes(self.loose_key(block)) == DELETED:
                    found.deleted.add(block)
                else:
                    found.loose[block] = size
            elif match := SHARD_NAME.fullmatch(name):
                found.shards[int(match[1])] = size
        return found

    def _blocks_of(self, shard: int, size: int) -> set[int]:
        """The blocks of a shard. Where all chunks are of one size, a full shard's own size says that it is full: no index is
        read."""
        whole = self._blocks(shard)
        per_shard, of_chunk = self.shape.blocks_per_shard, self.shape.chunk_bytes
        if of_chunk is not None and whole and size == shards.full_bytes(len(whole), of_chunk, per_shard):
            return set(whole)
        try:
            return {whole.start + place for place in shards.blocks_in(self._index(shard, size)).tolist()}
        except ValueError:
            return set(whole)

    @abstractmethod
    def _index(self, shard: int, size: int) -> np.ndarray:
        """The index of a shard of ``size`` bytes."""


class _EmptyError(Exception):
    """A shard has no block."""


class _FoldedError(Exception):
    """Another process has put a loose block into its shard meanwhile."""


class _DamagedError(Exception):
    def __init__(self, block: int) -> None:
        self.block = block
