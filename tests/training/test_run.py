"""A training run: what it opens, counts and refuses before it trains."""

import json

import pytest
from click.testing import CliRunner
from conftest import filled_store

from dmkd.cli.main import main
from dmkd.loading.gather import Gatherer
from dmkd.loading.usable import usable_images
from dmkd.stores import UsageError
from dmkd.training.conditions import Axes, plan_runs
from dmkd.training.sources import count_images, open_loader
from dmkd.training.training_recipe import resolve_training


def count_loaders(monkeypatch):
    made, real = [], Gatherer.__init__

    def opened(self, *arguments):
        made.append(self)
        real(self, *arguments)

    monkeypatch.setattr(Gatherer, "__init__", opened)
    return made


def test_a_training_run_opens_the_store_for_reading_once(tmp_path, monkeypatch):
    """Each loader may hold the whole store, on the GPU even: none is made only to count."""
    store = filled_store(tmp_path / "s.zarr", num_images=40, image_shape=(32, 32, 3))
    made = count_loaders(monkeypatch)
    command = ["train-student", "--store", store.path, "--student", "test_resnet", "--epochs", "1", "--lr", "0.01"]
    command += ["--select", "image_id < 30", "--device", "cpu", "--json", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert len(made) == 1 and json.loads(done.stdout)["store"]["images"] == 30
    assert "10 of 40 images are not selected, not made or not labelled yet and are left out." in done.stderr
    assert "30 of 30 images to do" in done.stderr


def test_a_comparison_is_planned_without_opening_a_store_for_reading(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.zarr")
    made = count_loaders(monkeypatch)
    options = {"epochs": 1, "batch_size": 8, "lr": 0.01, "select": "entropy < 0.5"}
    (run,) = plan_runs(Axes((store.path,), students=("test_resnet",)), options)
    assert run.images == len(usable_images(store, ["teacher"], select="entropy < 0.5").ids) and not made


def test_workers_that_can_not_share_the_images_are_refused_by_counting(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=16)
    _, recipe = resolve_training(store, {"student": "test_resnet", "batch_size": 60, "select": "image_id < 3"})
    assert count_images(recipe, store) == count_images(recipe, store, 3) == open_loader(recipe, store, "cpu").num_images
    for workers, message in (
        (4, "3 images can't be shared among 4 ranks"),
        (7, "60 can't be divided by 7 workers x 1"),
    ):
        with pytest.raises(UsageError, match=message):
            count_images(recipe, store, workers)
