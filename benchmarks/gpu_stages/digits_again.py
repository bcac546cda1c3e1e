"""The bundled digits made in a process of its own, which imports and compiles for itself."""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from dmkd import digits
from dmkd.generators.load import load_generator
from dmkd.runtime.devices import make_deterministic

COUNT = 16


def load(device: str, compile: bool = False) -> Any:
    make_deterministic(device, None)
    dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return load_generator(str(digits.PIPELINE), device=device, dtype=dtype, compile=compile)


def sample(generator: Any, ids: np.ndarray) -> np.ndarray:
    """Images uint8 (n, 32, 32, 3), in the order of the ids."""
    options: dict[str, Any] = {"sampler": "ddpm", "steps": 4, "guidance": 2.0, "guided_channels": 3}
    return generator.sample(ids % 10, ids, **options).cpu().numpy()


def sample_here(device: str, compile: bool) -> np.ndarray:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        return sample(load(device, compile), np.arange(COUNT))


def in_new_process(device: str, compile: bool) -> np.ndarray:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(sample_here, device, compile).result()
