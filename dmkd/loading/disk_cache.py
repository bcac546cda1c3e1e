"""Blocks of a store that can't be mapped (in a bucket, or compressed), kept on a local disk in a form that can.

A block's rows are a file: the rows as they are in memory, then a crc32c over the store and its state, array, block and rows,
which is compared when a process first touches the file. Rows were proved to be their images' before they were kept. Where the
checksum is another, since the store has changed or the file is damaged, they are proved by the store's checks, or read again.
"""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np

from dmkd.loading.cache_folder import CacheFolder
from dmkd.loading.columns import VIEWS, Column
from dmkd.recipes.randomness import key64, mix64
from dmkd.runtime.space import byte_size
from dmkd.stores import DamagedChunkError, Store, StoreError
from dmkd.stores.identity import fingerprint
from dmkd.stores.mapped import MappedBlocks, map_limit
from dmkd.stores.trees.mapping import map_file

FILES_A_FOLDER = 1000
CHECKSUM_BYTES = 4


class DiskCache:
    """What is kept of one store, for one loader. Threads may share it; so may processes the folder.

    ``columns`` are those that can't be mapped where they are; ``blocks`` int64 (n,) all that will be read. ``notice`` gets a
    sentence where not all of them can be kept.
    """

    def __init__(
        self,
        store: Store,
        columns: Sequence[Column],
        blocks: np.ndarray,
        folder: Path,
        limit: int | None,
        notice: Callable[[str], None],
    ) -> None:
        self.store, self._notice = store, notice
        self.state = _state(store.attributes)  # as it was when it was opened
        block_bytes = sum(store.block_size * column.row_bytes + CHECKSUM_BYTES for column in columns)
        self._folder = CacheFolder(folder, _name(store), block_bytes * len(blocks), limit)
        kept = blocks
        if self._folder.budget < block_bytes * len(blocks):
            kept = _some(blocks, self._folder.budget // block_bytes)
            notice(
                f"The cache {folder} has room for {len(kept):,} of {len(blocks):,} blocks of {store.path} "
                f"({byte_size(self._folder.budget)} of {byte_size(block_bytes * len(blocks))}): the others are read from "
                "the store in each epoch."
            )
        each = map_limit() // max(1, len(columns))
        self.is_full = False  # no more is kept
        self.columns: Mapping[str, CachedColumn] = {
            column.name: CachedColumn(self, column, set(kept.tolist()), each) for column in columns
        }

    @property
    def path(self) -> Path:
        return self._folder.path

    def store_has_changed(self) -> bool:
        """One request: whether the store has changed since it was opened; then it is refreshed, and another cache is to be made
        of it. Raises ``StoreError`` if it is another store."""
        attributes = self.store.chunks.tree.attributes()
        if attributes.get("identity") != self.store.identity:
            raise StoreError(f"{self.store.path} is another store than it was when this run began: run it again.")
        if _state(attributes) == self.state:
            return False
        self.store.refresh()
        self.store.chunks.tree.look_again()
        self._folder.close()
        return True

    def full(self, error: OSError) -> None:
        """The disk takes no more: said once."""
        if not self.is_full:
            self.is_full = True
            reason = error.strerror or str(error)
            self._notice(f"The cache {self.path.parent} can't be written ({reason}): the run goes on without it.")


class CachedColumn(MappedBlocks):
    """One column's blocks: from the cache, or from the store and then kept."""

    def __init__(self, cache: DiskCache, column: Column, kept: set[int], max_maps: int) -> None:
        """``kept``: the blocks that may be kept."""
        super().__init__(column.shape, column.dtype, cache.store.block_size, max_maps)
        self._cache, self._column, self._may_keep = cache, column, kept
        self._store = cache.store
        self._path = cache.path / column.node.replace("/", "--")
        self._there: set[int] = set()  # files known to be there
        self._verified: set[int] = set()  # read, and found to be what they should

    def block(self, block: int) -> np.ndarray:
        """As :meth:`read`. What is in the cache stays mapped: a second epoch finds its pages where the first left them."""
        rows = self._blocks.get(block)
        return self.read(block) if rows is None else rows

    def read(self, block: int) -> np.ndarray:
        """The rows of a block (n, ...), proved. Raises what reading the store raises."""
        rows = self._from_disk(block)
        if rows is None:
            rows = self._column.read(block)
            if block not in self._may_keep or self._cache.is_full or not self._keep(block, rows):
                return rows
            # Out of the page cache, where they are anyhow: a window then takes no memory of its own.
            kept, _ = self._on_disk(block)
            if kept is None:
                return rows
            rows = kept
        self._stay_mapped(block, rows)
        return rows

    def has_all(self, blocks: Iterable[int]) -> bool:
        """Whether all of these are on the disk."""
        blocks = set(blocks)
        if self._cache.is_full or not blocks <= self._may_keep:
            return False
        if not blocks <= self._there:
            self._there = self._list()
        return blocks <= self._there

    # Below: files

    def _list(self) -> set[int]:
        """Blocks whose files are there now."""
        return {int(name) for _, _, names in os.walk(self._path) for name in names if name.isdecimal()}

    def _from_disk(self, block: int) -> np.ndarray | None:
        """The rows, mapped; None if they are not there, damaged or no longer true."""
        rows, checksum = self._on_disk(block)
        if rows is None or block in self._verified:
            return rows
        content = rows.reshape(-1).view(np.uint8)
        if self._checksum(block, content) != checksum:  # damaged, or proved against another state of the store
            if not self._still_true(block, rows):
                return None
            with suppress(OSError):
                self._seal(block, content)
        self._verified.add(block)
        return rows

    def _on_disk(self, block: int) -> tuple[np.ndarray | None, bytes]:
        """The rows as they lie there, None if they do not, and their checksum."""
        try:
            content = map_file(str(self._file(block)))
        except (ValueError, OSError):
            content = None
        ids = self._store.block_ids(block)
        count = len(ids) * self._row_bytes
        if content is None or len(content) != count + CHECKSUM_BYTES:
            return None, b""
        return content[:count].view(self.dtype).reshape(len(ids), *self.shape[1:]), content[count:].tobytes()

    def _seal(self, block: int, content: np.ndarray) -> None:
        """Note that this is what the store holds as it is now."""
        with open(self._file(block), "r+b") as file:
            file.seek(len(content))
            file.write(self._checksum(block, content))

    def _still_true(self, block: int, rows: np.ndarray) -> bool:
        """Whether rows on the disk are what the store has now, by its checks."""
        ids, column = np.array(self._store.block_ids(block)), self._column
        try:
            if column.part == VIEWS:  # small, and proved by what is left out of them here
                return np.array_equal(column.read(block), rows)
            if column.label_set is None:
                column.prove(ids, rows)
                return True
            parts = [other for other in self._cache.columns.values() if other._column.label_set == column.label_set]
            arrays = {other._column.part: found for other in parts if (found := other._on_disk(block)[0]) is not None}
            if len(arrays) == len(parts):
                self._store.labels[column.label_set].prove(ids, arrays)
                return True
        except DamagedChunkError:
            pass
        return False

    def _keep(self, block: int, rows: np.ndarray) -> bool:
        """Whether it could be."""
        content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        try:
            self._write(self._file(block), content.data, self._checksum(block, content))
        except OSError as error:
            self._cache.full(error)
            return False
        self._there.add(block)
        self._verified.add(block)
        return True

    def _checksum(self, block: int, content: np.ndarray) -> bytes:
        place = f"{self._cache.path.name} {self._cache.state} {self._column.node} {block}".encode()
        return google_crc32c.extend(google_crc32c.value(place), content).to_bytes(CHECKSUM_BYTES, "little")

    def _file(self, block: int) -> Path:
        return self._path / str(block // FILES_A_FOLDER) / str(block)

    def _write(self, path: Path, *parts: bytes | memoryview) -> None:
        """A file that appears whole or not at all, whoever else writes it. Not synced: a crash of the machine may tear it, which
        its checksum tells."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                for part in parts:
                    file.write(part)
            os.replace(partial, path)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()


def _state(attributes: Mapping[str, object]) -> str:
    """What changes whenever a run has changed a store."""
    return fingerprint({key: attributes.get(key) for key in ("identity", "created", "updated")})


def _name(store: Store) -> str:
    """Of a store's folder: where it is, and what."""
    return fingerprint(
        {"path": os.fspath(store.path), "identity": store.identity, "created": store.attributes["created"]}
    )[:32]


def _some(blocks: np.ndarray, count: int) -> np.ndarray:
    """``count`` of these, the same ones in each process."""
    order = np.argsort(mix64(blocks.astype(np.uint64) ^ key64(0, "kept in a cache")), kind="stable")
    return blocks[order[:count]]
