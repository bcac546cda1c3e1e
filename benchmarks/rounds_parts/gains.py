"""What rounds gain over blind images, at equal images and at equal seconds."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from rounds_parts.stores import BLIND, SUB_BATCH, Condition
from rounds_parts.students import Study

from dmkd.generators.sources import parse_source
from dmkd.making.blocks import BlockWorker, WorkOrder
from dmkd.runtime.whole_files import write_file
from dmkd.stores import open_store
from dmkd.training.paired import Unit, paired_difference

TURNS = 5
EXPLANATION = """
Top-1 in % of the students, and points over blind images with 95 % intervals: at equal images, at equal seconds (and how many
blind images those are), and with the training of followed students. Half A of the held-out digits ranks the settings, all else is
of the other half. ~: between blind students of fewer and of more images"""


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
    print(EXPLANATION)
    print(f"{'':34}{'':32}{'half A':>7}{'top-1':>13}{'equal images':>21}{'equal seconds':>30}{'with training':>30}")
    for row in rows:
        spread = "" if row["deviation"] is None else f" ± {row['deviation']:.1f}"
        line = f"{row['setting']:34}{Condition.of(row)!s:32}{row['choosing']:7.1f}{row['reporting']:7.1f}{spread:6}"
        if row["setting"] != BLIND:
            seconds = f"{in_words(row['equal_seconds'])} {'' if row['measured'] else '~'}{row['blind_images']:,}"
            trained = f"{in_words(row['equal_seconds_with_training'])} ~{row['blind_images_with_training']:,}"
            line += f"{in_words(row['equal_images']):>21}{seconds:>30}{trained:>30}"
        print(line)


def in_words(gain: Mapping[str, float | None] | None) -> str:
    if gain is None:
        return "–"
    ends = "" if gain["low"] is None else f" [{gain['low']:+.1f}, {gain['high']:+.1f}]"
    return f"{gain['gain']:+.1f}{ends}"


def images_for(study: Study, best: Condition, sizes: Sequence[int], like: Condition) -> float | None:
    """Images of the best setting that teach as much as ``like``, on a line over the logarithm between the numbers measured."""
    if not (wanted := study.top1(like).values()):
        return None
    points = [(size, study.top1(replace(best, images=size)).values()) for size in sizes]
    means = [(np.log(size), statistics.mean(found)) for size, found in points if found]
    for (low, before), (high, after) in pairwise(means):
        if before <= statistics.mean(wanted) <= after:
            return float(np.exp(low + (high - low) * (statistics.mean(wanted) - before) / (after - before)))
    return None
