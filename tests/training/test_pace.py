"""When runs look at the clock, report and save: seldom, together, and without waiting for a GPU."""

import itertools

import pytest
import torch
from absent_gpu import absent_gpu, to_absent_gpu
from conftest import filled_store

from dmkd.loading import in_order
from dmkd.stores import DmkdError
from dmkd.training import pace
from dmkd.training.execution import Execution
from dmkd.training.pace import Checkpoints
from dmkd.training.run import TrainingRun
from dmkd.training.team import Team
from dmkd.training.training_recipe import resolve_training


class Together:
    """Two workers in one process: what the second asks is answered as the first was."""

    def __init__(self, leads):
        self.leads, self.answers, self.asked = leads, [], 0

    def sum(self, *numbers):
        self.asked += 1
        if self.leads:
            self.answers.append(numbers)
            return list(numbers)
        assert numbers == (False, 0), "its own clock does not count"
        return list(self.first.answers[self.asked - 1])


def saved_after(seconds_a_step, checkpoint_seconds, steps, monkeypatch):
    """The steps after which two workers save, and how often they asked each other."""
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    first, second = Together(True), Together(False)
    second.first = first
    workers, due = [Checkpoints(first, checkpoint_seconds), Checkpoints(second, checkpoint_seconds)], []
    for step in range(steps):
        now[0] += seconds_a_step(step)
        answers = {worker.due() for worker in workers}
        assert len(answers) == 1, "all of them save, or none"
        if answers == {True}:
            due.append(step)
            now[0] += 3.0  # that saving takes
            for worker in workers:
                worker.saved()
    return due, first.asked


def test_workers_ask_each_other_for_the_time_once_in_ten_seconds(monkeypatch):
    due, asked = saved_after(lambda _: 0.05, 600.0, 40_000, monkeypatch)  # 2,000 seconds
    assert asked < 2000 / 10 * 1.2
    assert [round(step * 0.05) for step in due] == pytest.approx([600, 1200, 1800], abs=11)


def test_a_checkpoint_as_often_as_possible_is_one_after_each_step(monkeypatch):
    assert saved_after(lambda _: 0.05, 0.0, 100, monkeypatch) == (list(range(100)), 100)


def test_a_checkpoint_is_never_late_by_more_than_the_next_look(monkeypatch):
    due, _ = saved_after(lambda _: 0.5, 20.0, 200, monkeypatch)
    assert due[0] in (39, 40) and all(39 <= after - before <= 41 for before, after in itertools.pairwise(due))
    slow = saved_after(lambda _: 30.0, 600.0, 50, monkeypatch)
    assert slow == ([19, 39], 50), "steps longer than the time between two looks"


@pytest.fixture
def epoch_on_a_gpu(tmp_path, monkeypatch):
    """An epoch of 5 steps on the absent GPU, reported after each: what is waited for, and what is said."""
    store = filled_store(tmp_path / "s.zarr", num_images=40, image_shape=(32, 32, 3))
    given = {"student": "test_resnet", "batch_size": 8, "epochs": 1, "lr": 0.01}
    _, recipe = resolve_training(store, given)
    monkeypatch.setattr("dmkd.training.run.REPORT_SECONDS", 0)
    monkeypatch.setattr("dmkd.loading.loader.in_order", lambda make, items, *_: in_order.in_order(make, items, 1, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    # torch's own replaces a weight by another with values, which those on the absent GPU do not have.
    to = {("cuda",): lambda module: to_absent_gpu(module, trained=True), (): lambda module: module}
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *where, **layout: to[where](module))

    waits, told = [], []
    with absent_gpu(waits):
        run = TrainingRun(recipe, store, tmp_path / "run", Execution(), Team("cuda"), told.append)
        waits.clear()
        run._epoch(told.append)
    return waits, told


def test_an_epoch_waits_for_the_gpu_at_its_end_alone(epoch_on_a_gpu):
    waits, told = epoch_on_a_gpu
    assert [progress.images for progress in told] == [8, 16, 24, 32, 40]
    *sums, loss, transfer = waits
    assert len(sums) == 2 and all("_local_scalar_dense" in of_epoch for of_epoch in sums), "loss and agreement"
    assert loss == transfer == "All that was queued is waited for."


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    """Late by a report at most: what is reported has come from the device by itself."""
    store = filled_store(tmp_path / "s.zarr", num_images=40, image_shape=(32, 32, 3))
    _, recipe = resolve_training(store, {"student": "test_resnet", "batch_size": 8, "epochs": 9, "lr": 1e30})
    monkeypatch.setattr("dmkd.training.run.REPORT_SECONDS", 0)
    run = TrainingRun(recipe, store, tmp_path / "run", Execution(), Team("cpu"), print)
    with pytest.raises(DmkdError, match=r"The loss became (nan|inf) in epoch 1, by step [2-5]: lower --lr"):
        run._epoch(lambda _: None)
