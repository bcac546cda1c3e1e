"""A disk that takes no more, at each file of a training run: one line, and what was written before is intact."""

import errno
import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import filled_store
from safetensors.torch import load_file

from dmkd.cli.main import main
from dmkd.compare import make_runs
from dmkd.export_student import export_student
from dmkd.runtime.progress import Silent
from dmkd.stores import StoreWriteError
from dmkd.train import train
from dmkd.training.conditions import Axes, plan_runs
from dmkd.training.curves import Curves
from dmkd.training.training_recipe import resolve_training

FAST = {"student": "test_resnet", "epochs": 2, "batch_size": 16, "lr": 0.01}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("full") / "s.zarr", num_images=32, image_shape=(32, 32, 3))


@contextmanager
def files_of_at_most(size):
    """As on a full disk, no file grows larger than ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def train_student(store, out, *options):
    command = ["train-student", "--store", store.path, "--student", "test_resnet", "--epochs", "2", "--lr", "0.01"]
    return CliRunner().invoke(main, [*command, "--batch-size", "16", "--device", "cpu", "--out", str(out), *options])


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "the disk is full; free some space"), (errno.EDQUOT, "the disk quota is used up; free some space")],
)
@pytest.mark.parametrize(
    "file",
    ["checkpoint.pt", "student/config.json", "student/model.safetensors", "best.epoch1/config.json", "summary.json"],
)
def test_the_command_ends_with_a_sentence_that_names_the_file(store, tmp_path, monkeypatch, file, number, reason):
    real = os.replace

    def full(source, target):
        if str(target) == str(tmp_path / "out" / file):
            raise OSError(number, os.strerror(number))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        done = train_student(store, tmp_path / "out", "--val", store.path)
    assert done.exit_code == 1, done.output
    assert done.stderr.splitlines()[-1] == (
        f"Error: Could not write {tmp_path / 'out' / file}: {reason}. Rerun the same command to resume; everything "
        "written so far is intact."
    )
    again = train_student(store, tmp_path / "out", "--val", store.path)
    assert again.exit_code == 0, again.output
    assert not list((tmp_path / "out").rglob("*.tmp")) and not list((tmp_path / "out").rglob(".*"))


WRITES = """
import resource, sys
from pathlib import Path
from dmkd.stores import StoreWriteError, open_store
from dmkd.train import train
from dmkd.training.training_recipe import resolve_training
store, out, when, size = open_store(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
_, recipe = resolve_training(store, {"student": "test_resnet", "epochs": 2, "batch_size": 16, "lr": 0.01})

def full(*_):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def report(progress):
    if when == ("evaluated" if progress.evaluation else "trained"):
        full()

try:
    train(recipe, store, out, device="cpu", evaluate_on=store.path, report=report)
except StoreWriteError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("when", "size", "file"),
    [
        ("trained", 20_000, "student/model.safetensors"),
        ("evaluated", 20_000, "checkpoint.pt"),
        ("evaluated", 100, "metrics.jsonl"),
    ],
)
def test_a_file_that_can_not_grow_is_named_and_nothing_else_is_said(store, tmp_path, when, size, file):
    """Real writes, torch's and safetensors' among them."""
    arguments = [store.path, str(tmp_path), when, str(size)]
    done = subprocess.run([sys.executable, "-c", WRITES, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1].startswith(f"Could not write {tmp_path}/{file}"), done.stderr
    assert "the file would be larger than allowed here. Rerun the same command to resume" in done.stdout
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_tensorboards_file_is_named_as_well(tmp_path):
    with files_of_at_most(10), pytest.raises(StoreWriteError, match=f"Could not write {tmp_path}/events.out.tfevents"):
        Curves(tmp_path, [])


def test_what_was_written_before_is_whole_and_the_run_resumes_from_it(store, tmp_path):
    _, recipe = resolve_training(store, FAST)
    train(recipe, store, tmp_path / "whole", device="cpu")

    def full(progress):
        if progress.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(StoreWriteError):
            train(recipe, store, tmp_path / "full", device="cpu", report=full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(tmp_path / "full/checkpoint.pt", weights_only=True)["state"]["epoch"] == 1
    assert not list((tmp_path / "full").rglob(".*"))
    train(recipe, store, tmp_path / "full", device="cpu")
    whole, resumed = (load_file(tmp_path / name / "student/model.safetensors") for name in ("whole", "full"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_what_a_killed_process_left_behind_is_swept(store, tmp_path):
    for name in (".checkpoint.pt.partial", "student/.model.safetensors.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    _, recipe = resolve_training(store, {**FAST, "epochs": 1})
    train(recipe, store, tmp_path, device="cpu")
    assert not list(tmp_path.rglob(".*"))


def compare(store, out, **axes):
    runs = plan_runs(
        Axes((store.path,), students=("test_resnet",), **axes), {"epochs": 1, "batch_size": 16, "lr": 0.01}
    )
    return make_runs(runs, out, vals=[store.path], device="cpu", workers=0, display=Silent())


def test_a_comparison_ends_at_once_and_its_results_stay_readable(store, tmp_path):
    """The next run would fail as this one."""
    with files_of_at_most(20_000), pytest.raises(StoreWriteError, match="model.safetensors"):
        compare(store, tmp_path, seeds=(0, 1))
    assert len(list((tmp_path / "runs").iterdir())) <= 1 and not (tmp_path / "results.jsonl").exists()
    assert len(compare(store, tmp_path, seeds=(0, 1)).summaries) == 2
    results = tmp_path / "results.jsonl"
    before = results.read_text()
    results.unlink()
    with files_of_at_most(100), pytest.raises(StoreWriteError, match=r"results\.jsonl: the file would be larger than"):
        compare(store, tmp_path, seeds=(0, 1))
    compare(store, tmp_path, seeds=(0, 1))
    lines = results.read_text().splitlines()
    assert [json.loads(line) for line in lines if line.endswith("}")] == [
        json.loads(line) for line in before.splitlines()
    ]


def test_an_export_that_does_not_fit_leaves_nothing(store, tmp_path):
    _, recipe = resolve_training(store, {**FAST, "epochs": 1})
    train(recipe, store, tmp_path / "run", device="cpu")
    with (
        files_of_at_most(20_000),
        pytest.raises(StoreWriteError, match=f"Could not write {tmp_path}/model: the file would"),
    ):
        export_student(tmp_path / "run", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tensorboard_reads_the_curves(store, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, recipe = resolve_training(store, FAST)
    for _ in range(2):  # written again when a run is resumed, not twice
        train(recipe, store, tmp_path, device="cpu")
        curves = EventAccumulator(str(tmp_path)).Reload()
        lines = [json.loads(line) for line in Path(tmp_path / "metrics.jsonl").read_text().splitlines()]
        for name in ("loss", "lr", "images_per_second"):
            found = [(event.step, event.value) for event in curves.Scalars(name)]
            assert found == [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in lines] and len(found) == 2
