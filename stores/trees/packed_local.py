"""A packed array in a folder, which may be mapped."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np

from . import shards
from .folder import Folder
from .mapping import map_part, open_file
from .packed import DELETED, PackedArray, ShapeOfArray


class LocalPacked(PackedArray):
    """A packed array in a folder. Every look is at the files themselves, and an index is read again when its shard is another."""

    place: Folder

    def __init__(self, place: Folder, node: str, shape: ShapeOfArray) -> None:
        super().__init__(place, node, shape)
        self._indices: dict[int, tuple[tuple[int, int, int], np.ndarray]] = {}

    def has(self, block: int) -> bool:
        try:
            with self._found(block) as found:
                return found is not None
        except ValueError:
            return True  # damaged, which is found out when it is read

    def read(self, block: int) -> bytes | None:
        with self._found(block) as found:
            return None if found is None else os.pread(found.file, found.length, found.start)

    def mapped(self, block: int) -> np.ndarray | None:
        """A block's chunk, uint8, mapped from its file; None if it is missing."""
        with self._found(block) as found:
            if found is None:
                return None
            return map_part(*found)

    class _Found(NamedTuple):
        file: int
        start: int
        length: int

    @contextmanager
    def _found(self, block: int) -> Iterator[_Found | None]:
        """Where a block's chunk is: the open file, start and length."""
        loose = open_file(self._path(self.loose_key(block)))
        if loose is not None:
            try:
                length = os.fstat(loose).st_size
                deleted = length == len(DELETED) and os.pread(loose, length, 0) == DELETED
                yield None if deleted else self._Found(loose, 0, length)
            finally:
                os.close(loose)
            return
        shard, place = divmod(block, self.shape.blocks_per_shard)
        file = open_file(self._path(self.shard_key(shard)))
        if file is None:
            yield None
            return
        try:
            start, length = self._index_of(shard, file)[place].tolist()
            yield None if start == shards.ABSENT else self._Found(file, start, length)
        finally:
            os.close(file)

    def fold(
        self, chunk_is_sound: Callable[[bytes], bool], only_full: bool, advance: Callable[[int], object]
    ) -> list[int]:
        """One process at a time: of two that write a shard, the later one would undo what the earlier one folded."""
        with open(self._path(f"{self.node}/zarr.json"), "r+") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            return super().fold(chunk_is_sound, only_full, advance)

    def forget(self) -> None:
        self._indices.clear()

    def _index(self, shard: int, size: int) -> np.ndarray:
        file = open_file(self._path(self.shard_key(shard)))
        if file is None:
            raise ValueError("the shard is gone")
        try:
            return self._index_of(shard, file)
        finally:
            os.close(file)

    def _index_of(self, shard: int, file: int) -> np.ndarray:
        facts = os.fstat(file)
        version = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        kept = self._indices.get(shard)
        if kept is None or kept[0] != version:
            length = shards.index_bytes(self.shape.blocks_per_shard)
            content = os.pread(file, length, max(0, facts.st_size - length))
            kept = self._indices[shard] = (
                version,
                shards.parse_index(content, self.shape.blocks_per_shard, facts.st_size),
            )
        return kept[1]

    def _path(self, key: str) -> str:
        return f"{self.place.path}/{key}"
