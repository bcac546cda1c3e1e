"""What a training run knows of time without stopping its workers or waiting for its GPU: its clock, and when to save."""

import time
from collections.abc import Iterator

from dmkd.loading import Batch
from dmkd.loading.mixture import MixedBatch
from dmkd.training.team import Team

LOOK_SECONDS = 10.0  # between two looks at the clock of the worker that leads, at most, if steps are shorter


class Clock:
    """Seconds of an epoch, and how many of them went into waiting for the loader."""

    def __init__(self, seconds: float, waited: float) -> None:
        self.start, self.waited = time.perf_counter() - seconds, waited

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def parts(self, batches: Iterator[Batch | MixedBatch], count: int) -> Iterator[tuple[Batch | MixedBatch, bool]]:
        """The next ``count`` batches, each with whether it is the last of them."""
        for number in range(count):
            start = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - start
            yield batch, number + 1 == count


class Checkpoints:
    """When the next checkpoint is due. Workers must agree on the step, and would wait for each other if they asked at each:
    they ask once in a while, and agree then on the number of steps until they ask again."""

    def __init__(self, team: Team, seconds: float) -> None:
        """``seconds`` between two checkpoints."""
        self._team, self._seconds = team, seconds
        self._steps, self._next = 0, 1  # since the last look, and at which of these to look again
        self.saved()

    def saved(self) -> None:
        """One has just been written."""
        self._saved = self._looked = time.monotonic()

    def due(self) -> bool:
        """Whether to save now, the same on all workers: to be asked after each step."""
        self._steps += 1
        if self._steps < self._next:
            return False
        due, steps = self._team.sum(*(self._look() if self._team.leads else (False, 0)))
        self._steps, self._next = 0, int(steps)
        return bool(due)

    def _look(self) -> tuple[bool, int]:
        now = time.monotonic()
        a_step, left = (now - self._looked) / self._steps, self._saved + self._seconds - now
        self._looked = now
        wait = min(LOOK_SECONDS, left if left > 0 else self._seconds)
        return left <= 0, max(1, int(wait / max(a_step, 1e-6)))
