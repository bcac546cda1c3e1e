"""Trackers get each epoch once, whatever happens to a run; what happens to them happens to no run. Real packages, offline."""

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from importlib.util import find_spec
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

    def begin(self, folder, config, known, group):
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


def test_what_a_tool_missed_is_sent_when_the_finished_run_is_called_again(store, noted, tmp_path):
    noted.fails_at = 3
    run(store, tmp_path / "first", "noted")
    noted.fails_at = None
    summary = run(store, tmp_path / "first", "noted")
    assert [one[0] for one in noted.told if isinstance(one[0], int)] == [1, 2, 3]
    assert noted.told[-1][1]["loss"] == summary["loss"]


def test_a_tool_that_is_named_twice_is_told_once(store, noted, tmp_path):
    run(store, tmp_path / "first", "noted", "noted")
    assert [one[0] for one in noted.told] == ["begin", 1, 2, 3, "finish"]


@pytest.mark.parametrize(("there", "sent"), [(1, [2, 3]), (2, [3]), (None, [3])])
def test_a_tool_that_can_be_asked_knows_better_than_the_folder(store, noted, tmp_path, monkeypatch, there, sent):
    with pytest.raises(Stop):
        run(store, tmp_path / "first", "noted", stop_after=2)
    noted.told.clear()
    monkeypatch.setattr(Noted, "epochs_there", lambda self: there)
    run(store, tmp_path / "first", "noted")
    assert [one[0] for one in noted.told if isinstance(one[0], int)] == sent


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


KILLED = """
import os, signal, sys
from pathlib import Path
from dmkd.stores import open_store
from dmkd.train import train
from dmkd.training.execution import Execution
from dmkd.training.tracked import TrackedRun
from dmkd.training.training_recipe import resolve_training

log = TrackedRun.log

def logged(self, lines):
    log(self, lines)
    if len(lines) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

TrackedRun.log = logged
store = open_store(sys.argv[2])
_, recipe = resolve_training(store, {"student": "test_resnet", "epochs": 3, "batch_size": 16, "lr": 0.01})
train(recipe, store, Path(sys.argv[3]), device="cpu", execution=Execution(log=tuple(sys.argv[1].split(','))))
"""


def kill_after_the_second_epoch(names, store, out):
    """No tool gets the time to write what it may still hold in memory."""
    command = [sys.executable, "-c", KILLED, names, store.path, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_run_is_whole_at_mlflow_and_in_wandbs_last_file(store, tmp_path, monkeypatch, mlflow_here):
    pytest.importorskip("wandb", reason="needs wandb (pip install 'dmkd[wandb]')")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "first"
    kill_after_the_second_epoch("mlflow,wandb", store, out)
    run(store, out, "mlflow", "wandb")
    known = json.loads((out / "tracked.json").read_text())["mlflow"]["id"]
    assert [one.step for one in mlflow_here().get_metric_history(known, "loss")] == [1, 2, 3]
    *_, last = sorted((out / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime)
    assert steps_in(last) == [1, 2, 3]


def test_a_killed_run_is_whole_at_trackio(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    if find_spec("trackio") is None:  # it is not imported here: its folder would stay what the environment says now
        pytest.skip("needs trackio (pip install 'dmkd[trackio]'), which wants Pillow below 13")
    kill_after_the_second_epoch("trackio", store, tmp_path / "first")
    rest = KILLED.replace("== 2", "== 99")
    command = [sys.executable, "-c", rest, "trackio", store.path, str(tmp_path / "first")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr  # stdout is for results
    (file,) = (tmp_path / "kept").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    assert [step for step, metrics in rows if "loss" in json.loads(metrics)] == [1, 2, 3]


def steps_in(file):
    """The steps of a wandb file's history: records as LevelDB writes its logs, in blocks of 32 KiB, after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, position, whole, steps = file.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a record in one piece, or the last piece of one
            record = wandb_internal_pb2.Record.FromString(whole)
            steps += [record.history.step.num] if record.HasField("history") else []
            whole = b""
    return steps


@pytest.fixture
def mlflow_here(tmp_path, monkeypatch):
    """A client of a folder of the test's own."""
    pytest.importorskip("mlflow", reason="needs mlflow (pip install 'dmkd[mlflow]')")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "kept").as_uri())
    return MlflowClient


def test_mlflow_says_what_a_longer_run_has_otherwise_in_tags(store, tmp_path, mlflow_here, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mlflow_here().create_experiment("mine"))
    for epochs in (2, 3):
        run(store, tmp_path / "first", "mlflow", epochs=epochs)
    kept = json.loads((tmp_path / "first/tracked.json").read_text())["mlflow"]
    found = mlflow_here().get_run(kept["id"])
    assert (found.data.params["training.epochs"], found.data.tags["training.epochs"]) == ("2", "3")
    assert mlflow_here().get_experiment(found.info.experiment_id).name == "mine"
    assert [one.step for one in mlflow_here().get_metric_history(kept["id"], "summary.loss")] == [2, 3]
    assert kept["finished"] == 3


def test_mlflow_that_can_keep_no_run_here_is_refused_before_anything_begins(store, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs mlflow (pip install 'dmkd[mlflow]')")
    monkeypatch.setattr("dmkd.training.trackers.mlflow.find_spec", lambda package: None)
    for uri, sentence in (("sqlite:///x.db", "pip install mlflow"), ((tmp_path / "x").as_uri(), "maintenance mode")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
        with pytest.raises(UsageError, match=f"^--log mlflow: .*{sentence}"):
            Execution(log=("mlflow",))


def test_the_runs_of_a_comparison_are_a_group(store, tmp_path, mlflow_here):
    command = [
        "compare",
        store.path,
        "--student",
        "test_resnet",
        "--seeds",
        "2",
        "--updates",
        "2",
        "--batch-size",
        "16",
    ]
    command += [
        "--lr",
        "0.01",
        "--val",
        store.path,
        "--log",
        "mlflow",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "both"),
    ]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    experiment = mlflow_here().get_experiment_by_name("dmkd").experiment_id
    assert [one.data.tags["group"] for one in mlflow_here().search_runs([experiment])] == ["both", "both"]


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
