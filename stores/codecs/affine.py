"""Whole numbers with an offset and a step for every row: what ``uint8`` and ``features`` share."""

import numpy as np
from array_api_compat import array_namespace

from ..layout import ArraySpec
from .base import Array

LARGEST = 1e38  # offset + 255 steps must not overflow float32


def affine_spec(num_views: int) -> ArraySpec:
    """Offset and step of every view. In float16 they would save 4 bytes a view, and give a row of mean 1000 and range 1 a
    quarter more error (usual logits next to none)."""
    return ArraySpec((num_views, 2), "float32", ("view", "offset_and_step"), float("nan"))


def quantise_rows(values: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (..., D) -> uint8 (..., D) in [0, levels] and float32 (..., 2) offset and step.

    The offset is the row's minimum and offset + levels * step its maximum, so the error is at most step / 2. A constant
    row has step 0 and comes back exactly.
    """
    low = values.min(-1, keepdims=True).astype(np.float64)
    step = ((values.max(-1, keepdims=True) - low) / levels).astype(np.float32)
    # Divided by the step as it is stored; a step of 0 belongs to a row whose values all equal the offset.
    whole = np.rint((values - low) / np.where(step > 0, step, 1)).clip(0, levels).astype(np.uint8)
    return whole, np.concatenate([low.astype(np.float32), step], -1)


def dequantise_rows(whole: Array, affine: Array) -> Array:
    """uint8 (..., D) and float32 (..., 2) offset and step -> float32 (..., D)."""
    xp = array_namespace(whole, affine)
    return affine[..., :1] + xp.astype(whole, xp.float32) * affine[..., 1:]
