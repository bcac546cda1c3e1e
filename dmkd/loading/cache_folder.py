"""A folder on a local disk that keeps blocks of several stores: who uses it, how much each may keep, who makes room.

Below the folder each store has one of its own. Whoever uses that holds a shared lock on its ``in-use`` file, which says how
many bytes it may take; what nobody has used for longest is deleted where there is not enough room. All of this happens at
opening, under one lock on the folder.
"""

import errno
import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from dmkd.runtime.space import free_disk
from dmkd.runtime.whole_files import sweep_partials, writing

SHARE_OF_FREE = 0.9  # of what is free on the disk, where no limit is given
IN_USE = "in-use"


class CacheFolder:
    """One store's part of the cache at ``folder``, under ``name``, in use for as long as this object is there.

    ``needed``: the bytes of all that would be kept; ``budget``: what may be, after others that nobody uses have made room.
    ``limit``: bytes of the whole cache, None: what is there and most of what is free. Raises ``StoreWriteError`` if the
    folder can't be made.
    """

    def __init__(self, folder: Path, name: str, needed: int, limit: int | None) -> None:
        self.path = folder / name
        with writing(folder):
            self.path.mkdir(parents=True, exist_ok=True)
            with open(folder / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._in_use = os.open(self.path / IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
                with suppress(BlockingIOError):  # nobody else uses it
                    fcntl.flock(self._in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    sweep_partials(self.path)
                fcntl.flock(self._in_use, fcntl.LOCK_SH)
                os.utime(self.path / IN_USE)
                self.budget = self._make_room(folder, needed, limit)
                try:
                    os.pwrite(self._in_use, f"{self.budget:20}".encode(), 0)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    self.budget = 0

    def close(self) -> None:
        """It is not in use any more."""
        if self._in_use >= 0:
            os.close(self._in_use)
            self._in_use = -1

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            self.close()

    def _make_room(self, folder: Path, needed: int, limit: int | None) -> int:
        others = sorted(
            (file.parent for file in folder.glob(f"*/{IN_USE}") if file.parent != self.path),
            key=lambda other: (other / IN_USE).stat().st_mtime,
        )
        taken = {other: max(_bytes_below(other), _reserved(other)) for other in others}
        mine = _bytes_below(self.path)

        def room() -> int:
            free = free_disk(str(folder)) or 0
            most = mine + sum(_bytes_below(other) for other in taken) + int(SHARE_OF_FREE * free)
            return min(most if limit is None else limit, most) - sum(taken.values())

        for other in others:
            if room() >= needed:
                break
            if _delete_unused(other):
                del taken[other]
        return max(0, min(needed, room()))


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a temporary file that has been renamed since
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _reserved(folder: Path) -> int:
    """What a store that is in use may take; 0 if nobody uses it."""
    file = os.open(folder / IN_USE, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(file, 20, 0) or b"0")
    else:
        return 0
    finally:
        os.close(file)


def _delete_unused(folder: Path) -> bool:
    """Delete a store's blocks unless somebody uses them."""
    file = os.open(folder / IN_USE, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
