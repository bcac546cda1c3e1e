"""Dense logits in half precision: 2 bytes a class, right at every temperature."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import UsageError
from ..layout import ArraySpec

LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Float16:
    """Logits rounded to the nearest float16: relative error at most 2^-11.

    Logits, not probabilities: half-precision probabilities can't be re-tempered and may sum to more than one.
    """

    name: ClassVar[str] = "float16"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}

    def arrays(self, num_views: int, num_classes: int) -> dict[str, ArraySpec]:
        return {"logits": ArraySpec((num_views, num_classes), "float16", ("view", "class"), float("nan"))}

    def encode(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        largest = np.abs(logits).max(initial=0)
        if not largest <= LARGEST:  # also catches NaN
            raise UsageError(
                f"A logit of magnitude {largest:g} does not fit into float16 (at most {LARGEST:g}): check the teacher."
            )
        return {"logits": logits.astype(np.float16)}

    def decode(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        return arrays["logits"].astype(np.float32)
