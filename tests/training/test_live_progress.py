"""What a training run notes of how far it is: while it runs, as it ends, when it is killed; it decides nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import filled_store

from dmkd.stores import open_store
from dmkd.stores.at_work import is_at_work
from dmkd.train import train
from dmkd.training import live_progress
from dmkd.training.training_recipe import resolve_training

FAST = {"student": "test_resnet", "epochs": 3, "batch_size": 8, "lr": 0.01}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("live") / "s.zarr", num_images=32, image_shape=(32, 32, 3))


def noted(folder):
    return json.loads((folder / "progress.json").read_text())


def test_a_run_in_progress_and_one_that_is_done(store, tmp_path, monkeypatch):
    monkeypatch.setattr(live_progress, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr("dmkd.training.run.REPORT_SECONDS", 0.0)
    _, recipe = resolve_training(store, FAST)
    seen = []
    train(recipe, store, tmp_path, device="cpu", report=lambda progress: seen.append((progress, noted(tmp_path))))
    total = 3 * store.num_images
    progress, before = seen[len(seen) // 2]  # the file is written after the display has heard
    assert before["outcome"] == "running" and before["ended"] is None and is_at_work(before)
    assert before["images"] < progress.images <= total and before["total_images"] == total
    assert before["driver"] == {"host": socket.gethostname(), "pid": os.getpid()}
    assert before["store"] == {"path": store.path, "identity": store.identity} and before["student"] == "test_resnet"
    after = noted(tmp_path)
    assert (after["outcome"], after["images"], after["epoch"], after["epochs"]) == ("done", total, 3, 3)
    points = after["points"]
    assert points["images"] == sorted(set(points["images"])) and points["images"][-1] == total
    assert {len(column) for column in points.values()} == {len(points["images"])}
    assert all(0 < loss < 10 for loss in points["loss"]) and points["lr"][0] > 0 and after["images_per_second"] > 0
    assert not is_at_work(after)

    train(recipe, store, tmp_path, device="cpu")
    assert noted(tmp_path) == after, "nothing was left to do"


def test_points_are_bounded_and_cover_the_whole_run(store, tmp_path, monkeypatch):
    monkeypatch.setattr(live_progress, "MOST_POINTS", 8)
    monkeypatch.setattr("dmkd.training.run.REPORT_SECONDS", 0.0)
    _, recipe = resolve_training(store, {**FAST, "epochs": 20})
    reports = []
    train(recipe, store, tmp_path, device="cpu", report=reports.append)
    points = noted(tmp_path)["points"]
    assert len(reports) > 16 and 4 <= len(points["images"]) < 8
    total = 20 * store.num_images
    assert points["images"][0] <= total / 3 and points["images"][-1] >= 2 * total / 3
    assert min(report.loss for report in reports) < points["loss"][0] < max(report.loss for report in reports)


@pytest.mark.parametrize(
    ("error", "outcome"), [(KeyboardInterrupt(), "interrupted"), (ValueError("odd"), "failed: ValueError: odd")]
)
def test_how_it_was_left_is_noted(store, tmp_path, error, outcome):
    def report(progress):
        raise error

    _, recipe = resolve_training(store, FAST)
    with pytest.raises(type(error)):
        train(recipe, store, tmp_path, device="cpu", report=report)
    assert noted(tmp_path)["outcome"] == outcome and noted(tmp_path)["ended"]


def test_a_run_whose_checkpoint_is_refused_leaves_no_note(store, tmp_path):
    _, recipe = resolve_training(store, FAST)
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(Exception, match="can't be read"):
        train(recipe, store, tmp_path, device="cpu")
    assert not (tmp_path / "progress.json").exists()


def test_a_disk_that_refuses_the_note_ends_no_run(store, tmp_path):
    (tmp_path / "progress.json").mkdir()
    (tmp_path / "progress.json/in the way").touch()
    _, recipe = resolve_training(store, FAST)
    assert train(recipe, store, tmp_path, device="cpu")["loss"] > 0


KILLED = """
import sys, time
from dmkd.stores import open_store
from dmkd.train import train
from dmkd.training.training_recipe import resolve_training
store = open_store(sys.argv[1])
_, recipe = resolve_training(store, dict(student="test_resnet", epochs=3, batch_size=8, lr=0.01))
train(recipe, store, sys.argv[2], device="cpu", report=lambda progress: time.sleep(600))
"""


def test_a_killed_run_is_not_at_work(store, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, store.path, str(tmp_path)])
    deadline = time.monotonic() + 120
    while not (tmp_path / "progress.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    assert is_at_work(noted(tmp_path))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert noted(tmp_path)["outcome"] == "running" and not is_at_work(noted(tmp_path))
    assert open_store(store.path).identity == noted(tmp_path)["store"]["identity"]
