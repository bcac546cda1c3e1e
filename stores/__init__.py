"""Stores: images and labels on disk. Needs numpy and the storage libraries only; knows no torch.

``open_store(path)`` reads, ``create_store(path, ...)`` makes; :mod:`dmkd.stores.layout` is the format on one page.
"""

from .codecs import Codec, parse_codec
from .errors import (
    DamagedChunkError,
    DmkdError,
    MismatchError,
    MissingBlockError,
    NotAStoreError,
    StoreError,
    StoreWriteError,
    UsageError,
)
from .store import LabelSet, Rows, Store, ViewSet, create_store, open_store, store_exists

__all__ = [
    "Codec",
    "DamagedChunkError",
    "DmkdError",
    "LabelSet",
    "MismatchError",
    "MissingBlockError",
    "NotAStoreError",
    "Rows",
    "Store",
    "StoreError",
    "StoreWriteError",
    "UsageError",
    "ViewSet",
    "create_store",
    "open_store",
    "parse_codec",
    "store_exists",
]
