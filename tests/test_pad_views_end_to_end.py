"""Padded crops from the label to the student: stored, proved, rendered alike, and asked for by the CIFAR preset."""

import math

import numpy as np
import pytest
from click.testing import CliRunner

from dmkd.cli.main import main
from dmkd.loading import Loader
from dmkd.stores import open_store
from dmkd.train import train
from dmkd.training.training_recipe import preset_notice, resolve_training

HERE = "--device", "cpu", "--workers", "0"
IMAGES = "--views", "rrc:2", "--images", "32", "--steps", "2", *HERE


def dmkd(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_generator, tiny_teacher):
    path = tmp_path_factory.mktemp("pad") / "s.zarr"
    dmkd("generate", "--store", path, "--generator", tiny_generator, "--teacher", tiny_teacher, *IMAGES)
    dmkd("label", "--store", path, "--teacher", tiny_teacher, "--views", "pad:3,padding=2", *HERE)
    return open_store(path)


def labels_of(store, view_set):
    (name,) = (name for name, label_set in store.labels.items() if label_set.view_set == view_set)
    return name


def test_the_student_sees_what_the_teacher_was_shown(store):
    views = store.views["pad3"]
    assert (views.padding, views.attributes["policy"]["padding"]) == (2, 2)
    labels = labels_of(store, "pad3")
    boxes = views[np.arange(32)]
    assert (boxes[:, :, :2] < 0).any() and (boxes[:, :, 2:4] == 1).all()
    images = store.images[np.arange(32)]
    edge = images.shape[1]
    framed = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    batch = next(Loader(store, labels={labels: 1.0}, batch_size=32, device="cpu").epoch(0))
    for image_id, view, pixels in zip(batch.ids, batch.views, batch.pixels(size=edge), strict=True):
        top, left = np.rint(view[:2] * edge).astype(int) + 2
        crop = framed[image_id, top : top + edge, left : left + edge]
        np.testing.assert_array_equal(pixels.permute(1, 2, 0), crop[:, ::-1] if view[4] else crop)
    dmkd("verify", store.path, "--rerun-teacher", "1")


def test_the_cifar_preset_asks_for_them(store):
    labels = labels_of(store, "pad3")
    name, recipe = resolve_training(store, {"labels": labels, "student": "test_resnet"}, "dm-kd-cifar")
    assert (name, recipe.temperature, recipe.lr, recipe.weight_decay, recipe.batch_size) == (
        "dm-kd-cifar",
        4,
        0.1,
        5e-4,
        128,
    )
    assert [share * recipe.epochs for share in recipe.milestones] == [150, 180, 210]
    assert preset_notice("dm-kd-cifar", store, recipe) is None
    _, other = resolve_training(store, {"labels": labels_of(store, "rrc2"), "student": "test_resnet"}, "dm-kd-cifar")
    notice = preset_notice("dm-kd-cifar", store, other)
    assert "The views 'rrc2' are not crops of padded images" in notice and "`dmkd label --views pad:8` makes" in notice


def test_without_labels_they_are_drawn_while_training(store, tmp_path):
    given = {"student": "test_resnet", "epochs": 1, "batch_size": 16, "lr": 0.01, "loss": "hard", "view_set": "pad"}
    _, recipe = resolve_training(store, given)
    assert recipe.view_set == "pad"
    assert math.isfinite(train(recipe, store, tmp_path, device="cpu")["loss"])
