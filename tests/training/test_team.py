"""Several real processes that train one student, over gloo on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import block_arrays, filled_store, new_store
from safetensors.torch import load_file

from dmkd.classifiers.evaluate import evaluate
from dmkd.classifiers.evaluation_data import evaluation_batches
from dmkd.classifiers.load import load_classifier
from dmkd.cli.main import main
from dmkd.stores import DmkdError, MismatchError, UsageError, open_store
from dmkd.train import train
from dmkd.training.team import Team, launch
from dmkd.training.training_recipe import resolve_training

# No batch statistics, and a batch of all images: the step is the same whoever computes which part of it.
# fmt: off
OPTIONS = ["--student", "test_vit", "--student-arg", "patch_size=4", "--labels", "teacher", "--batch-size", "64",
           "--schedule", "constant", "--lr", "0.01", "--device", "cpu", "--json"]
# fmt: on


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("distributed") / "s.zarr", num_images=63, image_shape=(32, 32, 3))


def add_up(numbers):
    team = Team("cpu")
    try:
        return team.sum(team.rank + 1, *numbers), team.leads
    finally:
        team.leave()


def count_and_follow():
    team = Team("cpu")
    try:
        statistics = torch.tensor([team.rank + 1.0])
        team.follow([statistics])
        return team.add_counts(np.array([[2**53, team.rank]])).tolist(), team.sum(statistics)
    finally:
        team.leave()


def fail_on_one(rank):
    team = Team("cpu")
    if team.rank == rank:
        raise MismatchError("lr: the store has 1, you asked for 2.")
    team.sum(1.0)  # waits for the other in vain


def die(rank):
    team = Team("cpu")
    if team.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    team.sum(1.0)


def test_numbers_are_added_up_over_all_and_rank_0_answers():
    assert launch(2, add_up, [0.5, 10]) == ([3.0, 1.0, 20.0], True)
    assert Team("cpu").sum(0.5, 10) == [0.5, 10], "alone"


def test_counts_are_added_up_exactly_and_tensors_of_rank_0_are_taken():
    assert launch(2, count_and_follow) == ([[2**54, 1]], [2.0])
    assert Team("cpu").add_counts(np.array([3])).tolist() == [3], "alone"


def questions_of_a_run(path, out):
    """How often a worker asked the others for numbers in a run of 12 steps."""
    asked, add = [], Team.sum
    Team.sum = lambda team, *numbers: (asked.append(numbers), add(team, *numbers))[1]
    given = {"student": "test_resnet", "labels": "teacher", "batch_size": 16, "epochs": 3, "lr": 0.01}
    store = open_store(path)
    train(resolve_training(store, given)[1], store, Path(out), device="cpu")
    return len(asked)


def test_workers_do_not_stop_for_one_another_at_each_step(store, tmp_path):
    """Beside their gradients: once after an epoch's first step, for the time, and once at its end."""
    assert launch(2, questions_of_a_run, store.path, str(tmp_path)) <= 3 * 3


def test_an_error_of_a_worker_is_raised_as_it_is():
    with pytest.raises(MismatchError, match=r"^lr: the store has 1, you asked for 2\.$"):
        launch(2, fail_on_one, 1)


def test_a_worker_that_is_killed_is_named_and_the_others_are_ended():
    start = time.monotonic()
    with pytest.raises(DmkdError, match=r"Worker 1 of 2 died \(killed by SIGKILL\).*rerun the same command to resume"):
        launch(2, die, 1)
    assert time.monotonic() - start < 60


def lines_of(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").open()]


def test_two_workers_train_the_student_that_one_trains(store, tmp_path):
    """63 images: shares of 32 and 31, so that a mean of the two means would be wrong."""
    summaries = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        command = [
            "train-student",
            "--store",
            store.path,
            *OPTIONS,
            "--epochs",
            "3",
            "--out",
            folder,
            "--val",
            store.path,
        ]
        done = CliRunner().invoke(main, [str(word) for word in [*command, "--workers", workers]])
        assert done.exit_code == 0, done.output
        summaries[workers] = json.loads(done.stdout)
    one, two = (load_file(tmp_path / name / "student/model.safetensors") for name in ("1", "2"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5)
    assert summaries[2]["execution"]["workers"] == 2
    for a, b in zip(lines_of(tmp_path / "1"), lines_of(tmp_path / "2"), strict=True):
        assert a["images"] == b["images"] == 63, "none dropped, none doubled"
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4) and b["agreement"] == pytest.approx(
            a["agreement"], abs=0.02
        )
    assert len(list((tmp_path / "2").glob("events.out.tfevents.*"))) == 1, "only rank 0 writes"
    assert not list((tmp_path / "2").rglob(".*"))


def test_two_workers_measure_the_student_that_is_saved(tmp_path):
    """Its batch statistics are rank 0's, and each worker looks at every other batch."""
    store = new_store(tmp_path / "s.zarr", num_images=128, image_shape=(32, 32, 3))
    for block in range(store.num_blocks):  # plain images, so that the statistics of small batches are very different
        arrays = block_arrays(store, block)
        arrays["images"][:] = arrays["images"][:, :1, :1]
        store.write_block(block, **arrays)
    command = ["train-student", "--store", store.path, "--student", "test_resnet", "--labels", "teacher"]
    command += ["--batch-size", "4", "--updates", "8", "--lr", "0.01", "--schedule", "constant", "--val", store.path]
    command += ["--device", "cpu", "--json", "--workers", "2", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    for name, said in (("student", summary), ("best", summary["best"])):
        student = load_classifier(str(tmp_path / name))
        measured = evaluate(student, evaluation_batches(store.path, student))
        assert measured.num_images == 128
        assert (said["top1"], said["top5"]) == (measured.top1, measured.top5)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--workers", "0"], "--workers must be at least 1"),
        (["--workers", "3"], "--batch-size 64 can't be divided by 3 workers x 1 parts"),
    ],
)
def test_workers_that_can_not_be_are_refused_before_any_is_started(store, tmp_path, more, sentence):
    command = ["train-student", "--store", store.path, *OPTIONS, "--out", str(tmp_path / "out"), *more]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2 and sentence in done.stderr


def workers_of(process):
    """Process ids of the workers that a process started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.slow
def test_a_run_whose_worker_was_killed_goes_on(store, tmp_path):
    command = [sys.executable, "-m", "dmkd.cli.main", "train-student", "--store", store.path, *OPTIONS]
    command += ["--epochs", "60", "--checkpoint-every", "0", "--out", str(tmp_path), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "metrics.jsonl").exists() or len(lines_of(tmp_path)) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in told
    assert "of 2 died (killed by SIGKILL), and the others were ended: rerun the same command to resume" in told
    assert not (tmp_path / "summary.json").exists()
    before = lines_of(tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(lines_of(tmp_path)) == 60 and lines_of(tmp_path)[: len(before) - 1] == before[:-1]


def members(group):
    """Processes of a group that still run."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split()[0] == str(group) and "Z" not in line.split()[1]]


@pytest.mark.slow
def test_ctrl_c_ends_all_workers_with_one_sentence(store, tmp_path):
    command = [sys.executable, "-m", "dmkd.cli.main", "train-student", "--store", store.path, *OPTIONS]
    command += ["--epochs", "5000", "--out", str(tmp_path), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "checkpoint.pt").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in told
    assert len(told.splitlines()) == 2 and told.splitlines()[-1].startswith("Error: Interrupted."), told
    deadline = time.monotonic() + 10
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not members(process.pid)


@pytest.mark.slow
def test_torchrun_starts_it_as_well(store, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += [
        "--rdzv-endpoint",
        "localhost:0",
        "-m",
        "dmkd.cli.main",
        "train-student",
        "--store",
        store.path,
        *OPTIONS,
    ]
    done = subprocess.run(
        [*command, "--epochs", "1", "--out", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip())["execution"]["workers"] == 2, "one line, of rank 0"


def test_several_workers_do_not_share_an_apple_gpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--device mps: several workers train on CUDA's GPUs or on a CPU"):
        Team("mps")
