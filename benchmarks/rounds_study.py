"""Do rounds of images that follow a student teach more than blind images? On the bundled digits.

    python benchmarks/rounds_study.py [--draws 3] [--seeds 5] [--updates 240] [--workers 2] [--plot FILE.png]
                                      [--quick] [--json]

A blind store is plain ``generate``. With k rounds, 1/k of the images are blind and each round that follows is made for a
student that learned from all images so far; then fresh students learn from all of them, with the same number of optimiser steps
whatever their images. Every condition is measured on several draws (seeds of the store) with several students each, and compared
with blind images in pairs of the same draw and student's seed, with 95 % intervals of which each draw is one observation.

First every setting at 300 images in 2 rounds; then the best one at other numbers of images, with other views, more rounds and
another guidance. Nothing is chosen by what is reported: one half of the 360 held-out digits ranks the settings, and the
accuracies and gains that are told are of the other half.

At equal seconds there are as many blind images as their generator makes in the time that the rounds took, by images a second of
both, which take turns in this process. Labels are not counted, nor is the training of the followed students; gains with the
latter counted are told beside them.

Writes ``OUT/students.jsonl`` (a line a student), ``OUT/rates.json``, ``OUT/conditions.csv`` and ``OUT/rounds.json``; stores and
followed students are in ``OUT/draw<seed>``. If interrupted, rerun the same command to resume. The last line of ``--json`` is
``{"equal_images": {"300": {"gain", "low", "high"}, ...}, "equal_seconds": {...}}``, points of top-1 of the best setting over
blind images. ``--quick``: one draw, three students, 300 images, :data:`RECOMMENDED` alone, about three minutes.
"""

import argparse
import csv
import dataclasses
import json
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rounds_parts.figure import plot
from rounds_parts.gains import equal_seconds, images_for, rates, rows_of, show
from rounds_parts.stores import BLIND, SETTINGS, Condition
from rounds_parts.students import Study, begin_worker

from dmkd.runtime.whole_files import write_file

RECOMMENDED = "4 cheap"  # what --quick measures


def report(
    study: Study, conditions: Sequence[Condition], speed: Mapping[str, float], best: Condition
) -> list[dict[str, Any]]:
    """Write and print what is known -> its rows."""
    rows = rows_of(study, conditions, speed)
    lines = [flat(row) for row in rows]
    with (study.out / "conditions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for line in lines for name in line)))
        writer.writeheader()
        writer.writerows(lines)
    sizes = sorted({one.images for one in conditions if one == replace(best, images=one.images)})
    results = {
        "best": dataclasses.asdict(best),
        "images_per_second": speed,
        "training_seconds_of_a_followed_student": study.training_seconds(),
        "images_for_the_accuracy_of_1000_blind_ones": images_for(study, best, sizes, best.blind(1000)),
        "rows": rows,
    }
    write_file(study.out / "rounds.json", (json.dumps(results, indent=2) + "\n").encode())
    show(rows)
    return rows


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of numbers and words alone, for a table."""
    line: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            line |= {f"{name}_{end}": number for end, number in value.items()}
        elif value is not None and not isinstance(value, list):
            line[name] = value
    return line


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
    gains = {str(row["images"]): row for row in rows if Condition.of(row) == replace(best, images=row["images"])}
    if options.json:
        ways = ("equal_images", "equal_seconds")
        print(json.dumps({way: {images: row[way] for images, row in gains.items()} for way in ways}))


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
        replace(best, images=3000),
        replace(best, rounds=5, images=1000),
        replace(best, guidance=2.0),
    ):
        yield with_rivals(other, speed)


if __name__ == "__main__":
    main()
