"""Whether one condition is better than another: differences of paired runs, and a 95 % interval of their mean.

Runs are paired by what they share, the images that were drawn and the student's seed, so what these do to both is no part of
the difference. With several draws of images each draw's mean difference is one observation, since students of the same images are
alike; with one draw each seed's is, and the interval speaks of other students of these very images alone.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

Unit = tuple[int, int]  # draw, seed
ALIKE = 1e-9  # differences of accuracies that are the same but for rounding

# The 97.5 % quantile of Student's t for 1, 2, ... 30 degrees of freedom; beyond these :func:`quantile`'s expansion is exact to 4
# digits.
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
    2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A mean difference and its 95 % interval; without one, the bounds are None: there are not two observations, or they are
    alike to the last image, as few coarse ones may be by chance, and say nothing of how others would vary."""

    mean: float
    low: float | None
    high: float | None
    observations: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def paired_difference(these: Mapping[Unit, float], baseline: Mapping[Unit, float]) -> Difference | None:
    """``these`` minus ``baseline``, over the units that both have; None if they share none."""
    by_draw: dict[int, list[float]] = defaultdict(list)
    for draw, seed in sorted(these.keys() & baseline.keys()):
        by_draw[draw].append(these[draw, seed] - baseline[draw, seed])
    if not by_draw:
        return None
    observed = [statistics.mean(of_seeds) for of_seeds in by_draw.values()]
    if len(observed) == 1:
        (observed,) = by_draw.values()
    mean = statistics.mean(observed)
    if len(observed) == 1 or max(observed) - min(observed) < ALIKE:
        return Difference(mean, None, None, len(observed))
    reach = quantile(len(observed) - 1) * statistics.stdev(observed) / math.sqrt(len(observed))
    return Difference(mean, mean - reach, mean + reach, len(observed))


def quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution: a table, then Fisher's expansion (Abramowitz & Stegun 26.7.5)."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
