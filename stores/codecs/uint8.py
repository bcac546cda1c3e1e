"""Dense logits in 8 bits: a byte a class, with offset and step for every view."""

import numpy as np

from ..layout import ArraySpec
from .affine import LARGEST, affine_spec, dequantise_rows, quantise_rows
from .base import Array, Arrays, Codec, Coder, Constants, checked


class Uint8(Codec):
    """Logits on 256 levels between each view's smallest and largest: off by at most (max - min) / 510."""

    name = "uint8"
    help = "a byte a class"
    example = "uint8"

    def bind(self, num_classes: int, constants: Constants) -> "Uint8Coder":
        return Uint8Coder(num_classes)


class Uint8Coder(Coder):
    """``affine`` float32 (n, V, 2) offset and step, ``logits`` uint8 (n, V, C): offset + step * logits."""

    def arrays(self, num_views: int) -> dict[str, ArraySpec]:
        dense = ArraySpec((num_views, self.num_classes), "uint8", ("view", "class"), 0)
        return {"affine": affine_spec(num_views), "logits": dense}

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        whole, affine = quantise_rows(checked(values, self.num_classes, "Logits", LARGEST), 255)
        return {"affine": affine, "logits": whole}

    def decode(self, arrays: Arrays, temperature: float = 1.0) -> Array:
        return dequantise_rows(arrays["logits"], arrays["affine"])
