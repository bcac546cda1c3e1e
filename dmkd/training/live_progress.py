"""How far a training run is, for whoever looks on: ``progress.json`` in its folder, replaced whole every few seconds.

It is a note, like a store's run log, whose words it uses: nothing reads it to resume, and a disk that refuses it ends no run.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from dmkd.runtime.progress import Rate
from dmkd.runtime.whole_files import write_file
from dmkd.stores import StoreWriteError
from dmkd.stores.run_log import outcome_of, utc_now
from dmkd.training.run import Progress, TrainingRun
from dmkd.training.run_folder import PROGRESS

SAVE_SECONDS = 3.0
MOST_POINTS = 256
POINT = ("images", "loss", "lr", "images_per_second")  # seen in all epochs; the mean since the last point


class LiveProgress:
    """The file of one run, written by the worker that leads. A context: how it exits is recorded as the outcome.

    Facts: ``started``, ``saved`` and ``ended`` (ISO 8601), ``outcome``, ``driver`` (``host``, ``pid``), ``student``, ``store``
    (``path``, ``identity``), ``epoch`` of ``epochs``, ``images`` of ``total_images``, ``images_per_second`` lately, and
    ``points``, a list for each name of :data:`POINT`: at most 256 since this process began, evenly over what it has done.
    """

    def __init__(self, run: TrainingRun, begin: Callable[[int], None], report: Callable[[Progress], None]) -> None:
        """``begin`` and ``report`` are called as well."""
        self._file, self._and_begin, self._and_report = run.out / PROGRESS, begin, report
        self._lr: Callable[[], float] = lambda: run.optimisation.lr
        self._total = run.length.images_seen(run.length.updates, run.loader.num_images)
        self._facts: dict[str, Any] = {
            "started": utc_now(),
            "ended": None,
            "outcome": "running",
            "driver": {"host": socket.gethostname(), "pid": os.getpid()},
            "student": run.recipe.student,
            "store": {"path": run.store.path, "identity": run.store.identity},
            "epochs": run.length.epochs,
            "total_images": self._total,
        }
        self._points: list[tuple[float, ...]] = []
        self._every, self._losses = 1, list[float]()  # reports that a point stands for; of those since the last one
        self._due = 0.0

    def begin(self, images: int) -> None:
        """Before the first report: earlier processes have seen so many images. Of a run that is over nothing is written."""
        self._and_begin(images)
        self._rate, self._images = Rate(time.monotonic()), images
        if images < self._total:
            self._save()

    def report(self, progress: Progress) -> None:
        self._and_report(progress)
        if progress.images > self._images:
            self._rate.add(progress.images - self._images, time.monotonic())
            self._images = progress.images
            self._losses.append(progress.loss)
        self._facts["epoch"] = progress.epoch
        if len(self._losses) == self._every:
            loss = sum(self._losses) / self._every
            self._points.append((self._images, loss, self._lr(), round(self._rate.per_second, 2)))
            self._losses = []
        if len(self._points) == MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points, self._every = [(b[0], (a[1] + b[1]) / 2, *b[2:]) for a, b in pairs], 2 * self._every
        if time.monotonic() >= self._due:
            self._save()

    def __enter__(self) -> "LiveProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._due:
            self._facts |= {"ended": utc_now(), "outcome": outcome_of(error)}
            self._save()

    def _save(self) -> None:
        facts = {
            **self._facts,
            "images": self._images,
            "images_per_second": round(self._rate.per_second, 2),
            "points": {name: [point[column] for point in self._points] for column, name in enumerate(POINT)},
            "saved": utc_now(),
        }
        with suppress(StoreWriteError):
            write_file(self._file, json.dumps(facts).encode())
        self._due = time.monotonic() + SAVE_SECONDS
