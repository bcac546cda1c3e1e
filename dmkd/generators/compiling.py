"""``torch.compile`` of a generator's models: what is compiled, how, and what a machine needs for it."""

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch

from dmkd.runtime.accelerators import device_type


def compile_for_fixed_shapes(module: torch.nn.Module) -> None:
    """Have a module compiled when it is first called with each shape: a transformer sees two, guided and unguided.

    Neither of the other modes of ``torch.compile`` fits. "max-autotune" times several kernels for every matrix product and
    takes the fastest: two workers may choose two, and pixels would depend on who made them. "reduce-overhead" (CUDA graphs)
    saves launches, which cost nothing here: the loop queues them far ahead of the GPU.
    """
    from torch import _inductor

    # In versions of torch that have it: keeps reductions from being timed too.
    options = {"deterministic": True} if "deterministic" in _inductor.list_options() else None
    module.compile(dynamic=False, options=options)


def compile_models(transformer: Any, decoder: Any) -> None:
    """As :func:`compile_for_fixed_shapes`; on a GPU the transformer a block at a time."""
    if device_type(transformer.device) == "cuda":
        compile_blocks(transformer)
    else:
        compile_for_fixed_shapes(transformer)
    compile_for_fixed_shapes(decoder)


def compile_blocks(transformer: Any) -> None:
    """All blocks have the same code, which is compiled once: seconds for a large model, where the whole takes minutes. What lies
    between the blocks is little there; of a small model on a CPU it is a tenth of the time."""
    # The tokens come out of a convolution, channels first: the first block would be compiled by itself for that.
    transformer.pos_embed.register_forward_hook(lambda module, inputs, tokens: tokens.contiguous())
    for block in transformer.transformer_blocks:
        compile_for_fixed_shapes(block)


def missing_for_compiling(device: str) -> str | None:
    """What this machine lacks for ``torch.compile``, or None: kernels, or what launches them on a GPU, are built by a compiler,
    against Python's headers."""
    if torch.device(device).type not in ("cuda", "cpu"):
        return f"dmkd does not compile models for {device}"
    kind, variable, names = ("C", "CC", ("gcc", "clang", "cc"))
    if device == "cpu":
        kind, variable, names = ("C++", "CXX", ("g++", "clang++", "c++"))
    chosen = os.environ.get(variable)
    tried = (chosen,) if chosen else names
    if not any(map(shutil.which, tried)):
        return f"there is no {kind} compiler ({', '.join(tried)}): install one, as in apt install build-essential"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        return f"Python's headers are missing ({headers}): install them, as in apt install python3-dev"
    return None
