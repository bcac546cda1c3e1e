"""Stores: images and labels on disk or in a bucket. Needs numpy and the storage libraries only; knows no torch.

``open_store(path)`` reads, ``create_store(path, ...)`` makes; :mod:`dmkd.stores.layout` is the format on one page.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    DamagedChunkError,
    DamagedMetadataError,
    DmkdError,
    MismatchError,
    MissingBlockError,
    NewerFormatError,
    NotAStoreError,
    StoreError,
    StoreUnreachableError,
    StoreWriteError,
    UsageError,
)

if TYPE_CHECKING:
    from .codecs import Codec, parse_codec
    from .columns import Column
    from .create import create_store, open_store, store_exists
    from .rows import Rows
    from .run_log import RunLog
    from .sets import LabelSet, ViewSet
    from .store import Store

# Imported at first use: zarr takes half a second, which `dmkd --help` need not wait for.
_HOME = {
    "Codec": "codecs",
    "Column": "columns",
    "parse_codec": "codecs",
    "LabelSet": "sets",
    "Rows": "rows",
    "RunLog": "run_log",
    "Store": "store",
    "ViewSet": "sets",
    "create_store": "create",
    "open_store": "create",
    "store_exists": "create",
}

__all__ = [
    "Codec",
    "Column",
    "DamagedChunkError",
    "DamagedMetadataError",
    "DmkdError",
    "LabelSet",
    "MismatchError",
    "MissingBlockError",
    "NewerFormatError",
    "NotAStoreError",
    "Rows",
    "RunLog",
    "Store",
    "StoreError",
    "StoreUnreachableError",
    "StoreWriteError",
    "UsageError",
    "ViewSet",
    "create_store",
    "open_store",
    "parse_codec",
    "store_exists",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
