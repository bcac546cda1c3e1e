"""Dense logits in half precision: 2 bytes a class, right at every temperature."""

import numpy as np
from array_api_compat import array_namespace

from ..layout import ArraySpec
from .base import Array, Arrays, Codec, Coder, Constants, checked

LARGEST = float(np.finfo(np.float16).max)


class Float16(Codec):
    """Logits rounded to the nearest float16: relative error at most 2^-11.

    Logits, not probabilities: half-precision probabilities can't be re-tempered and may sum to more than one.
    """

    name = "float16"
    help = "2 bytes a class"
    example = "float16"

    def bind(self, num_classes: int, constants: Constants) -> "Float16Coder":
        return Float16Coder(num_classes)


class Float16Coder(Coder):
    """``logits`` float16 (n, V, C)."""

    def arrays(self, num_views: int) -> dict[str, ArraySpec]:
        return {"logits": ArraySpec((num_views, self.num_classes), "float16", ("view", "class"), float("nan"))}

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": checked(values, self.num_classes, "Logits", LARGEST).astype(np.float16)}

    def decode(self, arrays: Arrays, temperature: float = 1.0) -> Array:
        xp = array_namespace(arrays["logits"])
        return xp.astype(arrays["logits"], xp.float32)
