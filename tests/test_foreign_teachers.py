"""Teachers of other libraries and of one's own, from images to a student."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from foreign_teachers import SMALL, enter_own_folder, of_ten, register, save_hf_resnet

from dmkd.classifiers.load import load_classifier
from dmkd.cli.main import main
from dmkd.stores import open_store


@pytest.fixture
def own(tmp_path, monkeypatch):
    return enter_own_folder(tmp_path, monkeypatch)


def dmkd(*arguments):
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done


MAKE = (
    "generate",
    "--store",
    "s.zarr",
    "--images",
    32,
    "--block-size",
    16,
    "--steps",
    2,
    "--sampler",
    "ddim",
    "--views",
    "rrc:1,size=32",
)
TRAIN = (
    "train-student",
    "--store",
    "s.zarr",
    "--student",
    "test_resnet",
    "--epochs",
    1,
    "--batch-size",
    16,
    "--out",
    "run",
)


BY_NAME = [*range(9, -1, -1)]


@pytest.mark.parametrize(
    ("source", "labels", "outputs"),
    [
        (f"torchvision:{SMALL}=mine.pth", "mine", None),
        ("hf:tiny-hf", "tiny-hf", BY_NAME),
        ("own_teachers:teacher", "own_teachers.teacher", BY_NAME),
        ("pets-resnet", "pets-resnet", BY_NAME),
    ],
)
def test_from_generate_to_a_student(source, labels, outputs, own, tiny_generator):
    register(own)
    if source.startswith("torchvision"):
        of_ten(SMALL, own / "mine.pth")
    elif source.startswith("hf"):
        save_hf_resnet(own / "tiny-hf")
    done = dmkd(*MAKE, "--generator", tiny_generator, "--teacher", source, "--codec", "features")
    stored = open_store("s.zarr").labels[labels]
    assert stored.source == source and stored.teacher["sha256"] == load_classifier(source).sha256, done.output
    assert stored.teacher.get("outputs") == outputs  # found by their names, in whatever order
    dmkd(*MAKE, "--generator", tiny_generator, "--teacher", source, "--codec", "features")  # to go on with
    assert "s.zarr" in dmkd("verify", "s.zarr", "--rerun-teacher", 1).output
    dmkd(*TRAIN, "--labels", labels)
    assert json.loads(Path("run/summary.json").read_text())["store"]["images"] == 32
    dmkd("plan", "--generator", tiny_generator, "--teacher", source, "--images", 64)
    dmkd("evaluate", source, "--data", "s.zarr")


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_worker_of_ray_finds_ones_own_module(own, tiny_generator):
    options = (*MAKE[3:], "--generator", tiny_generator, "--teacher", "own_teachers:teacher")
    logits = []
    for store, workers in (("ray.zarr", 1), ("here.zarr", 0)):
        dmkd("generate", "--store", store, *options, "--workers", workers)
        logits.append(open_store(store).to_xarray()["labels/own_teachers.teacher/logits"].values)
    np.testing.assert_array_equal(*logits)
