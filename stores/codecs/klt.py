"""Transform coding: logits in the eigenbasis of their covariance, on whole multiples of one step.

The Karhunen-Loève transform decorrelates what a teacher says (at most d degrees of freedom, most of them small), a uniform
quantiser with one step for all coefficients is optimal at high rate, and the chunk's compressor does the entropy coding
(Goyal, "Theoretical foundations of transform coding", IEEE Signal Processing Magazine 18(5), 2001).
"""

import math
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from ..errors import UsageError
from ..layout import ArraySpec, Share
from .base import Array, Arrays, Codec, Coder, Constants, checked, matmul_rows, named_constants
from .float16 import LARGEST as HALF_LARGEST

LARGEST_MULTIPLE = 2**15 - 1
LARGEST = 1e30  # a logit: products of these with the basis must not overflow float32
MISSING = 2**16 - 1  # the zigzag integer of -2^15, which no coefficient is: see the fallback
# A view's error may be this many times the expected one. Rounding alone stays below sqrt(3) times the root-mean-square.
FALLBACK_FACTOR = 4.0

# Coefficients whose standard deviation is below this many steps are left out: they would nearly all be zero.
# Measured at step 1: between 0.25 and 0.45 bytes and error trade as they do when the step is changed.
KEEP_ABOVE = 0.35
# The prior that a coefficient is reconstructed in the middle of its interval weighs as much as this many observations.
PRIOR_COUNT = 16
# One part in this many of the sample is held out: it shows how much of unseen logits the basis of the rest misses.
HOLD_OUT = 8
ENOUGH_CAPTURED = 0.98  # share of the variance of views that were not in the sample

# Bits a coefficient at step 0.5, and one fewer whenever the step doubles, as at high rate a uniform quantiser's entropy falls.
# Measured on 512 coefficients of teacher-like logits (benchmarks/codecs.py): 197 bytes a view at step 0.5, 261 at 0.25.
EXPECTED_BITS, EXPECTED_AT_STEP, FEWEST_BITS = 3.1, 0.5, 0.5


@dataclass(frozen=True)
class Klt(Codec):
    """Logits less their mean over the classes, which softmax ignores and which is not kept.

    ``step`` is in units of logits. Each kept coefficient is off by noise of variance at most about step²/12 and the basis
    is orthonormal, so the root-mean-square error of a logit is about step * sqrt(K / 12 C), plus what lies outside the K
    directions kept.

    The error is known in advance and bounded: a view that would be off by more than four times the expected error is written
    in half precision instead (see :class:`KltCoder`).

    Fitted on a ``sample`` of logits. With the teacher's last layer (``weight``) a few hundred views are enough, since every
    logit vector then lies in the known span of its columns; without it, take two to four times as many views as classes.
    """

    step: float = 0.5

    name = "klt"
    help = "transform coding with the given step"
    example = "klt:0.5"
    usual = ("klt:0.25", "klt:0.5", "klt:1", "klt:2")
    parameter = "a step in units of logits"
    constants = ("mean", "basis", "pull", "fit")
    needs = ("sample",)

    def __post_init__(self) -> None:
        if not (0 < self.step < float("inf")):
            raise UsageError(f"The step of codec klt must be a positive number, not {self.step}.")

    def fit(
        self,
        num_classes: int,
        *,
        sample: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        bias: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """``mean`` float32 (C,); ``basis`` float32 (K, C), orthonormal rows, largest variance first; ``pull`` float32 (K,);
        ``fit`` float32 (3,): expected root-mean-square error of a logit, share of the variance captured, views in the sample.

        Share and error are honest: they are measured on an eighth of the sample, in the basis of the rest.
        """
        if sample is None or sample.ndim != 2 or sample.shape[1] != num_classes or len(sample) < 2:
            found = "none" if sample is None else sample.shape
            raise UsageError(
                f"Codec klt is fitted on the logits of two views or more, (m, {num_classes}), not {found}."
            )
        if not np.isfinite(sample).all():
            raise UsageError("The logits to fit codec klt on are NaN or infinite: check the teacher.")
        if weight is not None and (weight.shape[:1] != (num_classes,) or not np.isfinite(weight).all()):
            raise UsageError(
                f"The teacher's last layer, weight {weight.shape}, does not give {num_classes} finite logits."
            )
        rows = _centred(sample)
        span = None if weight is None else weight.astype(np.float64) - weight.mean(0, dtype=np.float64)

        held_out = max(1, len(rows) // HOLD_OUT)  # the last ones: neighbouring rows are views of one image
        seen_mean, seen_basis, _ = self._basis(rows[:-held_out], span)
        unseen = rows[-held_out:] - seen_mean
        energy = np.square(unseen).sum()
        outside = max(energy - np.square(unseen @ seen_basis.T).sum(), 0.0)

        mean, basis, variances = self._basis(rows, span)
        noise = np.minimum(variances, self.step**2 / 12).sum() + outside / len(unseen)
        captured = 1 - outside / energy if energy > 0 else 1.0
        summary = [np.sqrt(noise / num_classes), captured, len(sample)]
        return {
            "mean": mean.astype(np.float32),
            "basis": basis.astype(np.float32),
            "pull": self._pull((rows - mean) @ basis.T).astype(np.float32),
            "fit": np.array(summary, np.float32),
        }

    def largest_constants(self, num_classes: int, num_features: int) -> dict[str, np.ndarray]:
        kept = min(num_classes, num_features)
        shapes = {"mean": (num_classes,), "basis": (kept, num_classes), "pull": (kept,), "fit": (3,)}
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def expected_share(self, part: str, spec: ArraySpec) -> Share:
        if part == "exact":  # zero but for the rare view that leaves what the codec was fitted on
            return Share("about", 0.0)
        bits = max(FEWEST_BITS, EXPECTED_BITS - math.log2(self.step / EXPECTED_AT_STEP))
        return Share("about", min(1.0, bits / 16))

    def bind(self, num_classes: int, constants: Constants) -> "KltCoder":
        return KltCoder(num_classes, self.step, *named_constants(constants, self.constants, self.name))

    def _basis(self, rows: np.ndarray, span: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows (m, C) of zero mean -> their mean (C,), the K directions worth keeping (K, C) and their variances (K,)."""
        mean = rows.mean(0)
        directions, variances = _principal_directions(rows - mean, span)
        count = max(1, int((np.sqrt(variances) > KEEP_ABOVE * self.step).sum()))
        return mean, directions[:count], variances[:count]

    def _pull(self, coefficients: np.ndarray) -> np.ndarray:
        """How far towards zero, in steps, the mean of what was rounded to a multiple other than zero lies from it, (K,).

        Large coefficients are rarer than small ones, so it lies below the middle; 4 % less error at no cost.
        """
        multiples = np.abs(coefficients) / self.step
        whole = np.rint(multiples)
        excess = np.where(whole > 0, whole - multiples, 0).sum(0)
        return np.clip(excess / ((whole > 0).sum(0) + PRIOR_COUNT), 0, 0.5)


@dataclass(frozen=True, eq=False)
class KltCoder(Coder):
    """``exact`` float16 (n, V, C), zero but for the fallback; ``coefficients`` uint16 (n, V, K): zigzag integers z, so that
    small magnitudes are small numbers, 0, -1, 1, -2 ...

    q = (z >> 1) ^ -(z & 1), logits = mean + (q - pull * sign(q)) * step @ basis. In the chunk the coefficient is the
    slowest axis, which puts values of one distribution side by side, and Blosc's bit planes go to Zstd. Measured on 512
    simulated views of 1000 classes, step 1, K = 439: 118 bytes a view; the entropy is 106, and byte planes take 143 at
    Zstd 3 and 114 at Zstd 19, twenty times slower.

    A view that leaves what the codec was fitted on, because its coefficients are too large to count or because its error
    would exceed :attr:`error_limit`, is kept in half precision instead: z of its first coefficient is 65535 and its row of
    ``exact`` holds the logits less their mean. Rows of zeros cost next to nothing after Zstd.
    """

    step: float
    mean: np.ndarray  # float32 (C,)
    basis: np.ndarray  # float32 (K, C)
    pull: np.ndarray  # float32 (K,)
    fit: np.ndarray  # float32 (3,): see Klt.fit

    @property
    def expected_rmse(self) -> float:
        """Root-mean-square error to expect of a logit, after its mean over the classes is taken off."""
        return float(self.fit[0])

    @property
    def captured(self) -> float:
        """Share of the variance of unseen logits that lies in the K directions: below 0.98 the sample was too small."""
        return float(self.fit[1])

    @property
    def error_limit(self) -> float:
        """Largest root-mean-square error that any view may have: beyond it the fallback is used."""
        return FALLBACK_FACTOR * self.expected_rmse

    @property
    def facts(self) -> dict[str, float]:
        return {"expected_rmse": self.expected_rmse, "captured": self.captured}

    def notices(self, label_set: str) -> list[str]:
        sentences = [
            f"Codec klt of {label_set}: a logit will be off by {self.expected_rmse:.3g} (root mean square), "
            f"and no view by more than {self.error_limit:.3g}."
        ]
        if self.captured < ENOUGH_CAPTURED:
            sentences.append(
                f"The {int(self.fit[2]):,} views it was fitted on capture only {self.captured:.1%} of the variance of "
                "others, so expect many to fall back to half precision: fit on more images or views, or choose another codec."
            )
        return sentences

    def arrays(self, num_views: int) -> dict[str, ArraySpec]:
        return {
            "exact": ArraySpec((num_views, self.num_classes), "float16", ("view", "class"), 0, "zstd"),
            "coefficients": ArraySpec(
                (num_views, len(self.basis)), "uint16", ("view", "coefficient"), MISSING, "bitshuffle", order=(2, 0, 1)
            ),
        }

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        # The basis is orthogonal to the constant vector: centring only keeps large means from costing precision.
        logits = _centred(checked(values, self.num_classes, "Logits", LARGEST)).astype(np.float32)
        multiples = np.rint(matmul_rows(logits - self.mean, self.basis.T) / np.float32(self.step))
        whole = np.clip(multiples, -LARGEST_MULTIPLE, LARGEST_MULTIPLE).astype(np.int32)
        error = np.sqrt(np.square(logits - self._reconstructed(whole), dtype=np.float64).mean(-1))
        leaves = (np.abs(multiples) > LARGEST_MULTIPLE).any(-1) | (error > self.error_limit)

        exact = np.zeros(logits.shape, np.float16)
        exact[leaves] = checked(logits[leaves][None], self.num_classes, "Logits", HALF_LARGEST)[0]
        coefficients = ((whole << 1) ^ (whole >> 31)).astype(np.uint16)
        coefficients[leaves] = 0
        coefficients[leaves, 0] = MISSING
        return {"exact": exact, "coefficients": coefficients}

    def decode(self, arrays: Arrays, temperature: float = 1.0) -> Array:
        xp = array_namespace(arrays["coefficients"])
        zigzag = xp.astype(arrays["coefficients"], xp.int32)
        logits = self._reconstructed((zigzag >> 1) ^ -(zigzag & 1))
        return xp.where(zigzag[..., :1] == MISSING, xp.astype(arrays["exact"], xp.float32), logits)

    def _reconstructed(self, whole: Array) -> Array:
        """Multiples int32 (..., K) -> logits less their mean, float32 (..., C)."""
        xp = array_namespace(whole)
        multiples = xp.astype(whole, xp.float32)
        multiples -= self.pull * xp.astype(xp.sign(whole), xp.float32)
        return matmul_rows(multiples * self.step, self.basis) + self.mean


def _centred(logits: np.ndarray) -> np.ndarray:
    """float32 (..., C) -> float64 (..., C) of zero mean over the classes."""
    return logits - logits.mean(-1, keepdims=True, dtype=np.float64)


def _principal_directions(rows: np.ndarray, span: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors (r, C) and eigenvalues (r,) of the covariance of ``rows`` (m, C), largest first, signs fixed.

    ``span`` (C, d), if given, holds vectors that every row is a sum of. The covariance is then shrunk towards that of equal,
    independent weights of these vectors (as in Ledoit & Wolf 2004, but with this target, and an intensity of
    d / (d + 2 m), the best of those tried), so that no direction that an unseen row may take is missed, however few the rows are.
    """
    if span is not None:
        vectors, lengths, _ = np.linalg.svd(span, full_matrices=False)
        rank = int((lengths > lengths.max(initial=0) * 1e-6).sum())
        vectors, lengths = vectors[:, :rank], lengths[:rank]
        inside = rows @ vectors
        covariance = inside.T @ inside / len(rows)
        target = np.diag(lengths**2) * (np.trace(covariance) / max(np.square(lengths).sum(), 1e-300))
        intensity = rank / (rank + 2 * len(rows))
        variances, axes = np.linalg.eigh((1 - intensity) * covariance + intensity * target)
        directions = (vectors @ axes).T
    elif len(rows) < rows.shape[1]:  # the smaller of the two eigenproblems with the same eigenvalues
        variances, axes = np.linalg.eigh(rows @ rows.T / len(rows))
        present = variances > max(variances.max(initial=0) * 1e-12, 1e-300)
        variances, axes = variances[present], axes[:, present]
        directions = axes.T @ rows / np.sqrt(variances * len(rows))[:, None]
    else:
        variances, axes = np.linalg.eigh(rows.T @ rows / len(rows))
        directions = axes.T
    if not len(variances):  # rows that are all alike
        directions, variances = np.eye(1, rows.shape[1]), np.zeros(1)
    directions, variances = directions[::-1], np.maximum(variances[::-1], 0)
    # An eigenvector's sign is arbitrary: its largest component is made positive.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    return directions * np.where(largest < 0, -1, 1), variances
