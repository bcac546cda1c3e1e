"""Trackers get each epoch once, whatever happens to a run; what happens to them happens to no run. Real packages, offline."""

import json
import sqlite3
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import filled_store

from dmkd.cli.main import main
from dmkd.stores import UsageError
from dmkd.train import train
from dmkd.training import trackers
from dmkd.training.execution import Execution
from dmkd.training.trackers import TRACKERS, Tracker
from dmkd.training.training_recipe import resolve_training


class Noted(Tracker):
    """A tool that keeps what it is told, and fails when asked to."""

    name, help = "noted", "a list"
    told: ClassVar[list] = []
    config: ClassVar[dict] = {}
    fails_at = None

    @classmethod
    def check(cls):
        pass

    def begin(self, folder, config, known):
        self.fail("begin")
        self.told.append(("begin", folder.name, known))
        self.config.update(config)
        return known or "run-1"

    def log(self, line, epoch):
        self.fail(epoch)
        self.told.append((epoch, line["loss"], line.get("top1")))

    def finish(self, summary):
        self.told.append(("finish", summary))

    def fail(self, where):
        if where == type(self).fails_at:
            raise ConnectionError(f"no route to noted\nat {where}")


@pytest.fixture
def noted(monkeypatch):
    monkeypatch.setitem(TRACKERS, "noted", Noted)
    monkeypatch.setattr(Noted, "told", [])
    monkeypatch.setattr(Noted, "config", {})
    monkeypatch.setattr(Noted, "fails_at", None)
    return Noted


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("tracked") / "s.zarr", num_images=32, image_shape=(32, 32, 3))


class Stop(Exception):
    pass


def run(store, out, *names, epochs=3, stop_after=None, notices=None):
    _, recipe = resolve_training(store, {"student": "test_resnet", "epochs": epochs, "batch_size": 16, "lr": 0.01})

    def report(progress):
        if stop_after is not None and progress.epoch > stop_after:
            raise Stop

    notice = (notices if notices is not None else []).append
    return train(recipe, store, Path(out), device="cpu", execution=Execution(log=names), report=report, notice=notice)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_is_begun_logged_and_finished(store, noted, tmp_path):
    summary = run(store, tmp_path / "first", "noted")
    begin, *epochs, (_, ending) = noted.told
    assert begin == ("begin", "first", None)
    assert epochs == [(line["epoch"], line["loss"], None) for line in lines(tmp_path / "first")] and len(epochs) == 3
    assert ending["loss"] == summary["loss"] and ending["parameters"] == summary["parameters"]
    assert noted.config["training"]["student"] == "test_resnet" and noted.config["store"]["path"] == store.path
    json.dumps(noted.config)


def test_a_run_that_is_resumed_goes_on_and_doubles_no_line(store, noted, tmp_path):
    with pytest.raises(Stop):
        run(store, tmp_path / "first", "noted", stop_after=1)
    assert noted.told[-1] == ("finish", None)
    run(store, tmp_path / "first", "noted")
    begins = [one for one in noted.told if one[0] == "begin"]
    assert begins == [("begin", "first", None), ("begin", "first", "run-1")]
    assert [one[0] for one in noted.told if isinstance(one[0], int)] == [1, 2, 3]
    before = len(noted.told)
    run(store, tmp_path / "first", "noted")  # nothing is left to be done
    assert len(noted.told) == before


def test_a_run_that_was_not_tracked_at_first_is_told_whole(store, noted, tmp_path):
    with pytest.raises(Stop):
        run(store, tmp_path / "first", stop_after=2)
    run(store, tmp_path / "first", "noted")
    assert [one[0] for one in noted.told if isinstance(one[0], int)] == [1, 2, 3]


@pytest.mark.parametrize("where", ["begin", 2])
def test_a_tracker_that_fails_costs_a_notice_and_no_run(store, noted, tmp_path, where):
    noted.fails_at, notices = where, []
    summary = run(store, tmp_path / "first", "noted", notices=notices)
    assert len(lines(tmp_path / "first")) == 3 and summary["loss"]
    (sentence,) = [one for one in notices if "noted" in one]
    assert sentence.startswith("noted failed (no route to noted): the run goes on without it")
    noted.fails_at = None
    run(store, tmp_path / "first", "noted", epochs=4)
    assert [one[0] for one in noted.told if isinstance(one[0], int)] == [1, 2, 3, 4]


def test_the_student_is_the_same_with_and_without(store, noted, tmp_path):
    from safetensors.numpy import load_file

    run(store, tmp_path / "a", "noted")
    run(store, tmp_path / "b")
    one, other = (load_file(tmp_path / name / "student" / "model.safetensors") for name in "ab")
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_package_that_is_missing_is_asked_for_before_anything_begins(store, tmp_path, monkeypatch, name):
    monkeypatch.setattr("dmkd.training.trackers.tracker.find_spec", lambda package: None)
    result = CliRunner().invoke(
        main, ["train-student", "--store", store.path, "--log", name, "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 2 and f"pip install 'dmkd[{name}]'" in result.output and not (tmp_path / "run").exists()


def test_a_tracker_that_there_is_not_is_refused(store):
    with pytest.raises(UsageError, match="--log must be one of wandb, mlflow, trackio, not 'paper'"):
        Execution(log=("paper",))
    help_text = CliRunner().invoke(main, ["train-student", "--help"]).output
    assert all(name in help_text for name in trackers.TRACKERS)


def test_wandb_offline(store, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb (pip install 'dmkd[wandb]')")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "first"
    with pytest.raises(Stop):
        run(store, out, "wandb", stop_after=1)
    run(store, out, "wandb")
    known = json.loads((out / "tracked.json").read_text())["wandb"]
    files = sorted((out / "wandb").glob(f"offline-run-*-{known['id']}/run-{known['id']}.wandb"))
    assert len(files) == 2 and known["lines"] == 3
    assert all(b"images_per_second" in file.read_bytes() for file in files)


def test_nobody_logged_in_at_wandb_is_said_before_anything_begins(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs wandb (pip install 'dmkd[wandb]')")
    wandb.teardown()
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="nobody is logged in"):
        Execution(log=("wandb",))
    wandb.teardown()


def test_mlflow_in_a_folder(store, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs mlflow (pip install 'dmkd[mlflow]')")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "kept").as_uri())
    out = tmp_path / "first"
    with pytest.raises(Stop):
        run(store, out, "mlflow", stop_after=1)
    client = MlflowClient()
    known = json.loads((out / "tracked.json").read_text())["mlflow"]["id"]
    assert client.get_run(known).info.status == "KILLED"
    summary = run(store, out, "mlflow")
    found = client.get_run(known)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert found.data.params["training.student"] == "test_resnet" and "store.identity" in found.data.params
    history = client.get_metric_history(known, "loss")
    assert [(one.step, one.value) for one in history] == [(line["epoch"], line["loss"]) for line in lines(out)]
    assert found.data.metrics["summary.loss"] == summary["loss"]
    assert client.get_experiment(found.info.experiment_id).name == "dmkd"


def test_trackio_on_this_machine(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    pytest.importorskip("trackio", reason="needs trackio (pip install 'dmkd[trackio]')")
    out = tmp_path / "first"
    with pytest.raises(Stop):
        run(store, out, "trackio", stop_after=1)
    run(store, out, "trackio")
    (file,) = (tmp_path / "kept").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert {name for name, *_ in rows} == {json.loads((out / "tracked.json").read_text())["trackio"]["id"]}
    steps = [step for _, step, metrics in rows if "loss" in json.loads(metrics)]
    assert steps == [1, 2, 3]
