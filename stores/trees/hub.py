"""A store in a repository on the Hugging Face hub: Zarr's view of one commit, through huggingface_hub's file system.

Opening takes three requests, whatever is in the store: one for the commit, one for whether it exists (the file system's own),
one for a thousand files' names and sizes. After that a chunk, or a range of a shard, is one request, and what is not there none.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeAlias

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from .. import locations
from ..hub_repository import HubRepository

Names: TypeAlias = list[str]  # a store of zarr's has a method ``list``
Paths: TypeAlias = list[Path]


class HubCommit(Store):
    """The commit that ``hf://datasets/USER/NAME`` means when it is opened, a :class:`dmkd.stores.trees.place.Place`: what is
    pushed later is not seen.

    Zarr may open it for writing, like any other place: it is the attempt that is refused, in dmkd's words. Raises as
    :meth:`HubRepository.head` does.
    """

    reads_at_once = 16  # most of the time is spent waiting
    supports_writes = supports_deletes = supports_listing = True

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._repository = HubRepository(path)
        self.commit = self._repository.head()
        self._files = self._repository.files(self.commit)
        self._metadata: dict[str, bytes] = {}  # of nodes: asked for again and again, and a commit does not change
        self._folders: dict[str, dict[str, int]] = {"": {}}  # folder -> the names in it, bytes of those that are files
        for name, file in self._files.items():
            folder, _, last = name.rpartition("/")
            self._folders.setdefault(folder, {})[last] = file.size
            while folder:
                folder, _, last = folder.rpartition("/")
                self._folders.setdefault(folder, {}).setdefault(last, -1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HubCommit) and (self.path, self.commit) == (other.path, other.commit)

    def with_read_only(self, read_only: bool = False) -> "HubCommit":
        return self

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key not in self._files:
            return None
        return prototype.buffer.from_bytes(await asyncio.to_thread(self.read_bytes, key, *_bounds(byte_range)))

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        return await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges))

    async def exists(self, key: str) -> bool:
        return key in self._files

    async def set(self, key: str, value: Any) -> None:
        self._refuse()

    async def delete(self, key: str) -> None:
        self._refuse()

    async def list(self) -> AsyncIterator[str]:
        for name in self._files:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for name in self._files:
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in self.names(prefix):
            yield name

    @property
    def storage(self) -> "HubCommit":
        """What zarr is to open."""
        return self

    def taken(self) -> bool:
        """Whether there is anything at all."""
        return bool(self._files)

    def names(self, prefix: str) -> Names:
        """Names directly below a prefix."""
        return [*self._folders.get(prefix.rstrip("/"), {})]

    def sizes(self, prefix: str) -> dict[str, int]:
        """Name -> bytes of the files directly below a prefix."""
        return {name: size for name, size in self._folders.get(prefix.rstrip("/"), {}).items() if size >= 0}

    def partials(self) -> Paths:
        """None: a commit appears whole or not at all."""
        return []

    def read_bytes(self, key: str, start: int | None = None, stop: int | None = None) -> bytes | None:
        """A file, or these bytes of it; None if it is not there."""
        if key not in self._files:
            return None
        if not key.endswith("zarr.json"):
            return self._repository.read(self.commit, key, start, stop)
        if key not in self._metadata:
            self._metadata[key] = self._repository.read(self.commit, key)
        return self._metadata[key][start:stop]

    def write_bytes(self, key: str, content: bytes) -> None:
        self._refuse()

    def new_file(self, key: str) -> AbstractContextManager[BinaryIO]:
        self._refuse()

    def remove(self, key: str) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise locations.read_only(self.path)


def _bounds(wanted: Any) -> tuple[int | None, int | None]:
    """First byte and the one after the last, as :meth:`HfFileSystem.cat_file` takes them."""
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, wanted.end
    if isinstance(wanted, OffsetByteRequest):
        return wanted.offset, None
    return (-wanted.suffix, None) if isinstance(wanted, SuffixByteRequest) else (None, None)
