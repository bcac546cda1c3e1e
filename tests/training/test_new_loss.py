"""A loss is one entry of a table: one that this file alone defines trains by the command, and help and completion list it."""

import dataclasses
import json

import pytest
import torch
from click.shell_completion import BashComplete
from click.testing import CliRunner
from conftest import TEACHER, block_arrays, filled_store, new_store

from dmkd.cli.main import main
from dmkd.cli.training_progress import print_recipe
from dmkd.stores import UsageError, parse_codec
from dmkd.training.conditions import Axes, plan_runs
from dmkd.training.loss_table import LOSSES, Loss, LossOption, loss_options
from dmkd.training.training_recipe import TrainingRecipe, resolve_training

KNOWN = tuple(LOSSES)
FAST = {"student": "test_resnet", "epochs": 1, "batch_size": 16, "lr": 0.01}


def squared_error(batch, logits, setting):
    teacher = batch.logits(setting.temperature)
    return setting.options.get("scale", 1.0) * (logits - teacher).square().mean(), teacher.argmax(1)


@pytest.fixture
def toy(monkeypatch):
    entry = Loss(squared_error, help="squares", words="squared error of the logits", takes_mixed=False)
    monkeypatch.setitem(LOSSES, "toy", entry)
    return entry


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("losses") / "s.zarr", num_images=32, image_shape=(32, 32, 3))


def train_student(store, out, *options):
    command = ["train-student", "--store", store.path, "--student", "test_resnet", "--epochs", "1", "--lr", "0.01"]
    return CliRunner().invoke(main, [*command, "--device", "cpu", "--out", str(out), *options])


def test_a_new_loss_trains_by_the_command(store, tmp_path, toy):
    done = train_student(store, tmp_path, "--loss", "toy", "--hard-weight", "0.25")
    assert done.exit_code == 0, done.output
    assert "squared error of the logits at T=10, 25% cross-entropy with the class asked for" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["training"]["loss"] == "toy" and summary["labels"].keys() == {"teacher"}


def test_the_loss_is_the_one_of_the_table(store, tmp_path, toy, monkeypatch):
    """At a learning rate of next to nothing, half the loss is half the number."""
    losses = []
    for scale in (1.0, 0.5):
        half = dataclasses.replace(toy, options={"scale": LossOption(scale, "half of it.")})
        monkeypatch.setitem(LOSSES, "toy", half)
        done = train_student(store, tmp_path / str(scale), "--loss", "toy", "--lr", "1e-9", "--json")
        losses.append(json.loads(done.stdout)["loss"])
    assert losses[1] == pytest.approx(losses[0] / 2, rel=1e-5)


def test_help_and_completion_list_it(toy):
    printed = " ".join(CliRunner().invoke(main, ["train-student", "--help"]).output.split())
    assert "refined by the class asked for), toy (squares). Default: kl." in printed
    for command in ("train-student", "compare"):
        offered = BashComplete(main, {}, "dmkd", "_C").get_completions([command, "--loss"], "")
        assert [item.value for item in offered] == [*KNOWN, "toy"]
    assert "toy" not in [item.value for item in BashComplete(main, {}, "dmkd", "_C").get_completions([], "")]


def test_what_is_not_in_the_table_is_refused(store, toy):
    with pytest.raises(UsageError, match=rf"--loss must be one of {', '.join(KNOWN)}, toy, not 'mse'\."):
        resolve_training(store, {**FAST, "loss": "mse"})


def test_a_loss_that_takes_no_mixed_views_says_so(tmp_path, toy):
    mixed = new_store(tmp_path / "s.zarr")
    components = ("top", "left", "height", "width", "flip", "partner", "weight")
    mixed.add_view_set("mixed", 1, components, {"size": 8, "interpolation": "bilinear"})
    options = {"codec": parse_codec("float16"), "num_classes": 10, "view_set": "mixed", "source": "t"}
    mixed.add_label_set("of-mixed", teacher=TEACHER, **options)
    with pytest.raises(UsageError, match="--loss toy needs one class an image, .* mix two: use --loss kl"):
        resolve_training(mixed, {**FAST, "loss": "toy", "labels": "of-mixed"})


def test_a_loss_without_a_teacher_needs_no_labels(tmp_path, monkeypatch):
    def zeros(batch, logits, setting):
        return logits.square().mean(), torch.zeros_like(batch.class_ids)

    monkeypatch.setitem(LOSSES, "zeros", Loss(zeros, help="zeros", words="logits' squares", from_labels=False))
    store = filled_store(tmp_path / "s.zarr", num_images=16, image_shape=(32, 32, 3))
    done = train_student(store, tmp_path / "out", "--loss", "zeros")
    assert done.exit_code == 0, done.output
    assert "class ids only" in done.stdout and "logits' squares\n" in done.stdout
    refused = train_student(store, tmp_path / "out", "--loss", "zeros", "--hard-weight", "0.5")
    assert refused.exit_code == 2 and "--hard-weight is not used by --loss zeros, only by kl, dkd, " in refused.stderr


# Options of its own


def test_options_of_a_loss_are_named_in_its_own_recipes_alone(store, toy, monkeypatch, capsys, tmp_path):
    """So a new loss with options changes no recipe that there is, and unfinished runs go on."""
    before = {loss: resolve_training(store, {**FAST, "loss": loss})[1].to_json() for loss in ("kl", "dkd", "hard")}
    assert all(recipe["dkd_alpha"] == 1 and recipe["dkd_beta"] == 8 for recipe in before.values())
    monkeypatch.setitem(LOSSES, "toy", dataclasses.replace(toy, options={"scale": LossOption(2.0, "factor.")}))
    given = {**FAST, "toy_scale": 3.0}
    for loss, recipe in before.items():
        assert resolve_training(store, {**given, "loss": loss})[1].to_json() == recipe
    _, own = resolve_training(store, {**given, "loss": "toy"})
    assert own.to_json() == {**before["kl"], "loss": "toy", "toy_scale": 3.0} and own.own_options == {"scale": 3.0}
    print_recipe("dm-kd", own, store, tmp_path)
    assert "squared error of the logits at T=10 (scale 3)" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--toy-scale must be 0 or more, not -1"):
        resolve_training(store, {**FAST, "loss": "toy", "toy_scale": -1})
    axes = Axes((store.path,), vary={"toy_scale": (1.0, 2.0)}, students=("test_resnet",))
    runs = plan_runs(axes, {"epochs": 1, "lr": 0.01, "loss": "toy"})
    assert [run.condition["toy_scale"] for run in runs] == [1.0, 2.0] and len({run.name for run in runs}) == 2


def test_the_recipes_fields_are_no_options_of_losses():
    assert not {field.name for field in dataclasses.fields(TrainingRecipe)} & loss_options().keys()


# Features


def test_features_without_labels_are_refused_in_one_sentence(store):
    with pytest.raises(
        UsageError, match=r"--feature-weight needs labels that hold features, and none were chosen: .*\.$"
    ):
        resolve_training(store, {**FAST, "loss": "hard", "feature_weight": 1.0})


def test_hard_runs_of_a_comparison_leave_the_features_to_the_others(tmp_path):
    store = new_store(tmp_path / "s.zarr", num_images=16)
    codec = parse_codec("features")
    store.add_label_set("feat", teacher=TEACHER, source="t", view_set="views", codec=codec, num_classes=10)
    weight, bias = torch.ones(10, 4).numpy(), torch.ones(10).numpy()
    store.fit_label_set("feat", codec.fit(10, weight=weight, bias=bias))
    arrays = block_arrays(store, 0)
    arrays["labels"]["feat"] = (torch.rand(16, 2, 4).numpy(), arrays["labels"]["teacher"][1])
    store.write_block(0, **arrays)
    axes = Axes((store.path,), labels=("feat", "hard"), students=("test_resnet",))
    options = {"epochs": 1, "batch_size": 8, "lr": 0.01}
    soft, hard = plan_runs(axes, {**options, "feature_weight": 1.0})
    assert (soft.recipe.feature_weight, hard.recipe.feature_weight) == (1.0, 0.0)
    assert hard.name == plan_runs(axes, options)[1].name, "the same run as without"
    with pytest.raises(UsageError, match="--feature-weight needs labels that hold features, and none were chosen"):
        plan_runs(dataclasses.replace(axes, vary={"feature_weight": (0.0, 1.0)}), options)
