"""Students of the conditions: trained two at a time, measured on both halves of the held-out digits, and remembered."""

import argparse
import dataclasses
import json
import multiprocessing
import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
from rounds_parts.stores import BLIND, Condition, Stores

from dmkd.classifiers.evaluate import predict
from dmkd.classifiers.evaluation_data import evaluation_batches
from dmkd.classifiers.load import load_classifier
from dmkd.runtime.devices import CPU_THREADS
from dmkd.runtime.whole_files import append_line
from dmkd.stores import open_store
from dmkd.train import train
from dmkd.training.execution import Execution
from dmkd.training.paired import Unit
from dmkd.training.training_recipe import resolve_training

AT_THE_END = Execution(evaluate_every=1_000_000)


def begin_worker() -> None:
    """One thread, and no life beyond the study's own: its rerun takes over."""
    os.environ[CPU_THREADS] = "1"
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def train_student(store: str, images: int, updates: int, seed: int, out: str) -> float:
    """Train a student on the first images of a store -> seconds."""
    opened, started = open_store(store), time.perf_counter()
    select = None if images == opened.num_images else f"image_id < {images}"
    options = {"updates": updates, "batch_size": 64, "seed": seed, "select": select}
    train(resolve_training(opened, options)[1], opened, Path(out), device="cpu", execution=AT_THE_END)
    return time.perf_counter() - started


def measure_student(store: str, images: int, updates: int, seed: int, out: str) -> dict[str, float]:
    """Train a student, and measure it on each half of the held-out digits. Nothing else is kept of it."""
    seconds = train_student(store, images, updates, seed, out)
    student = load_classifier(str(Path(out) / "student"))
    found = predict(student, evaluation_batches("digits", student))
    choosing, reporting = (float(found.right[half].mean()) for half in found.halves())
    shutil.rmtree(out)
    return {"choosing": choosing, "reporting": reporting, "seconds": round(seconds, 2)}


class Study:
    """What has been measured, and how to measure more."""

    def __init__(self, options: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
        self.out, self.updates, self.pool = options.out, options.updates, pool
        self.draws, self.seeds = range(options.draws), range(options.seeds)
        self.stores = Stores(options.out)
        self.file = options.out / "students.jsonl"
        self.found: dict[tuple[Condition, int, int], dict[str, Any]] = {}
        for line in self.file.read_text().splitlines() if self.file.exists() else ():
            try:
                self._keep(json.loads(line))
            except ValueError:  # torn by a kill
                continue

    def _keep(self, row: dict[str, Any]) -> None:
        if row["updates"] == self.updates:
            self.found[Condition.of(row), row["draw"], row["seed"]] = row

    def measure(self, conditions: Iterable[Condition]) -> None:
        """Make what is missing: images, then students, one draw of all conditions after the other."""
        units = [(draw, seed) for draw in self.draws for seed in self.seeds]
        asked = list(dict.fromkeys(conditions))
        asked = [one for one in asked if any((one, *unit) not in self.found for unit in units)]
        self._images(asked)
        todo = [(one, *unit) for unit in units for one in asked if (one, *unit) not in self.found]
        jobs = [self._begin(*student) for student in todo]
        for (one, draw, seed), job in zip(todo, jobs, strict=True):
            result = job.result()
            row = {**dataclasses.asdict(one), "draw": draw, "seed": seed, "updates": self.updates, **result}
            append_line(self.file, json.dumps(row))
            self._keep(row)
            say(f"{one.setting}: {one}, draw {draw}, student {seed}: {100 * row['reporting']:.1f} %")

    def _begin(self, condition: Condition, draw: int, seed: int) -> "Future[dict[str, float]]":
        store = self.stores.path(condition, draw)
        out = store.with_suffix(f".{condition.images}-{seed}")
        return self.pool.submit(measure_student, str(store), condition.images, self.updates, seed, str(out))

    def _images(self, conditions: Sequence[Condition]) -> None:
        for one in conditions:
            for draw in self.draws:
                if one.setting == BLIND:
                    images = -(-one.images // 100) * 100
                    self.stores.blind(self.stores.path(one, draw), one, draw, images, 100)
                else:
                    self.stores.blind(self.stores.first(one, draw), one, draw, one.first, one.first)
        followers = [one for one in conditions if one.setting != BLIND]
        for number in range(1, max((one.rounds for one in followers), default=1)):
            here = [(one, draw) for draw in self.draws for one in followers if number < one.rounds]
            self._follow(here, number)
            for one, draw in here:
                self.stores.round(one, draw, number)
                say(f"{one.setting}: {one}, draw {draw}, round {number} made")

    def _follow(self, here: Sequence[tuple[Condition, int]], number: int) -> None:
        """Train the students that this round follows."""
        jobs = {}
        for condition, draw in here:
            run = self.stores.followed(condition, draw, number)
            if run not in jobs and not (run / "summary.json").exists():
                store = (self.stores.first if number == 1 else self.stores.path)(condition, draw)
                images = condition.first * number
                jobs[run] = self.pool.submit(train_student, str(store), images, self.updates, 0, str(run))
        for run, job in jobs.items():
            say(f"{run.relative_to(self.out)}: {job.result():.1f} s")

    def top1(self, condition: Condition, half: str = "reporting") -> dict[Unit, float]:
        """In percent, of each draw and seed asked for that has been measured."""
        return {
            (draw, seed): 100 * row[half]
            for (one, draw, seed), row in self.found.items()
            if one == condition and draw in self.draws and seed in self.seeds
        }

    def best(self, conditions: Iterable[Condition], speed: Mapping[str, float]) -> Condition:
        """By the half to choose on: of those within a standard error of the first (Breiman et al. 1984) the fastest; of equally
        fast ones, to 5 %, the one that is listed first."""
        listed = list(conditions)
        gains = {one: self._gains_to_choose_on(one) for one in listed}
        first = max(listed, key=lambda one: statistics.mean(gains[one]))
        error = statistics.stdev(gains[first]) / len(gains[first]) ** 0.5 if len(gains[first]) > 1 else 0.0
        near = [one for one in listed if statistics.mean(gains[one]) >= statistics.mean(gains[first]) - error]
        fastest = max(speed[one.setting] for one in near)
        return next(one for one in near if speed[one.setting] >= 0.95 * fastest)

    def _gains_to_choose_on(self, condition: Condition) -> list[float]:
        """Over blind images, in points, a mean for each draw."""
        these, blind = self.top1(condition, "choosing"), self.top1(condition.blind(), "choosing")
        of_draw: dict[int, list[float]] = {}
        for unit in sorted(these.keys() & blind.keys()):
            of_draw.setdefault(unit[0], []).append(these[unit] - blind[unit])
        return [statistics.mean(found) for found in of_draw.values()]

    def training_seconds(self) -> float:
        """Of a student, on one thread."""
        return statistics.median(row["seconds"] for row in self.found.values())

    def interpolated(self, like: Condition, images: float) -> dict[Unit, float]:
        """As :meth:`top1`, of blind images, between the numbers of them that were measured: on a line over the logarithm. Beyond
        them nothing."""
        blind = [one for one in {key[0] for key in self.found} if one == like.blind(one.images)]
        sizes = sorted(one.images for one in blind if len(self.top1(one)) == len(self.draws) * len(self.seeds))
        if not sizes or not sizes[0] <= images <= sizes[-1]:
            return {}
        curves = [self.top1(like.blind(size)) for size in sizes]
        return {
            unit: float(np.interp(np.log(images), np.log(sizes), [curve[unit] for curve in curves]))
            for unit in curves[0]
        }


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)
