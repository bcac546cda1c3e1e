"""The k largest logits of every view, and what the rest of them weighs at any temperature."""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device

from ..errors import UsageError
from ..layout import ArraySpec
from .base import Array, Arrays, Codec, Coder, Constants, checked
from .float16 import LARGEST


@dataclass(frozen=True)
class TopK(Codec):
    """The k largest logits with class ids, and logsumexp, mean, variance of the C - k others: 4k + 12 bytes up to 65,536 classes.

    Raw logits, never probabilities, and the tail's own logsumexp rather than one minus what was kept: no rounding can
    make its mass negative. At temperature T, β = 1/T, the tail weighs

        log Σ exp(β z) ≈ log(C - k) + β mean + β² variance / 2 + β³ r,

    the cumulants of a distribution to second order (Gaussian tail), with the one r that makes it
    exact at T = 1, and within what is possible at every other T. Within the tail all classes are given the same logit, and
    none outranks one that was kept.
    """

    k: int = 50

    name = "topk"
    help = "the given number of largest logits, and the weight of the rest at every temperature"
    example = "topk:50"
    usual = ("topk:10", "topk:50", "topk:100")
    parameter = "a number of classes"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"Codec topk keeps at least one class, not {self.k}.")

    def bind(self, num_classes: int, constants: Constants) -> "TopKCoder":
        if self.k > num_classes:
            raise UsageError(f"Codec topk:{self.k} keeps more classes than the {num_classes} there are: ask for fewer.")
        return TopKCoder(num_classes, self.k)


@dataclass(frozen=True, eq=False)
class TopKCoder(Coder):
    """``tail`` float32 (n, V, 3) logsumexp, mean and variance of the classes left out (0 if there are none),
    ``ids`` uint16 or uint32 (n, V, k), ``logits`` float16 (n, V, k), largest first, ties by class id."""

    is_sparse = True

    k: int

    @property
    def num_tail(self) -> int:
        """Classes left out."""
        return self.num_classes - self.k

    @property
    def id_dtype(self) -> str:
        return "uint16" if self.num_classes <= 2**16 else "uint32"

    def arrays(self, num_views: int) -> dict[str, ArraySpec]:
        return {
            "tail": ArraySpec((num_views, 3), "float32", ("view", "logsumexp_mean_variance"), float("nan")),
            "ids": ArraySpec((num_views, self.k), self.id_dtype, ("view", "rank"), 0),
            "logits": ArraySpec((num_views, self.k), "float16", ("view", "rank"), float("nan")),
        }

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        checked(values, self.num_classes, "Logits", LARGEST)
        # argpartition before sorting: sorting all of 21,841 classes takes ten times as long.
        kept = np.argpartition(-values, self.k - 1, axis=-1)
        kept, left_out = np.sort(kept[..., : self.k], -1), kept[..., self.k :]
        by_size = np.argsort(-np.take_along_axis(values, kept, -1), axis=-1, kind="stable")
        ids = np.take_along_axis(kept, by_size, -1)
        return {
            "tail": _moments(np.take_along_axis(values, left_out, -1)),
            "ids": ids.astype(self.id_dtype),
            "logits": np.take_along_axis(values, ids, -1).astype(np.float16),
        }

    def decode(self, arrays: Arrays, temperature: float = 1.0) -> Array:
        ids, logits = self.sparse(arrays)
        xp, place = array_namespace(ids), device(ids)
        rows = ids.reshape(-1, self.k)
        dense = xp.empty((len(rows), self.num_classes), dtype=xp.float32, device=place)
        if self.num_tail:
            mass = xp.astype(self.tail_log_mass(arrays, temperature), xp.float64)
            each = temperature * (mass - float(np.log(self.num_tail)))
            dense[...] = xp.astype(each, xp.float32).reshape(-1, 1)
        dense[xp.arange(len(rows), device=place)[:, None], rows] = logits.reshape(-1, self.k)
        return dense.reshape(*ids.shape[:-1], self.num_classes)

    def sparse(self, arrays: Arrays) -> tuple[Array, Array]:
        xp = array_namespace(arrays["ids"])
        return xp.astype(arrays["ids"], xp.int64), xp.astype(arrays["logits"], xp.float32)

    def tail_log_mass(self, arrays: Arrays, temperature: float = 1.0) -> Array:
        """Exact at T = 1."""
        xp = array_namespace(arrays["tail"])
        tail = xp.astype(arrays["tail"], xp.float64)
        logsumexp, mean, variance = tail[..., 0], tail[..., 1], tail[..., 2]
        if not self.num_tail:
            return xp.full_like(mean, -float("inf"), dtype=xp.float32)
        beta, count = 1 / temperature, float(np.log(self.num_tail))
        at_one = logsumexp - count
        mass = beta * mean + beta**2 * variance / 2 + beta**3 * (at_one - mean - variance / 2)
        # A cubic may leave what is possible. The logit that all of the tail could be given instead, T log(mass / count), falls
        # as T rises, from the largest of them, which is no more than the smallest kept, over that at T = 1 to their mean.
        smallest = xp.maximum(xp.astype(arrays["logits"][..., -1], xp.float64), at_one)
        low, high = (at_one, smallest) if temperature < 1 else (mean, at_one)
        return xp.astype(count + xp.minimum(xp.maximum(mass, beta * low), beta * high), xp.float32)


def _moments(tail: np.ndarray) -> np.ndarray:
    """float32 (n, V, C - k) -> float32 (n, V, 3): logsumexp, mean and variance, computed in float64."""
    if not tail.shape[-1]:
        return np.zeros((*tail.shape[:-1], 3), np.float32)
    exact = tail.astype(np.float64)
    largest = exact.max(-1, keepdims=True)
    logsumexp = np.log(np.exp(exact - largest).sum(-1)) + largest[..., 0]
    return np.stack([logsumexp, exact.mean(-1), exact.var(-1)], -1).astype(np.float32)
