"""Dense logits in half precision: 2 bytes a class, right at every temperature."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ..layout import ArraySpec
from .base import Constants, checked

LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Float16:
    """Logits rounded to the nearest float16: relative error at most 2^-11.

    Logits, not probabilities: half-precision probabilities can't be re-tempered and may sum to more than one.
    """

    name: ClassVar[str] = "float16"
    input: ClassVar[Literal["logits"]] = "logits"
    constants: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}

    def fit(self, num_classes: int, **_: np.ndarray | None) -> dict[str, np.ndarray]:
        return {}

    def bind(self, num_classes: int, constants: Constants) -> "Float16Coder":
        return Float16Coder(num_classes)


@dataclass(frozen=True)
class Float16Coder:
    """``logits`` float16 (n, V, C)."""

    num_classes: int

    def arrays(self, num_views: int) -> dict[str, ArraySpec]:
        return {"logits": ArraySpec((num_views, self.num_classes), "float16", ("view", "class"), float("nan"))}

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": checked(values, self.num_classes, "Logits", LARGEST).astype(np.float16)}

    def decode(self, arrays: Mapping[str, np.ndarray], temperature: float = 1.0) -> np.ndarray:
        return arrays["logits"].astype(np.float32)
