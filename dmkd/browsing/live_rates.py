"""Images a second, from the moments at which blocks were finished."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LATELY_SECONDS = 60.0
MOST_BINS = 120
SHORTEST_SECONDS = 1e-3  # in which a rate is one


@dataclass(frozen=True)
class Done:
    """What a run, or one of its workers, has finished, in order of time: images of each block, float64 (n,), when it was begun
    and when it was there (Unix time)."""

    images: np.ndarray
    begun: np.ndarray
    at: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, seconds: np.ndarray, at: np.ndarray) -> "Done":
        """``seconds``: how long each block took. One follows the other, unless there was room for a whole one between them."""
        order = np.argsort(at, kind="stable")
        images, seconds, at = images[order], seconds[order], at[order]
        before = np.concatenate([[-np.inf], at[:-1]])
        return cls(images, np.where(at - seconds - before > seconds, at - seconds, before), at)

    @property
    def overall(self) -> float | None:
        """Images a second from the first block's beginning to the last one's end; None where there is none."""
        return _rate(self.images.sum(), self.at[-1] - self.begun[0]) if len(self.at) else None

    @property
    def lately(self) -> float | None:
        """Over the last minute before the last block, or longer where a block takes longer; None where there is none."""
        if not len(self.at):
            return None
        first = int(np.searchsorted(self.at, self.at[-1] - LATELY_SECONDS, side="right"))
        since = self.at[first - 1] if first else self.begun[0]
        return _rate(self.images[first:].sum(), self.at[-1] - since)

    def binned(self, edges: np.ndarray) -> list[float]:
        """Images a second between two edges (Unix times), each block's evenly spread from its beginning to its end."""
        times = np.stack([self.begun, self.at], 1).ravel()
        total = np.cumsum(self.images)
        counts = np.stack([total - self.images, total], 1).ravel()
        per_bin = np.diff(np.interp(edges, times, counts)) if len(times) else np.zeros(len(edges) - 1)
        return [round(float(rate), 3) for rate in per_bin / np.diff(edges)]


def edges_of(workers: Sequence[Done]) -> np.ndarray:
    """The edges of bins over the time in which they worked, a second wide or wider; none of them may have finished nothing."""
    start, end = min(one.begun[0] for one in workers), max(one.at[-1] for one in workers)
    bins = int(np.clip(end - start, 1, MOST_BINS))
    return np.linspace(start, max(end, start + 1.0), bins + 1)


def _rate(images: float, seconds: float) -> float | None:
    return float(images / seconds) if seconds > SHORTEST_SECONDS else None
