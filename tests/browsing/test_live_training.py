"""What the page is told of training runs: those at work, finished, killed, of early versions and of strangers."""

import json
import math
import os
import time

import pytest
from conftest import filled_store
from run_notes import DEAD, note, written

from dmkd.browsing import live_training
from dmkd.browsing.desk import Desk
from dmkd.browsing.live_training import LiveTraining
from dmkd.stores import UsageError
from dmkd.train import train
from dmkd.training import live_progress
from dmkd.training.training_recipe import resolve_training

FAST = {"student": "test_resnet", "epochs": 3, "batch_size": 8, "lr": 0.01}


@pytest.fixture(autouse=True)
def looking_each_time(monkeypatch):
    monkeypatch.setattr(live_training, "LOOK_SECONDS", -1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("live") / "s.zarr", num_images=32, image_shape=(32, 32, 3))


def told(*folders, opened=None):
    facts = LiveTraining([str(folder) for folder in folders]).facts(opened)
    json.dumps(facts, allow_nan=False)
    return facts


def test_a_run_in_progress_and_the_same_when_it_is_done(store, tmp_path, monkeypatch):
    monkeypatch.setattr(live_progress, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr("dmkd.training.run.REPORT_SECONDS", 0.0)
    live, seen = LiveTraining([str(tmp_path)]), []
    _, recipe = resolve_training(store, FAST)
    report = lambda progress: seen.append((progress, *live.facts()))  # noqa: E731
    train(recipe, store, tmp_path / "first", device="cpu", evaluate_on=store.path, report=report)
    progress, during = next((one, facts) for one, facts in seen if one.epoch == 2 and facts["by_step"])
    assert (during["state"], during["epochs"], during["student"]) == ("running", 3, "test_resnet")
    assert during["store"] == {"path": store.path, "identity": store.identity}
    assert 0 < during["images"] <= progress.images and during["total_images"] == 96
    assert during["eta"] == pytest.approx((96 - during["images"]) / during["images_per_second"])
    assert during["by_epoch"]["epoch"] == [1] and len(during["by_step"]["loss"]) >= 1
    (after,) = live.facts()
    assert (after["state"], after["epoch"], after["images"], after["eta"]) == ("done", 3, 96, None)
    assert after["by_epoch"]["epoch"] == [1, 2, 3] and after["top1"] == after["by_epoch"]["top1"][-1]
    assert {len(curve) for curve in after["by_epoch"].values()} == {3}
    assert set(after["by_epoch"]) >= {"loss", "agreement", "lr"} and after["name"] == f"{tmp_path.name}/first"


def test_killed_left_and_early_runs(tmp_path):
    lines = [{"epoch": 1, "loss": 2.0, "images_per_second": 10.0}, {"epoch": 2, "loss": 1.0}]
    written(tmp_path / "killed", lines, note(driver=DEAD, images=10, total_images=20, images_per_second=5.0))
    written(tmp_path / "elsewhere", lines, note(driver={"host": "elsewhere", "pid": 7}, images=10, total_images=20))
    hours_ago = note(driver={"host": "elsewhere", "pid": 7}, saved="2024-05-01T10:00:00+00:00")
    written(tmp_path / "silent", lines, hours_ago)
    written(tmp_path / "failed", lines, note(outcome="failed: The loss became nan: lower --lr"))
    early = {"training": {"student": "resnet18", "epochs": 2}, "store": {"path": "a.zarr", "identity": "x"}}
    written(tmp_path / "early", lines, summary=early)
    written(tmp_path / "early-running", lines)
    os.utime(written(tmp_path / "early-stopped", lines) / "metrics.jsonl", (1.0, 1.0))
    runs = {run["name"].partition("/")[2]: run for run in told(tmp_path)}
    assert {name: run["state"] for name, run in runs.items()} == {
        "killed": "stopped",
        "elsewhere": "running",
        "silent": "stopped",
        "failed": "failed",
        "early": "done",
        "early-running": "running",
        "early-stopped": "stopped",
    }
    assert runs["failed"]["reason"] == "The loss became nan: lower --lr" and runs["killed"]["eta"] is None
    assert (runs["early"]["student"], runs["early"]["epochs"], runs["early"]["epoch"]) == ("resnet18", 2, 2)
    assert runs["early"]["store"] == {"path": "a.zarr", "identity": "x"}
    assert list(runs)[-1] == "early-stopped", "the oldest"


def test_where_runs_are_found(tmp_path, monkeypatch):
    line = [{"epoch": 1, "loss": 1.0}]
    store = filled_store(tmp_path / "stores/s.zarr")
    written(tmp_path / "stores/students/beside", line)
    written(tmp_path / "students/here", line)
    written(tmp_path / "comparison/runs/seed0", line)
    written(tmp_path / "comparison/runs/seed0/student/within", line)
    written(tmp_path / "rounds/round-0", line)
    written(tmp_path / "rounds/student", line)
    written(tmp_path / "rounds/a.zarr/images", line)
    (tmp_path / "rounds/a.zarr/zarr.json").touch()
    written(tmp_path / "a/b/c/d/e/f/too/deep", line)
    written(tmp_path / "outside", line)
    (tmp_path / "rounds/link").symlink_to(tmp_path / "outside")
    monkeypatch.chdir(tmp_path)
    named = ["comparison", "rounds", "rounds/student", "a"]
    found = json.loads(Desk([store.path], named).answer("training", {}).body)
    names = ["comparison/runs/seed0", "rounds/round-0", "rounds/student", "students/beside", "students/here"]
    assert sorted(run["name"] for run in found) == names
    written(tmp_path / "students/later", line)
    found = json.loads(Desk([store.path], named).answer("training", {}).body)
    assert len(found) == 6 and found[0]["name"] == "students/later"
    with pytest.raises(UsageError, match="--run: there is no folder nowhere"):
        Desk([store.path], ["nowhere"])


def test_curves_come_of_the_newest_or_of_those_asked_for(tmp_path):
    for number in range(8):
        written(tmp_path / str(number), [{"epoch": 1, "loss": 1.0}])
        os.utime(tmp_path / str(number) / "metrics.jsonl", (1000.0 + number, 1000.0 + number))
    runs = told(tmp_path)
    assert [run["name"][-1] for run in runs] == list("76543210")
    assert [run["by_epoch"] is not None for run in runs] == [True] * 6 + [False] * 2
    chosen = told(tmp_path, opened=[runs[7]["id"]])
    assert [run["by_epoch"] is not None for run in chosen] == [False] * 7 + [True]


def test_only_what_has_changed_is_read_again(tmp_path, monkeypatch):
    for name in ("one", "two"):
        written(tmp_path / name, [{"epoch": 1, "loss": 1.0}])
    live, read, real = LiveTraining([str(tmp_path)]), [], live_training._last_lines
    monkeypatch.setattr(live_training, "_last_lines", lambda file: read.append(file.parent.name) or real(file))
    live.facts()
    live.facts()
    assert sorted(read) == ["one", "two"]
    with (tmp_path / "two/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "loss": 0.5}\n')
    losses = {run["name"][-3:]: run["by_epoch"]["loss"] for run in live.facts()}
    assert losses == {"one": [1.0], "two": [1.0, 0.5]} and sorted(read) == ["one", "two", "two"]


def test_long_curves_are_thinned_from_the_first_to_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(live_training, "MOST_LINES", 2000)
    written(tmp_path, [{"epoch": epoch, "loss": 1.0} for epoch in range(1, 2501)])
    (run,) = told(tmp_path)
    epochs = run["by_epoch"]["epoch"]
    assert epochs[0] == 501 and epochs[-1] == 2500 and 250 < len(epochs) <= live_training.MOST_POINTS + 1


HOSTILE = "<img src=x onerror=alert(1)>"


def test_a_strangers_files_are_text_and_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(live_training, "MOST_BYTES", 3000)
    folder = written(tmp_path / HOSTILE)
    lines = [
        b"x" * 5000,
        b'{"epoch": 1, "loss": NaN, "top1": Infinity, "lr": "0.1"}',
        b'{"epoch": 2, "loss": 1' + b"0" * 400 + b', "agreement": true}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'["a list"]',
        b'{"epoch": 3, "loss": 0.5}',
        b'{"epoch": 4, "lo',
    ]
    (folder / "metrics.jsonl").write_bytes(b"\n".join(lines[:3] + lines[4:]))
    bad = {"outcome": 7, "driver": [], "started": {}, "student": [HOSTILE], "store": HOSTILE, "epochs": math.inf}
    written(folder, progress={**bad, "points": {"images": [1, "2", None], "loss": [1.0], "lr": 3}, "images": "many"})
    (run,) = told(tmp_path)
    assert run["by_epoch"] == {"epoch": [1, 2, 3], "loss": [None, None, 0.5]}
    assert run["by_step"] == {"images": [1, None, None]} and run["images"] is None and run["epochs"] is None
    assert run["name"].endswith(HOSTILE) and run["student"] == f"['{HOSTILE}']" and run["state"] == "7"
    (folder / "metrics.jsonl").write_bytes(lines[3])
    (folder / "progress.json").write_bytes(b"[" * 2999)
    written(folder, summary={"training": 3, "store": [], "x": "x" * 4000})
    (run,) = told(tmp_path)
    assert run["by_epoch"] == {} and run["state"] == "running", "the summary is too large to be one"


def test_what_is_no_plain_file_is_not_opened(tmp_path):
    folder = written(tmp_path / "run", [{"epoch": 1, "loss": 1.0}])
    os.mkfifo(folder / "progress.json")
    (folder / "summary.json").symlink_to("/etc/hostname")
    start = time.monotonic()
    (run,) = told(tmp_path)
    assert run["by_epoch"]["loss"] == [1.0] and time.monotonic() - start < 5
