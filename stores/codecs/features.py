"""The teacher's penultimate features in few bits; its last layer, stored once, turns them into logits."""

from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from ..layout import ArraySpec
from .affine import LARGEST, affine_spec, dequantise_rows, quantise_rows
from .base import Array, Arrays, Codec, Coder, Constants, checked, matmul_rows, named_constants


@dataclass(frozen=True)
class Features(Codec):
    """A linear layer's d inputs instead of its C outputs: logits at every temperature, and feature distillation.

    Features are quantised uniformly between each view's smallest and largest. They are mostly non-negative with many
    near zero, but finer levels there (square root and cube root companding, measured) cost more bytes after Zstd than
    they save in error: uniform steps followed by entropy coding are close to the optimum at high rate (Gish & Pierce
    1968). Fewer ``bits`` give fewer bytes after Zstd, though the array stays uint8.
    """

    bits: int = 8

    name = "features"
    help = "the inputs of the teacher's last layer, and the layer itself once"
    example = "features"
    parameter = "a whole number of bits"
    input = "features"
    constants = ("weight", "bias")
    needs = ("weight",)

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UsageError(f"Codec features takes 2 to 8 bits, not {self.bits}.")

    def fit(
        self,
        num_classes: int,
        *,
        sample: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        bias: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        if weight is None:
            raise UsageError("Codec features needs a teacher whose last layer is linear: choose another codec.")
        bias = np.zeros(num_classes, np.float32) if bias is None else bias
        if weight.ndim != 2 or weight.shape[0] != num_classes or bias.shape != (num_classes,):
            raise UsageError(
                f"The teacher's last layer has weight {weight.shape} and bias {bias.shape}, which does not give "
                f"{num_classes} classes: choose another codec than features."
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise UsageError("The teacher's last layer holds NaN or infinite values: check its weights.")
        return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}

    def largest_constants(self, num_classes: int, num_features: int) -> dict[str, np.ndarray]:
        return self.fit(num_classes, weight=np.zeros((num_classes, num_features), np.float32))

    def bind(self, num_classes: int, constants: Constants) -> "FeaturesCoder":
        weight, bias = named_constants(constants, self.constants, self.name)
        return FeaturesCoder(num_classes, self.bits, weight, bias)


@dataclass(frozen=True, eq=False)
class FeaturesCoder(Coder):
    """``affine`` float32 (n, V, 2) offset and step, ``features`` uint8 (n, V, d):
    logits = (offset + step * features) @ weight.T + bias."""

    bits: int
    weight: np.ndarray  # float32 (C, d)
    bias: np.ndarray  # float32 (C,)

    def arrays(self, num_views: int) -> dict[str, ArraySpec]:
        dense = ArraySpec((num_views, self.weight.shape[1]), "uint8", ("view", "feature"), 0, "zstd")
        return {"affine": affine_spec(num_views), "features": dense}

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        whole, affine = quantise_rows(checked(values, self.weight.shape[1], "Features", LARGEST), 2**self.bits - 1)
        return {"affine": affine, "features": whole}

    def decode_features(self, arrays: Arrays) -> Array:
        return dequantise_rows(arrays["features"], arrays["affine"])

    def decode(self, arrays: Arrays, temperature: float = 1.0) -> Array:
        return matmul_rows(self.decode_features(arrays), self.weight.T) + self.bias
