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
    └── StoreUnreachableError 1   the object store does not answer, which may pass
"""


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
    """What says what an array or a group is can't be read: cut off, or overwritten. A ``ValueError`` as the reader's own is."""


class StoreWriteError(StoreError):
    """A write did not reach the disk: full, read-only, over quota or gone."""


class StoreUnreachableError(StoreError):
    """An object store can't be reached or does not answer as it should. It may later: the work is worth trying again."""
