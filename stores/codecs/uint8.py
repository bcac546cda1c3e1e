"""Dense logits in 8 bits: a byte a class, with offset and step for every view."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ..layout import ArraySpec
from .affine import LARGEST, affine_spec, dequantise_rows, quantise_rows
from .base import Constants, checked


@dataclass(frozen=True)
class Uint8:
    """Logits on 256 levels between each view's smallest and largest: off by at most (max - min) / 510."""

    name: ClassVar[str] = "uint8"
    input: ClassVar[Literal["logits"]] = "logits"
    constants: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}

    def fit(self, num_classes: int, **_: np.ndarray | None) -> dict[str, np.ndarray]:
        return {}

    def bind(self, num_classes: int, constants: Constants) -> "Uint8Coder":
        return Uint8Coder(num_classes)


@dataclass(frozen=True)
class Uint8Coder:
    """``affine`` float32 (n, V, 2) offset and step, ``logits`` uint8 (n, V, C): offset + step * logits."""

    num_classes: int

    def arrays(self, num_views: int) -> dict[str, ArraySpec]:
        dense = ArraySpec((num_views, self.num_classes), "uint8", ("view", "class"), 0)
        return {"affine": affine_spec(num_views), "logits": dense}

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        whole, affine = quantise_rows(checked(values, self.num_classes, "Logits", LARGEST), 255)
        return {"affine": affine, "logits": whole}

    def decode(self, arrays: Mapping[str, np.ndarray], temperature: float = 1.0) -> np.ndarray:
        return dequantise_rows(arrays["logits"], arrays["affine"])
