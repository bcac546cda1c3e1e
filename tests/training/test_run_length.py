"""How long a run is: exactly so many optimiser steps, a warm-up that fits, and a finished run that is continued."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import filled_store
from safetensors.torch import load_file

from dmkd.cli.main import main
from dmkd.stores import MismatchError, UsageError
from dmkd.train import train
from dmkd.training.conditions import Axes, plan_runs
from dmkd.training.execution import Execution
from dmkd.training.optimisation import create_scheduler
from dmkd.training.run_length import RunLength, run_length
from dmkd.training.training_recipe import resolve_training

FAST = {"student": "test_resnet", "batch_size": 16, "lr": 0.01}  # 4 steps an epoch
TRAIN = ["train-student", "--student", "test_resnet", "--batch-size", "16", "--lr", "0.01", "--device", "cpu"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("length") / "s.zarr", num_images=64, image_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A store whose defaults are those of digits: 22 epochs, 2 of them warm-up."""
    path = tmp_path_factory.mktemp("length") / "digits.zarr"
    return filled_store(path, num_images=64, image_shape=(32, 32, 3), recipe={"generator": "digits", "seed": 0})


def recipe_of(store, **options):
    return resolve_training(store, {**FAST, **options})[1]


def run(store, out, execution=None, **options):
    return train(recipe_of(store, **options), store, Path(out), device="cpu", execution=execution)


def curves(out):
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def weights(out):
    return {key: value.tolist() for key, value in load_file(Path(out) / "student/model.safetensors").items()}


def dmkd_train(store, out, *arguments):
    return CliRunner().invoke(main, [*TRAIN, "--store", store.path, "--out", str(out), *map(str, arguments)])


def said(done):
    return " ".join(done.stderr.split())


# Exactly so many steps


def test_a_run_has_exactly_the_updates_asked_for_and_ends_with_a_partial_epoch(store, tmp_path):
    done = dmkd_train(store, tmp_path / "run", "--updates", 6, "--val", store.path)
    assert done.exit_code == 0, done.output
    assert "6 updates, batch 16" in done.stdout and "6 updates)" in done.stdout
    assert "96 of 96 images to do" in said(done)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["updates"] == 6 and summary["training"]["updates"] == 6 and "epochs" not in summary["training"]
    assert [line["images"] for line in curves(tmp_path / "run")] == [64, 32]
    assert summary["top1"] == curves(tmp_path / "run")[1]["top1"] is not None


def test_whole_epochs_are_the_same_run_in_updates(store, tmp_path):
    options = {"schedule": "cosine", "temperature_end": 2.0}
    run(store, tmp_path / "epochs", epochs=2, **options)
    run(store, tmp_path / "updates", updates=8, **options)
    assert weights(tmp_path / "epochs") == weights(tmp_path / "updates")


def test_interrupted_in_its_partial_epoch_a_run_ends_the_same_to_the_bit(store, tmp_path, monkeypatch):
    monkeypatch.setattr("dmkd.training.run.REPORT_SECONDS", 0)

    def stop(progress):
        if progress.images == 96:
            raise KeyboardInterrupt

    options = {"updates": 7, "schedule": "cosine", "warmup_epochs": 1, "ema": 0.9}
    run(store, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train(
            recipe_of(store, **options),
            store,
            tmp_path / "stopped",
            device="cpu",
            execution=Execution(checkpoint_minutes=0),
            report=stop,
        )
    begun = []
    train(recipe_of(store, **options), store, tmp_path / "stopped", device="cpu", begin=begun.append)
    assert begun == [96] and weights(tmp_path / "whole") == weights(tmp_path / "stopped")
    train(recipe_of(store, **options), store, tmp_path / "stopped", device="cpu", begin=begun.append)
    assert begun == [96, 112], "a finished run is not repeated"
    assert len(curves(tmp_path / "stopped")) == 2


def test_schedules_run_over_the_updates(store):
    length = run_length(recipe_of(store, updates=30, warmup_epochs=2), 64)
    assert length == RunLength(updates=30, updates_per_epoch=4, warmup=8)
    assert (length.epochs, [length.updates_in(epoch) for epoch in (0, 6, 7)]) == (8, [4, 4, 2])
    assert length.images_seen(30, 64) == 480


def test_the_step_schedule_falls_at_its_milestones_and_not_a_step_earlier(store):
    import torch

    recipe = recipe_of(store, schedule="step", milestones=(0.3, 0.6), updates=10)
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=recipe.lr)
    scheduler = create_scheduler(recipe, optimizer, run_length(recipe, 64))
    rates = []
    for step in range(10):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01] * 3 + [0.001] * 3 + [0.0001] * 4)


def test_a_recipe_in_epochs_is_written_as_before_there_were_updates(store):
    described = recipe_of(store, epochs=3).to_json()
    assert not {"updates", "warmup_updates"} & described.keys()
    assert (described["epochs"], described["warmup_epochs"]) == (3, 0)
    assert {"epochs", "warmup_epochs", "warmup_updates", "updates"} & recipe_of(store, updates=5).to_json().keys() == {
        "updates",
        "warmup_updates",
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--epochs", 2, "--updates", 8], "--epochs and --updates can't both say how long to train"),
        (["--updates", 0], "--updates must be greater than 0"),
        (["--epochs", 2, "--warmup-epochs", 2], "--warmup-epochs 2 must be less than the 2 epochs of the run"),
        (["--updates", 7, "--warmup-epochs", 2], "--warmup-epochs 2 is 8 optimiser steps on these 64 images"),
    ],
)
def test_a_length_that_can_not_be_is_refused_before_the_run(store, tmp_path, options, sentence):
    done = dmkd_train(store, tmp_path / "run", *options)
    assert done.exit_code == 2 and sentence in said(done), done.output
    assert not (tmp_path / "run").exists()


# The warm-up


@pytest.mark.parametrize(
    ("options", "warmup"),
    [({}, 8), ({"epochs": 1}, 0), ({"epochs": 11}, 4), ({"epochs": 100}, 8), ({"updates": 44}, 4), ({"updates": 8}, 1)],
)
def test_a_shorter_run_has_a_shorter_warm_up(digits, options, warmup):
    assert run_length(recipe_of(digits, **options), 64).warmup == warmup  # 4 steps an epoch


def test_a_warm_up_that_was_given_is_kept(digits):
    assert recipe_of(digits, epochs=3, warmup_epochs=2).warmup_epochs == 2
    assert recipe_of(digits, updates=44, warmup_epochs=7).to_json()["warmup_epochs"] == 7


# Continuing


def test_a_finished_run_is_continued_with_more_epochs(store, tmp_path):
    out = tmp_path / "run"
    assert dmkd_train(store, out, "--epochs", 1, "--val", store.path).exit_code == 0
    first = curves(out)
    done = dmkd_train(store, out, "--epochs", 3, "--val", store.path)
    assert done.exit_code == 0, done.output
    assert "was made with --epochs 1: continuing it from step 4" in said(done) and said(done).count("continuing") == 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["continued_from"] == [{"epochs": 1, "after_updates": 4}] and summary["training"]["epochs"] == 3
    assert curves(out)[0] == first[0] and [line["epoch"] for line in curves(out)] == [1, 2, 3]
    again = dmkd_train(store, out, "--epochs", 3, "--val", store.path)
    assert again.exit_code == 0 and "continuing" not in said(again)
    assert json.loads((out / "summary.json").read_text())["continued_from"] == summary["continued_from"]


def test_a_partial_epoch_is_made_whole_when_the_run_is_continued(store, tmp_path):
    options = {"schedule": "constant"}  # no schedule that depends on the length: nothing else may differ
    run(store, tmp_path / "parts", updates=6, **options)
    summary = run(store, tmp_path / "parts", updates=11, **options)
    run(store, tmp_path / "whole", updates=11, **options)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert [line["images"] for line in curves(tmp_path / "parts")] == [64, 64, 48]
    keys = ("epoch", "loss", "agreement")
    parts, whole = ([{key: line[key] for key in keys} for line in curves(tmp_path / n)] for n in ("parts", "whole"))
    assert parts == whole
    assert summary["continued_from"] == [{"updates": 6, "after_updates": 6}]


def test_a_continued_run_that_is_interrupted_has_no_summary_of_the_shorter_one(store, tmp_path, monkeypatch):
    monkeypatch.setattr("dmkd.training.run.REPORT_SECONDS", 0)

    def stop(progress):
        if progress.images > 64 + 16:
            raise KeyboardInterrupt

    run(store, tmp_path, epochs=1)
    recipe, options = recipe_of(store, epochs=2), {"device": "cpu", "execution": Execution(checkpoint_minutes=0)}
    with pytest.raises(KeyboardInterrupt):
        train(recipe, store, tmp_path, **options, report=stop)
    assert not (tmp_path / "summary.json").exists()
    notices = []
    summary = train(recipe, store, tmp_path, device="cpu", notice=notices.append)
    assert not notices and summary["continued_from"] == [{"epochs": 1, "after_updates": 4}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, "training.epochs: the run has 2, you asked for 1"),
        (
            {"epochs": 3, "lr": 0.02},
            "training.epochs: the run has 2, .*training.lr: the run has 0.01, you asked for 0.02",
        ),
        ({"epochs": None, "updates": 100}, "training.epochs: the run has 2, you asked for nothing"),
    ],
)
def test_a_run_that_differs_in_more_than_a_greater_length_is_refused(store, tmp_path_factory, changes, message):
    out = tmp_path_factory.getbasetemp() / "two-epochs"
    run(store, out, epochs=2)
    with pytest.raises(MismatchError, match=message):
        run(store, out, **{"epochs": 2, **changes})


# What a preset or a loss lacks


def test_a_preset_that_needs_mixed_views_says_what_is_missing(store, tmp_path):
    done = dmkd_train(store, tmp_path / "run", "--preset", "cutmix-t20", "--updates", 1, "--json")
    assert done.exit_code == 0, done.output
    assert "The views 'views' do not mix images" in said(done) and "dmkd label --views rrc:50+cutmix" in said(done)
    notices = []
    axes = Axes((store.path,), students=("test_resnet",), seeds=(0, 1))
    plan_runs(axes, {"updates": 1}, "cutmix-t20", notices.append)
    assert len(notices) == 1 and "do not mix images" in notices[0]
    plan_runs(axes, {"updates": 1}, "dm-kd", notices.append)
    assert len(notices) == 1


def test_a_preset_takes_the_student_that_suits_the_store(digits):
    suiting = resolve_training(digits, {})[1].student
    _, recipe = resolve_training(digits, {}, "cutmix-t20")
    assert suiting != "resnet18" and recipe.student == suiting and recipe.optimizer == "adamw"
    assert resolve_training(digits, {"student": "resnet18"}, "cutmix-t20")[1].student == "resnet18"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--loss", "hard", "--temperature", 4],
            "--temperature is not used by --loss hard, only by kl, dkd, standardised and dist",
        ),
        (["--loss", "hard", "--hard-weight", 0.5], "--hard-weight is not used by --loss hard"),
        (["--dkd-beta", 4], "--dkd-beta is not used by --loss kl, only by dkd"),
        (["--loss", "argmax", "--temperature", 4], "--temperature is not used by --loss argmax, only by kl, dkd, "),
        (["--loss", "gift", "--temperature-end", 4], "--temperature-end is not used by --loss gift"),
        (["--loss", "hard", "--hard-weight-end", 0.5], "--hard-weight-end is not used by --loss hard"),
    ],
)
def test_an_option_that_the_loss_does_not_use_is_refused(store, tmp_path, options, sentence):
    done = dmkd_train(store, tmp_path / "run", "--epochs", 1, *options)
    assert done.exit_code == 2 and sentence in said(done), done.output
    assert not (tmp_path / "run").exists()


def test_a_comparison_refuses_an_option_that_none_of_its_runs_uses(store):
    def plan(labels, options, **vary):
        return plan_runs(Axes((store.path,), labels, ("test_resnet",), vary=vary), {**FAST, "epochs": 1, **options})

    assert len(plan(("teacher", "hard"), {"temperature": 4.0})) == 2, "it is for the run with a teacher"
    assert len(plan(("teacher",), {"dkd_beta": 4.0}, loss=("kl", "dkd"))) == 2
    with pytest.raises(UsageError, match="--temperature is not used by --loss hard"):
        plan(("hard",), {"temperature": 4.0})
    with pytest.raises(UsageError, match="--temperature is not used by --loss hard"):
        plan(("hard",), {}, temperature=(1.0, 4.0))
    with pytest.raises(UsageError, match="--feature-weight needs labels"):
        plan(("hard",), {"feature_weight": 1.0})
