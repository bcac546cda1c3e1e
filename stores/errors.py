"""Every error a user may see, with its exit code.

DmkdError                 1   something failed: the sentence says what, where and what to do
├── UsageError            2   what was asked for can't be done (unknown name, value out of range, wrong path)
│   └── MismatchError     2   what was asked for differs from what the store holds
└── StoreError            1   the store, or the disk below it, failed
    ├── NotAStoreError    2   the path holds no dmkd store
    ├── NewerFormatError  1   the store was made by a newer dmkd, in a format that this one does not know
    ├── MissingBlockError 1   ids were asked for whose block has not been made
    ├── DamagedChunkError 1   a chunk's checksum or shape is wrong
    ├── DamagedMetadataError 1   a node's metadata can't be read
    ├── StoreWriteError   1   a write did not reach the disk (full, read-only, gone)
    └── StoreUnreachableError 1   the object store does not answer, perhaps only for now
"""

import errno
import os


class DmkdError(Exception):
    """Something failed. ``str(error)`` is one sentence for the user; the command line exits with ``exit_code``."""

    exit_code = 1


class UsageError(DmkdError):
    """What was asked for can't be done: an unknown name, a value out of range, a wrong path."""

    exit_code = 2


class MismatchError(UsageError):
    """What was asked for differs from what the store holds; names the field and both values."""


class StoreError(DmkdError):
    """The store, or the disk below it, failed."""


class NotAStoreError(StoreError):
    """The path holds no dmkd store, or one with a codec that this version does not know."""

    exit_code = 2


class NewerFormatError(StoreError):
    """The store was made by a newer dmkd, in a format that this one does not know."""


class MissingBlockError(StoreError):
    """Image ids were asked for whose block has not been made."""


class DamagedChunkError(StoreError):
    """A chunk's bytes do not match their checksum, or can't be decoded."""


class DamagedMetadataError(StoreError, ValueError):
    """The metadata of an array or group can't be read: truncated or overwritten. A ``ValueError``, like the reader's own."""


class StoreWriteError(StoreError):
    """A write did not reach the disk: full, read-only, over quota or gone."""


class StoreUnreachableError(StoreError):
    """An object store can't be reached or does not answer as it should. It may recover, so the work is worth retrying."""


# Why a disk refuses a write, and what to do. Other errors keep the system's own words.
_DISK_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; make it writable",
    errno.EACCES: "you have no permission to write there; change that",
    errno.EFBIG: "the file would be larger than allowed here",
}


def write_error(what: str, error: OSError) -> StoreWriteError:
    """The error that a user sees when the disk refused to write ``what``."""
    reason = _DISK_REASONS.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    return StoreWriteError(
        f"Could not write {what}: {reason}. Rerun the same command to resume; everything written so far is intact."
    )


def first_line(error: BaseException) -> str:
    """The first line of another library's error, without a full stop; the name of its class if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
