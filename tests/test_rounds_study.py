"""benchmarks/rounds_study.py compares what it says it compares."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from rounds_parts.gains import equal_seconds, images_for, rows_of
from rounds_parts.stores import Condition
from rounds_parts.students import Study

FOLLOWING = Condition("4 cheap")
BLIND = FOLLOWING.blind()


def study_of(folder, top1, torn=""):
    """A study that has measured two draws with one student each: condition -> (choosing, reporting) of the first, in [0, 1]; the
    second draw's are a hundredth higher."""
    rows = [
        {
            **asdict(one),
            "draw": draw,
            "seed": 0,
            "updates": 240,
            "choosing": choosing,
            "reporting": reporting + draw / 100,
            "seconds": 8,
        }
        for one, (choosing, reporting) in top1.items()
        for draw in (0, 1)
    ]
    (folder / "students.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return Study(SimpleNamespace(out=folder, updates=240, draws=2, seeds=1), pool=None)


def test_blind_images_of_the_same_seconds_begin_with_the_same_first_round():
    speed = {"blind": 100.0, "4 cheap": 50.0}
    assert equal_seconds(FOLLOWING, speed) == 150 + 2 * 150
    assert equal_seconds(FOLLOWING, speed, training=1.5) == 150 + 2 * 150 + 150
    assert equal_seconds(Condition("4 cheap", rounds=5), speed, training=1.5) == 60 + 2 * 240 + 4 * 150


def test_the_best_setting_is_chosen_by_the_other_half_and_of_equals_the_fastest_is(tmp_path):
    slow, fast, other = (Condition(name) for name in ("4 candidates", "4 cheap", "8 cheap"))
    speed = {"4 candidates": 1.0, "4 cheap": 2.0, "8 cheap": 3.0}
    study = study_of(tmp_path, {BLIND: (0.7, 0.7), slow: (0.9, 0.9), fast: (0.9, 0.7), other: (0.8, 0.99)})
    assert study.best([slow, fast, other], speed) == fast
    study.found[slow, 1, 0]["choosing"] = 0.94  # 92 on average, give or take 2: what has 90 or more may be as good
    assert study.best([slow, fast, other], speed) == fast
    study.found[slow, 1, 0]["choosing"] = study.found[slow, 0, 0]["choosing"] = 0.91
    assert study.best([slow, fast, other], speed) == slow


def test_accuracies_lie_on_a_line_over_the_logarithm_of_images(tmp_path):
    study = study_of(
        tmp_path, {BLIND.blind(100): (0, 0.5), BLIND.blind(10_000): (0, 0.7), FOLLOWING: (0, 0.9)}, torn='{"set'
    )
    assert study.interpolated(FOLLOWING, 1000) == pytest.approx({(0, 0): 60, (1, 0): 61})
    assert study.interpolated(FOLLOWING, 10_001) == {}
    few, many = Condition("4 cheap", 100), Condition("4 cheap", 10_000)
    study = study_of(tmp_path, {few: (0, 0.5), many: (0, 0.7), BLIND: (0, 0.6)})
    assert images_for(study, FOLLOWING, [100, 10_000], BLIND) == pytest.approx(1000)


def test_gains_are_of_the_half_that_did_not_choose(tmp_path):
    study = study_of(tmp_path, {FOLLOWING: (0.1, 0.92), BLIND: (0.9, 0.9), BLIND.blind(450): (0, 0.93)})
    study.stores.seconds = lambda condition, draw: [1.0, 2.0]
    (row,) = rows_of(study, [FOLLOWING], {"blind": 100.0, "4 cheap": 50.0})
    assert row["equal_images"]["gain"] == pytest.approx(2)
    assert row["equal_seconds"]["gain"] == pytest.approx(-1)
    assert row["blind_images"] == 450
