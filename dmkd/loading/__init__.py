"""From a store to batches: images, one view of each, stored or drawn, and the teachers' labels of that very view.

``usable`` which images there are · ``order`` which image when · ``columns`` what a batch is made of and where that is kept ·
``sources`` rows out of memory, mapped files, a window of blocks or the GPU · ``buffers`` host memory that is used again ·
``gather`` columns into such memory · ``in_order`` threads that make batches in advance · ``transfer`` to the GPU beside the
computing · ``decoding`` arrays of a batch into pixels and logits, with ``torch_codecs`` · ``loader`` puts these together ·
``mixture`` is several stores in one, ``ingredient`` what is learnt of each.
``dmkd.loader(...)`` is the way in.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmkd.loading.batch import Batch
    from dmkd.loading.loader import Loader

__all__ = ["Batch", "Loader"]

_MODULES = {"Batch": "batch", "Loader": "loader"}


def __getattr__(name: str) -> Any:
    """What this package offers by name is imported when it is asked for: a slip in a command is answered before torch is."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
