"""A file that changes as a whole or not at all, however its writer ends: what HDF5 does not offer, below HDF5.

HDF5 reads and writes through :class:`Changes`, which keeps every write in memory. :meth:`Changes.commit` then

1. appends what lies past the file's old end: nothing refers to it yet;
2. writes all that changes below it, with its crc32c, to ``<path>.journal``, which appears whole (it is renamed);
3. makes these changes in the file, the number of the commit first, and deletes the journal.

If the writer is killed before step 2 is over, the file is the old one; after it, whoever opens it next does step 3
(:func:`settle`).
Each step is on the disk (fsync) before the next one begins. Writers take turns by a lock on the file, the one that
HDF5 takes itself; readers take none: they see from the number of commits that something changed, and read again.

HDF5 ignores the first 512 bytes (its "user block"): a mark, a random id, the number of commits.
"""

import fcntl
import io
import os
import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import google_crc32c

from ..errors import StoreError, StoreWriteError, UsageError

USER_BLOCK = 512
MARK = b"dmkd\r\n\x1a\n"
_HEADER = struct.Struct("<8s16sQ")  # mark, id, commits
_JOURNAL = struct.Struct("<8s16sQQI")  # mark, id, commits, size of the file, number of changes
_CHANGE = struct.Struct("<QQ")  # offset, length
LOCK_SECONDS = 60.0  # a commit takes less than a second


class Version(NamedTuple):
    """Which file this is, and how often it has been changed."""

    id: bytes
    commits: int


def is_marked(path: str) -> bool:
    """Whether the path holds a file that this module wrote."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MARK)) == MARK
    except OSError:
        return False


def read_version(descriptor: int) -> Version | None:
    """The version of an open file; None if something else wrote it: it can be read but not changed."""
    header = os.pread(descriptor, _HEADER.size, 0)
    if len(header) < _HEADER.size or not header.startswith(MARK):
        return None
    return Version(*_HEADER.unpack(header)[1:])


class Snapshot(io.RawIOBase):
    """An open file as h5py's ``fileobj`` driver wants it, read-only."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, 0
        self._size = os.fstat(descriptor).st_size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and (count := os.preadv(self._descriptor, [view[done:]], self._at + done)):
            done += count
        self._at += done
        return done


class Changes(Snapshot):
    """The same, but writable: writes are kept in memory until :meth:`commit`."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._old_size = self._size
        self._writes: list[tuple[int, bytes]] = []  # later ones win

    def readinto(self, buffer: Any) -> int:
        view, start = memoryview(buffer).cast("B"), self._at
        count = max(0, min(len(view), self._size - start))
        done = super().readinto(view[:count])
        view[done:count] = bytes(count - done)
        for offset, content in self._writes:
            low, high = max(start, offset), min(start + count, offset + len(content))
            if low < high:
                view[low - start : high - start] = content[low - offset : high - offset]
        self._at = start + count
        return count

    def write(self, content: Any) -> int:
        kept = bytes(content)
        self._writes.append((self._at, kept))
        self._at += len(kept)
        self._size = max(self._size, self._at)
        return len(kept)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._at if size is None else size
        return self._size

    def flush(self) -> None:
        """Does nothing: only the commit counts."""

    def commit(self, path: str, version: Version) -> Version:
        """Make the changes in the file at ``path``, which is locked and of this version -> its new version.

        Raises ``OSError`` if the disk fails; the file is then as it was, or becomes the new one when it is opened next.
        """
        new = Version(version.id, version.commits + 1)
        head, tail = self._split()
        try:
            for offset, content in tail:
                _write_at(self._descriptor, offset, content)
            if tail:
                os.fsync(self._descriptor)
            _write_journal(path, new, self._size, [(0, _HEADER.pack(MARK, *new)), *head])
        except BaseException:
            if not os.path.exists(_journal(path)):  # otherwise the change is certain to happen
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._old_size)
            raise
        _replay(path, self._descriptor)
        return new

    def _split(self) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
        """The writes below the old end of the file, and those past it."""
        head, tail = [], []
        for offset, content in self._writes:
            below = max(0, min(len(content), self._old_size - offset))
            if below:
                head.append((offset, content[:below]))
            if content[below:]:
                tail.append((offset + below, content[below:]))
        return head, tail

    def save_new(self, path: str) -> None:
        """Make a new file from what was written. It appears whole."""
        with suppress(FileNotFoundError):
            os.unlink(_journal(path))  # of a file that has been deleted
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        partial = f"{path}.partial"
        with open(partial, "wb") as file:
            for offset, content in self._writes:
                _write_at(file.fileno(), offset, content)
            _write_at(file.fileno(), 0, _HEADER.pack(MARK, uuid.uuid4().bytes, 1))
            os.ftruncate(file.fileno(), self._size)
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path)


@contextmanager
def new_file() -> Iterator[Changes]:
    """A target for HDF5 to write a new file to; :meth:`Changes.save_new` puts it on the disk."""
    with open(os.devnull, "rb") as nothing:
        yield Changes(nothing.fileno())


@contextmanager
def locked(path: str) -> Iterator[tuple[int, Version]]:
    """The file at ``path``, open for writing by this process alone, and its version. A change that a killed writer left
    half done is finished first."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except (PermissionError, IsADirectoryError) as error:
        raise StoreWriteError(f"{path} can't be written: {error.strerror}.") from error
    try:
        _lock(path, descriptor)
        if os.path.exists(_journal(path)):
            _replay(path, descriptor)
        version = read_version(descriptor)
        if version is None:
            raise UsageError(
                f"{path} was written by another program, so dmkd reads it but does not change it: `dmkd convert` makes a "
                "copy that can be changed."
            )
        yield descriptor, version
    finally:
        os.close(descriptor)  # and with it the lock


def settle(path: str) -> None:
    """If the file is being changed, wait for that to end; if its writer was killed meanwhile, finish the change."""
    if os.path.exists(_journal(path)):
        with locked(path):
            pass


def _lock(path: str, descriptor: int) -> None:
    if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0"):
        return
    give_up_at = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                raise StoreError(
                    f"{path} is locked: another program (h5py in a notebook, say) has it open. Close it there, then rerun "
                    "the same command."
                ) from None
            time.sleep(0.02)
        except OSError as error:
            raise StoreError(
                f"{path} is on a file system without file locks ({error.strerror}), which HDF5 needs: use a Zarr store "
                "there and `dmkd convert` it, or set HDF5_USE_FILE_LOCKING=FALSE and let only one process write."
            ) from error


def _journal(path: str) -> str:
    return f"{path}.journal"


def _write_journal(path: str, version: Version, size: int, changes: list[tuple[int, bytes]]) -> None:
    parts = [_JOURNAL.pack(MARK, *version, size, len(changes))]
    for offset, content in changes:
        parts += [_CHANGE.pack(offset, len(content)), content]
    content = b"".join(parts)
    partial = f"{_journal(path)}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.write(struct.pack("<I", google_crc32c.value(content)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, _journal(path))
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    _sync_folder(path)


def _replay(path: str, descriptor: int) -> None:
    """Make the changes that the journal holds. Doing it twice is harmless."""
    with open(_journal(path), "rb") as file:
        content = file.read()
    body = content[:-4]
    found = read_version(descriptor)
    if len(content) < _JOURNAL.size or google_crc32c.value(body) != int.from_bytes(content[-4:], "little"):
        raise StoreError(f"{_journal(path)} is damaged, so {path} can't be recovered: restore both from a backup.")
    _, file_id, commits, size, count = _JOURNAL.unpack_from(body)
    if found is None or found.id != file_id or not commits - 1 <= found.commits <= commits:
        raise StoreError(
            f"{_journal(path)} belongs to another file than {path}: delete it, or restore the file it belongs to."
        )
    at = _JOURNAL.size
    for _ in range(count):
        offset, length = _CHANGE.unpack_from(body, at)
        at += _CHANGE.size
        _write_at(descriptor, offset, body[at : at + length])
        at += length
    os.ftruncate(descriptor, size)
    os.fsync(descriptor)
    os.unlink(_journal(path))


def _write_at(descriptor: int, offset: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def _sync_folder(path: str) -> None:
    """Make sure that a renamed file stays renamed."""
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
