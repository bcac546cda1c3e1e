"""Stage A, first half: what the hardware reaches on the shapes of DiT-XL/2."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from gpu_stages.fp8 import Fp8Linear
from gpu_stages.stage import Stage, Unavailable
from torch.nn.attention import SDPBackend, sdpa_kernel

# Columns in and out of the products in a block: 128 rows of 256 tokens, the guided half included, 64 images.
LINEARS = {"q, k and v": (1152, 3456), "projection": (1152, 1152), "MLP up": (1152, 4608), "MLP down": (4608, 1152)}
BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")


def run(stage: Stage) -> None:
    size = 256 if stage.tiny else 8192
    stage.attempt(f"matmul {size} cubed, bfloat16", lambda: square(stage, size), "TFLOP/s", needs=5)
    rows = 64 if stage.tiny else 32_768
    for name, shape in LINEARS.items():
        stage.attempt(
            f"{name} {shape[0]} -> {shape[1]}, {rows} rows", lambda s=shape: linear(stage, rows, *s), "TFLOP/s", 5
        )
    for how in ("eager", "compiled"):
        stage.attempt(f"FP8, {how}", lambda h=how: fp8(stage, rows, h), needs=60)
    shape = (2, 4, 64, 72) if stage.tiny else (128, 16, 256, 72)
    for backend in BACKENDS:
        stage.attempt(f"SDPA {backend} {shape}", lambda b=backend: attention(stage, b, shape), "ms", needs=5)


def square(stage: Stage, size: int) -> float:
    a, b = stage.random(size, size), stage.random(size, size)
    return 2e-12 * size**3 / stage.seconds(lambda: a @ b)


def linear(stage: Stage, rows: int, wide: int, narrow: int) -> float:
    x, layer = stage.random(rows, wide), bfloat16_linear(stage, wide, narrow)
    with torch.no_grad():
        return 2e-12 * rows * wide * narrow / stage.seconds(lambda: layer(x))


def fp8(stage: Stage, rows: int, how: str) -> None:
    """Quantising the inputs counts."""
    stage.needs_fp8()
    for name, (wide, narrow) in LINEARS.items():
        x, layer = stage.random(rows, wide), bfloat16_linear(stage, wide, narrow)
        quick = Fp8Linear(layer)
        if how == "compiled":
            with stage.compiler():
                quick.compile(dynamic=False)
        with torch.no_grad():
            ratio = stage.seconds(lambda: layer(x)) / stage.seconds(lambda: quick(x))  # noqa: B023
        stage.figure(f"{name} in FP8, {how}: times the speed of bfloat16", ratio, "ratio")


def bfloat16_linear(stage: Stage, wide: int, narrow: int) -> torch.nn.Linear:
    return torch.nn.Linear(wide, narrow, device=stage.device, dtype=torch.bfloat16)


def attention(stage: Stage, backend: str, shape: tuple[int, ...]) -> float:
    q, k, v = (stage.random(*shape) for _ in range(3))
    with only(backend):
        return 1000 * stage.seconds(lambda: F.scaled_dot_product_attention(q, k, v))


@contextmanager
def only(backend: str) -> Iterator[None]:
    """Attention by one of ``BACKENDS``, or ``Unavailable``."""
    with sdpa_kernel(getattr(SDPBackend, backend)):
        try:
            yield
        except RuntimeError as error:
            if re.search("no (available kernel|viable backend)", str(error), re.IGNORECASE):
                raise Unavailable("this device has no such kernel for this shape") from error
            raise
