"""Do rounds of images that follow a student teach more than blind images? On the bundled digits.

    python benchmarks/rounds_study.py [--draws 3] [--seeds 5] [--updates 240] [--workers 2] [--plot FILE.png] [--quick] [--json]

A blind store is plain ``generate``. With k rounds, 1/k of the images are blind and each following round is made for a student that
learned from all images so far; then fresh students learn from all images. Every condition is measured on several draws (seeds of
the store) with several students each, and compared with blind images in pairs of the same draw and student's seed, with 95 %
intervals of which each draw is one observation. All students take the same number of optimiser steps.

First every setting at 300 images and 2 rounds; the best of them then at other numbers of images, other views, more rounds and
another guidance. Nothing is chosen by what is reported: of the 360 held-out digits one half ranks the settings, and all figures but
that one are of the other half.

At equal seconds a blind store has as many images as its generator makes in the time that the rounds took: by images a second of
both, which take turns in this process, without labels or the training of the followed students. The last is told beside it.

Writes ``OUT/students.jsonl`` (a line a student), ``OUT/rates.json``, ``OUT/conditions.csv`` and ``OUT/rounds.json``; stores
and followed students are below ``OUT/draw<seed>``. If interrupted, rerun the same command to resume. The last line of ``--json`` is
``{"equal_images": {"300": {"gain", "low", "high"}, ...}, "equal_seconds": {...}}``, points of top-1 of the best setting over blind
images. ``--quick``: one draw, three students, 300 images, :data:`RECOMMENDED` alone, about three minutes.
"""

import argparse
import csv
import dataclasses
import json
import multiprocessing
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.classifiers.evaluate import predict
from dmkd.classifiers.evaluation_data import evaluation_batches
from dmkd.classifiers.load import load_classifier
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.generators.sources import parse_source
from dmkd.making.blocks import BlockWorker, WorkOrder
from dmkd.recipes.rounds import RoundOptions
from dmkd.runtime.devices import CPU_THREADS
from dmkd.runtime.progress import Silent
from dmkd.runtime.whole_files import append_line, write_file
from dmkd.stores import open_store, store_exists
from dmkd.train import train
from dmkd.training.execution import Execution
from dmkd.training.paired import Unit, paired_difference
from dmkd.training.training_recipe import resolve_training

TEACHER = "digits-resnet"
OF_DIGITS = ",scale=0.6:1,ratio=0.9:1.1,flip=0"  # as dmkd/digits/pipeline/defaults.json has it
VIEWS = {"center": "center", "rrc:4": f"rrc:4{OF_DIGITS}", "rrc:32+cutmix": f"rrc:32+cutmix{OF_DIGITS}"}
SUB_BATCH = 50  # divides most rounds; also the images of a turn of the stopwatch
TURNS = 5
HERE = RunOptions(workers=0, device="cpu")
AT_THE_END = Execution(evaluate_every=1_000_000)

BLIND = "blind"
CHEAP: dict[str, Any] = {"candidates": 4, "candidate_steps": 5}
SETTINGS: dict[str, dict[str, Any]] = {
    "4 candidates": {"candidates": 4},
    "4 cheap": CHEAP,
    "8 cheap": {**CHEAP, "candidates": 8},
    "gradient 0.1": {"strength": 0.1},
    "gradient 0.03": {"strength": 0.03},
    "gradient 0.3 or less": {"strength": 0.3, "agreement": 0.4},
    "shares 0.5": {"class_shares": 0.5},
    "shares 1": {"class_shares": 1.0},
    "class guidance": {"class_guidance": "1:4", "agreement": 0.8},
    "4 cheap, shares 0.5": {**CHEAP, "class_shares": 0.5},
    "4 cheap, shares 0.5, gradient 0.1": {**CHEAP, "class_shares": 0.5, "strength": 0.1},
    "4 cheap by entropy": {**CHEAP, "score": "entropy"},
    "4 cheap by learnability": {**CHEAP, "score": "learnability"},
    "4 cheap by kl:1": {**CHEAP, "score": "kl:1"},
}
RECOMMENDED = "4 cheap, shares 0.5"  # what --quick measures


@dataclass(frozen=True)
class Condition:
    """What students are trained on, but for the draw."""

    setting: str = BLIND
    images: int = 300
    rounds: int = 2  # of a setting that is not blind
    views: str = "rrc:4"
    guidance: float = 1.0

    @property
    def first(self) -> int:
        """Images of the blind round."""
        return self.images // self.rounds

    def blind(self, images: int | None = None) -> "Condition":
        """Of as many images, or of this number."""
        return replace(self, setting=BLIND, rounds=1, images=self.images if images is None else images)

    def __str__(self) -> str:
        words = [f"{self.images:,} images"] + ([] if self.setting == BLIND else [f"{self.rounds} rounds"])
        words += [] if self.views == "rrc:4" else [self.views]
        return ", ".join(words + ([] if self.guidance == 1 else [f"guidance {self.guidance:g}"]))


class Stores:
    """Where a condition's images are: made once, and shared where two conditions begin alike."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def folder(self, condition: Condition, draw: int) -> Path:
        views = condition.views.replace(":", "").replace("+", "-")
        return self.out / f"draw{draw}" / f"{views}-guidance{condition.guidance:g}"

    def path(self, condition: Condition, draw: int) -> Path:
        """The store that holds the images; a blind one may hold more."""
        name = condition.setting.replace(":", "").replace(", ", "-").replace(" ", "-")
        size = "" if condition.setting == BLIND else f"-{condition.images}-in-{condition.rounds}"
        return self.folder(condition, draw) / f"{name}{size}.zarr"

    def first(self, condition: Condition, draw: int) -> Path:
        return self.folder(condition, draw) / f"first-{condition.first}.zarr"

    def followed(self, condition: Condition, draw: int, number: int) -> Path:
        """The run of the student that a round follows."""
        if number == 1:
            return self.first(condition, draw).with_suffix(".student")
        return self.path(condition, draw).with_suffix(f".student{number}")

    def blind(self, path: Path, condition: Condition, draw: int, images: int, block_size: int) -> None:
        """Make or grow a store of blind images."""
        if store_exists(str(path)):
            asked = ImageOptions(images=images)
        else:
            asked = ImageOptions(
                generator="digits",
                images=images,
                sampler="ddim",
                steps=20,
                guidance=condition.guidance,
                seed=draw,
                sub_batch=SUB_BATCH,
                block_size=block_size,
            )
        if not is_whole(path, images):
            generate(str(path), asked, LabelOptions((TEACHER,), VIEWS[condition.views]), HERE, Silent())

    def round(self, condition: Condition, draw: int, number: int) -> None:
        """Make round ``number`` of a store, whose followed student is there."""
        path, stop = self.path(condition, draw), condition.first * (number + 1)
        if number == condition.rounds - 1:
            stop = condition.images
        if not path.exists():
            copy = path.with_suffix(".copy")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.first(condition, draw), copy)
            copy.rename(path)
        if not is_whole(path, stop):
            follow = str(self.followed(condition, draw, number) / "student")
            asked = RoundOptions(follow, **SETTINGS[condition.setting])
            generate(str(path), ImageOptions(images=stop), LabelOptions(), HERE, Silent(), round_options=asked)

    def seconds(self, condition: Condition, draw: int) -> list[float]:
        """Of each round, for images, their scores and labels, by the store's log: a round is a block."""
        made = [row for run in open_store(str(self.path(condition, draw))).runs() for row in run["blocks"]]
        return [sum(row[2] for row in made if row[0] == number) for number in range(condition.rounds)]


def is_whole(path: Path, images: int) -> bool:
    """Whether a store has that many images, with labels."""
    if not store_exists(str(path)):
        return False
    store = open_store(str(path))
    sets = list(store.labels.values())
    return store.num_images >= images and bool(sets) and not any(one.missing_blocks() for one in (store, *sets))


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
            condition = Condition(**{field.name: row[field.name] for field in dataclasses.fields(Condition)})
            self.found[condition, row["draw"], row["seed"]] = row

    def measure(self, conditions: Iterable[Condition]) -> None:
        """Make what is missing: images, then students, one draw of all conditions after the other."""
        units = [(draw, seed) for draw in self.draws for seed in self.seeds]
        asked = list(dict.fromkeys(conditions))
        asked = [one for one in asked if any((one, *unit) not in self.found for unit in units)]
        self._images(asked)
        todo = [(one, *unit) for unit in units for one in asked if (one, *unit) not in self.found]
        arguments = [
            (
                str(self.stores.path(one, draw)),
                one.images,
                self.updates,
                seed,
                str(
                    self.out
                    / "runs"
                    / f"{self.stores.path(one, draw).stem}-{one.images}-{one.views}-{one.guidance}-{draw}-{seed}"
                ),
            )
            for one, draw, seed in todo
        ]
        for (one, draw, seed), result in zip(
            todo, self.pool.map(measure_student, *zip(*arguments, strict=True)) if todo else ()
        ):
            row = {**dataclasses.asdict(one), "draw": draw, "seed": seed, "updates": self.updates, **result}
            append_line(self.file, json.dumps(row))
            self._keep(row)
            say(f"{one.setting}: {one}, draw {draw}, student {seed}: {100 * row['reporting']:.1f} %")

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
        runs = {self.stores.followed(*one, number): one for one in here}
        jobs = {}
        for run, (condition, draw) in runs.items():
            if not (run / "summary.json").exists():
                begun = (self.stores.first if number == 1 else self.stores.path)(condition, draw)
                arguments = (str(begun), condition.first * number, self.updates, 0, str(run))
                jobs[run] = self.pool.submit(train_student, *arguments)
        for run, job in jobs.items():
            seconds = job.result()
            say(f"{run.relative_to(self.out)}: {seconds:.1f} s")

    def top1(self, condition: Condition, half: str = "reporting") -> dict[Unit, float]:
        """In percent, of each draw and seed asked for that has been measured."""
        return {
            (draw, seed): 100 * row[half]
            for (one, draw, seed), row in self.found.items()
            if one == condition and draw in self.draws and seed in self.seeds
        }

    def best(self, conditions: Iterable[Condition], rates: Mapping[str, float]) -> Condition:
        """By the half to choose on; of equals the cheapest."""
        return max(
            conditions,
            key=lambda one: (round(statistics.mean(self.top1(one, "choosing").values()), 6), rates[one.setting]),
        )

    def training_seconds(self) -> float:
        return statistics.median(row["seconds"] for row in self.found.values())

    def interpolated(self, like: Condition, images: float) -> dict[Unit, float]:
        """Blind students of so many images, of each unit: on a line over the logarithm, between the numbers measured. None beyond
        them."""
        blind = [one for one in {key[0] for key in self.found} if one.blind() == like.blind(one.images)]
        sizes = sorted(one.images for one in blind if len(self.top1(one)) == len(self.draws) * len(self.seeds))
        if not sizes or not sizes[0] <= images <= sizes[-1]:
            return {}
        curves = [self.top1(like.blind(size)) for size in sizes]
        return {
            unit: float(np.interp(np.log(images), np.log(sizes), [curve[unit] for curve in curves]))
            for unit in curves[0]
        }


def rates(study: Study, settings: Sequence[str]) -> dict[str, float]:
    """Images a second of each setting's followed round, labels not counted: median of turns that they take in this process."""
    path = study.out / "rates.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if not set(settings) <= known.keys():
        makers: dict[str, Callable[[], Any]] = {}
        for setting in settings:
            condition = Condition(setting)
            store = study.stores.path(condition.blind() if setting == BLIND else condition, 0)
            opened = open_store(str(store))
            source = parse_source(str(opened.source))
            worker = BlockWorker(WorkOrder(str(store), (), "cpu", opened.recipe["cpu_threads"], source.weights))
            start = 0 if setting == BLIND else condition.first
            makers[setting] = partial(worker.make_images, np.arange(start, start + SUB_BATCH))
        seen: dict[str, list[float]] = {setting: [] for setting in settings}
        for turn in range(TURNS + 1):
            for setting, make in makers.items():
                started = time.perf_counter()
                make()
                if turn:  # the first warms up
                    seen[setting].append(SUB_BATCH / (time.perf_counter() - started))
        known = {
            name: {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}
            for name, found in seen.items()
        }
        write_file(path, (json.dumps(known, indent=2) + "\n").encode())
    return {name: found["median"] for name, found in known.items()}


def equal_seconds(condition: Condition, speed: Mapping[str, float], training: float = 0.0) -> int:
    """Blind images that take as long as the condition's, with ``training`` seconds of each followed student."""
    per_image = speed[BLIND] / speed[condition.setting]
    more = (condition.rounds - 1) * training * speed[BLIND]
    return round(condition.first + (condition.images - condition.first) * per_image + more)


def difference(these: Mapping[Unit, float], others: Mapping[Unit, float]) -> dict[str, float | None] | None:
    found = paired_difference(these, others)
    if found is None:
        return None
    ends = {"gain": found.mean, "low": found.low, "high": found.high}
    return {name: None if value is None else round(value, 2) for name, value in ends.items()}


def rows_of(study: Study, conditions: Iterable[Condition], speed: Mapping[str, float]) -> list[dict[str, Any]]:
    """What is reported of each condition that has been measured."""
    rows, training = [], study.training_seconds()
    for one in dict.fromkeys(conditions):
        these = study.top1(one)
        if not these:
            continue
        row: dict[str, Any] = {**dataclasses.asdict(one), "students": len(these)}
        row["choosing"] = statistics.mean(study.top1(one, "choosing").values())
        row["reporting"] = statistics.mean(these.values())
        row["deviation"] = statistics.stdev(these.values()) if len(these) > 1 else None
        if one.setting != BLIND:
            row["images_per_second"] = speed[one.setting]
            row["seconds"] = [study.stores.seconds(one, draw) for draw in study.draws]
            row["equal_images"] = difference(these, study.top1(one.blind()))
            row["blind_images"] = equal_seconds(one, speed)
            exact = study.top1(one.blind(row["blind_images"]))
            row["measured"] = bool(exact)
            row["equal_seconds"] = difference(these, exact or study.interpolated(one, row["blind_images"]))
            row["blind_images_with_training"] = equal_seconds(one, speed, training)
            row["equal_seconds_with_training"] = difference(
                these, study.interpolated(one, row["blind_images_with_training"])
            )
        rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    print("\nTop-1 in % on the half of the held-out digits that is reported; points over blind images, 95 % interval")
    print(f"{'setting':34}{'of':38}{'chosen by':>10}{'top-1':>13}{'equal images':>24}{'equal seconds':>32}")
    for row in rows:
        condition = Condition(**{field.name: row[field.name] for field in dataclasses.fields(Condition)})
        spread = "" if row["deviation"] is None else f" ± {row['deviation']:.1f}"
        line = f"{row['setting']:34}{condition!s:38}{row['choosing']:10.1f}{row['reporting']:7.1f}{spread:6}"
        if row["setting"] != BLIND:
            seconds = f"{in_words(row['equal_seconds'])} ({row['blind_images']:,}{'' if row['measured'] else ' ~'})"
            line += f"{in_words(row['equal_images']):>24}{seconds:>32}"
        print(line)
    print("~ between blind students of fewer and of more images, on a line over the logarithm")


def in_words(gain: Mapping[str, float | None] | None) -> str:
    if gain is None:
        return "–"
    ends = "" if gain["low"] is None else f" [{gain['low']:+.1f}, {gain['high']:+.1f}]"
    return f"{gain['gain']:+.1f}{ends}"


def images_for(study: Study, best: Condition, sizes: Sequence[int], target: float) -> float | None:
    """Images of the setting that teach as much as ``target``, on a line over the logarithm between the numbers measured."""
    points = [(size, list(study.top1(replace(best, images=size)).values())) for size in sizes]
    means = [(np.log(size), statistics.mean(found)) for size, found in points if found]
    for (low, before), (high, after) in zip(means, means[1:], strict=False):
        if before <= target <= after:
            return float(np.exp(low + (high - low) * (target - before) / (after - before)))
    return None


def plot(rows: Sequence[Mapping[str, Any]], best: Condition, path: Path) -> None:
    """Gains at equal images and at equal seconds: by setting at the first condition's number of images, and by that number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_setting, by_images = figure.subplots(1, 2, width_ratios=(1.5, 1))
    followers = [row for row in rows if row["setting"] != BLIND]
    at = [row for row in followers if condition_of(row) == replace(best, setting=row["setting"])]
    at.sort(key=lambda row: row["equal_images"]["gain"])
    of_best = [row for row in followers if condition_of(row) == replace(best, images=row["images"])]
    of_best.sort(key=lambda row: row["images"])
    for shift, name in ((0.12, "equal_images"), (-0.12, "equal_seconds")):
        label = name.replace("_", " ")
        shown = [(place, row[name]) for place, row in enumerate(at) if row[name]]
        by_setting.errorbar(
            [gain["gain"] for _, gain in shown],
            [place + shift for place, _ in shown],
            xerr=bars(shown),
            fmt="o",
            label=label,
        )
        points = [(row["images"], row[name]) for row in of_best if row[name]]
        by_images.errorbar(
            [size for size, _ in points],
            [gain["gain"] for _, gain in points],
            yerr=bars(points),
            fmt="o-",
            capsize=3,
            label=label,
        )
    by_setting.set_yticks(range(len(at)), [row["setting"] for row in at])
    by_setting.set(title=f"{best.images} images", xlabel="points of top-1 over blind images")
    by_setting.axvline(0, color="black", linewidth=0.8)
    by_images.set_xscale("log")
    sizes = [row["images"] for row in of_best]
    by_images.set_xticks(sizes, [f"{size:,}" for size in sizes])
    by_images.minorticks_off()
    by_images.set(title=best.setting, xlabel="images")
    by_images.axhline(0, color="black", linewidth=0.8)
    by_images.legend()
    for subplot in (by_setting, by_images):
        subplot.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def bars(shown: Sequence[tuple[Any, Mapping[str, float | None]]]) -> list[list[float]]:
    """Below and above each gain, as errorbar takes them; nothing where there is no interval."""
    gains = [gain for _, gain in shown]
    return [
        [abs(gain["gain"] - (gain["gain"] if gain[end] is None else gain[end])) for gain in gains]
        for end in ("low", "high")
    ]


def condition_of(row: Mapping[str, Any]) -> Condition:
    return Condition(**{field.name: row[field.name] for field in dataclasses.fields(Condition)})


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)


def report(
    study: Study, conditions: Sequence[Condition], speed: Mapping[str, float], best: Condition
) -> list[dict[str, Any]]:
    """Write and print what is known -> its rows."""
    rows = rows_of(study, conditions, speed)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (study.out / "conditions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    sizes = sorted({one.images for one in conditions if one == replace(best, images=one.images)})
    like = list(study.top1(best.blind(1000)).values())
    results = {
        "best": dataclasses.asdict(best),
        "images_per_second": speed,
        "training_seconds_of_a_followed_student": study.training_seconds(),
        "images_for_the_accuracy_of_1000_blind_ones": images_for(study, best, sizes, statistics.mean(like))
        if like
        else None,
        "rows": rows,
    }
    write_file(study.out / "rounds.json", (json.dumps(results, indent=2) + "\n").encode())
    show(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("rounds-study"), help="folder of stores and results")
    parser.add_argument("--draws", type=int, default=3, help="stores of each condition")
    parser.add_argument("--seeds", type=int, default=5, help="students of each")
    parser.add_argument("--updates", type=int, default=240, help="optimiser steps of each student")
    parser.add_argument(
        "--workers", type=int, default=2, help="students that are trained at a time, on one thread each"
    )
    parser.add_argument("--plot", type=Path, help="draw the gains (needs matplotlib)")
    parser.add_argument("--quick", action="store_true", help="one draw, three students, one setting, in OUT/quick")
    parser.add_argument("--json", action="store_true", help="last line: the best setting's gains")
    options = parser.parse_args()
    if options.quick:
        options.out, options.draws, options.seeds = options.out / "quick", 1, 3
    options.out.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn, initializer=begin_worker) as pool:
        study = Study(options, pool)
        settings = [RECOMMENDED] if options.quick else list(SETTINGS)
        conditions = [Condition().blind(), *(Condition(setting) for setting in settings)]
        study.measure(conditions)
        speed = rates(study, [BLIND, *settings])
        best = study.best(conditions[1:], speed)
        rows = report(study, conditions, speed, best)
        for more in [with_rivals(best, speed)] if options.quick else phases(best, speed):
            study.measure(more)
            conditions += more
            rows = report(study, conditions, speed, best)
    if options.plot:
        plot(rows, best, options.plot)
    gains = {str(row["images"]): row for row in rows if condition_of(row) == replace(best, images=row["images"])}
    if options.json:
        print(
            json.dumps({name: {n: row[name] for n, row in gains.items()} for name in ("equal_images", "equal_seconds")})
        )


def with_rivals(best: Condition, speed: Mapping[str, float]) -> list[Condition]:
    """A condition, and blind images of the same number and of the same seconds."""
    return [best.blind(), best, best.blind(equal_seconds(best, speed))]


def phases(best: Condition, speed: Mapping[str, float]) -> Iterable[list[Condition]]:
    """What is measured beside the settings, the most important first."""
    for images in (300, 100, 1000):
        yield with_rivals(replace(best, images=images), speed)
    for other in (
        replace(best, views="center"),
        replace(best, views="rrc:32+cutmix"),
        replace(best, rounds=5),
        replace(best, rounds=5, images=1000),
        replace(best, guidance=2.0),
        replace(best, images=3000),
    ):
        yield with_rivals(other, speed)


if __name__ == "__main__":
    main()
