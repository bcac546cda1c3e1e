"""Float32 products on a GPU: whole, or of factors rounded to TF32's 10 bits.

torch has two ways to say so, and refuses to read one where the other was used. Here it is the older one, which every version
that dmkd takes knows and which torch's own compiler reads.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

AUTOCAST = ("bfloat16", "float16")


def set_tf32(on: bool) -> None:
    """Let CUDA's matrix products and convolutions of float32 round their factors to TF32, or not. torch's default is no for the
    ones and yes for the others. Changes nothing on a CPU."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """As :func:`set_tf32`, for a while: afterwards it is as it was."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_tf32(on)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def computing_in(precision: str, device: "torch.device") -> Iterator[None]:
    """Products of float32 weights in float32, tf32, bfloat16 or float16 (the latter two under autocast, which the device meta of
    shapes alone does not have), for a while."""
    import torch

    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    on_meta = device.type == "meta"
    cast = contextlib.nullcontext() if on_meta else torch.autocast(device.type, dtype, enabled=precision in AUTOCAST)
    with tf32(precision == "tf32"), cast:
        yield
