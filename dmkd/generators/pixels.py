"""What comes out of every generator: uint8 pixels, or an error that says why there are none."""

import torch

from dmkd.stores.errors import DmkdError


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float images, (n, 3, H, W) in [0, 1], to uint8 (n, H, W, 3), rounded half to even as diffusers' ``numpy_to_pil``."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def not_finite(
    generator: str, what: str, sampler: str, steps: int, guidance: float, dtype: torch.dtype, advice: str = ""
) -> DmkdError:
    """The error for ``what`` a generator made that is not finite. ``advice``: what to do, unless float16 is to blame."""
    if dtype == torch.float16:
        advice = " float16 overflows above 65504: use bfloat16 or float32."
    return DmkdError(
        f"The generator {generator} made {what} that are not finite (NaN or infinity) with {sampler}, "
        f"{steps} steps, guidance {guidance:g}, {str(dtype).removeprefix('torch.')}.{advice}"
    )
