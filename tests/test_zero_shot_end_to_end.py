"""From a list of names to a classifier, by the commands of the README, on tiny models with random weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import TESTS, tree_bytes
from PIL import Image
from tiny_clip_models import save_tiny_clip
from tiny_text_models import save_tiny_text_pipeline

from dmkd.cli.main import main
from dmkd.making.recipe_file import recipe_of
from dmkd.stores import open_store

pytestmark = pytest.mark.xdist_group("ray")

CLIP = "clip:openai/clip-vit-base-patch32"
LABELS = "clip-vit-base-patch32"
FAST = ("--views", "rrc:2", "--device", "cpu")


def dmkd(*arguments, code=0):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders that are called as the hub's repositories are: a folder that exists wins."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_clip(folder / CLIP.removeprefix("clip:"))
    save_tiny_clip(folder / "google" / "siglip-base-patch16-224", "siglip")
    save_tiny_text_pipeline(folder / "stabilityai" / "sdxl-turbo", "StableDiffusionXLPipeline")
    (folder / "pets.txt").write_text("beagle\nsphynx, sphynx cat\nGreat_Dane\n")
    for name in ("beagle", "great dane"):
        (folder / "my-pets" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "my-pets" / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def made(models):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(models)
        # fmt: off
        dmkd("generate", "--store", "pets.zarr", "--generator", "stabilityai/sdxl-turbo", "--class-names", "pets.txt",
             "--teacher", CLIP, "--images", 24, "--block-size", 8, *FAST)
        # fmt: on
    return models / "pets.zarr"


@pytest.fixture
def pets(models, made, tmp_path, monkeypatch):
    """A copy of the store, in a folder where the models and the images are as well."""
    for name in ("openai", "google", "stabilityai", "pets.txt", "my-pets"):
        (tmp_path / name).symlink_to(models / name)
    shutil.copytree(made, tmp_path / "pets.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pets.zarr"


def test_from_a_list_of_names_to_a_classifier(pets):
    labels = open_store("pets.zarr").labels[LABELS]
    assert labels.missing_blocks() == [] and labels.teacher["prompts"]["templates"] == ["a photo of a {}."]
    shown = dmkd(
        *("train-student", "--store", "pets.zarr", "--val", "./my-pets"),
        *("--student", "test_resnet", "--epochs", 1, "--device", "cpu", "--out", "run"),
    )
    assert "top-1" in shown
    student = json.loads(dmkd("evaluate", "run", "--data", "./my-pets", "--json", "--device", "cpu"))
    assert student["images"] == 6 and set(student["per_class"]) == {"beagle", "sphynx, sphynx cat", "Great_Dane"}
    teacher = json.loads(dmkd("evaluate", CLIP, "--data", "./my-pets", "--json", "--device", "cpu"))
    assert set(teacher["per_class"]) == {"beagle", "great dane"}
    named = dmkd(
        *("evaluate", CLIP, "--data", "./my-pets", "--class-names", "pets.txt", "--json", "--device", "cpu"),
        *("--teacher-prompt", "imagenet"),
    )
    assert set(json.loads(named)["per_class"]) == set(student["per_class"])
    on_store = json.loads(dmkd("evaluate", CLIP, "--data", "pets.zarr", "--json", "--device", "cpu"))
    quality = labels.quality[:]
    assert on_store["top1"] == np.mean(quality[:, 0] == open_store("pets.zarr").class_ids[:])


def test_its_labels_are_made_again(pets):
    report = json.loads(
        dmkd("verify", "pets.zarr", "--regenerate", 0.3, "--rerun-teacher", 1, "--json", "--device", "cpu")
    )
    assert report["sound"] and report["rerun_teacher"][LABELS]["max_logit_difference"] == 0


def test_another_teacher_keeps_its_features(pets):
    dmkd("label", "--store", "pets.zarr", "--teacher", "clip:google/siglip-base-patch16-224", "--codec", "features",
         "--teacher-prompt", "a {}", "--teacher-prompt", "the {}", "--device", "cpu")  # fmt: skip
    labels = open_store("pets.zarr").labels["siglip-base-patch16-224"]
    assert labels.teacher["prompts"]["templates"] == ["a {}", "the {}"] and labels.codec.input == "features"
    dmkd("label", "--store", "pets.zarr", "--teacher", "clip:google/siglip-base-patch16-224", "--name", "dense", "--device",
         "cpu")  # fmt: skip
    stored = open_store("pets.zarr").labels
    assert stored["dense"].teacher["prompts"] == labels.teacher["prompts"], "prompts are those of the labels there are"
    assert np.abs(labels.logits(range(24)) - stored["dense"].logits(range(24))).max() < 0.1
    dmkd(
        *(
            "train-student",
            "--store",
            "pets.zarr",
            "--labels",
            "siglip-base-patch16-224",
            "--feature-weight",
            1,
            "--student",
        ),
        *("test_resnet", "--epochs", 1, "--device", "cpu", "--out", "run"),
    )


def test_other_prompts_and_other_names_are_refused(pets):
    again = ("label", "--store", "pets.zarr", "--teacher", CLIP, "--device", "cpu")
    before = tree_bytes(pets)
    dmkd(*again)
    said = dmkd(*again, "--teacher-prompt", "a drawing of a {}.", code=2)
    assert 'prompts.templates: the store has ["a photo of a {}."], you asked for ["a drawing of a {}."]' in " ".join(
        said.split()
    )
    assert tree_bytes(pets) == before
    root = pets / "zarr.json"
    root.write_text(root.read_text().replace('"beagle"', '"poodle"'))
    labels = pets / "labels" / LABELS
    for file in labels.rglob("c.1.*"):
        file.unlink()
    said = " ".join(dmkd("label", "--store", "pets.zarr", "--device", "cpu", code=2).split())
    assert "The class names of pets.zarr have changed since label set 'clip-vit-base-patch32' was begun" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("label", "--teacher", CLIP, "--teacher-prompt", "a photo"), "--teacher-prompt 'a photo' lacks {}"),
        (("label", "--teacher", "resnet18", "--teacher-prompt", "a {}"), "--teacher-prompt is for teachers"),
        (("label", "--teacher", "clip:openai/none"), "could not be fetched from the Hugging Face hub"),
        (("label", "--teacher", "clip:stabilityai"), "The folder stabilityai lacks config.json"),
        (("label", "--teacher", "clip:"), "clip: stands before a hub id or a folder"),
        (("evaluate", "resnet18", "--data", "my-pets", "--class-names", "pets.txt"), "has classes of its own"),
        (("evaluate", CLIP, "--data", "digits"), "if they are numbers, say of what"),
        (("evaluate", CLIP, "--data", "x.tar"), "names no classes: give --class-names"),
    ],
)
def test_what_can_not_be_is_said_in_one_sentence(pets, arguments, said):
    Path("x.tar").touch()
    told = " ".join(dmkd(*arguments, code=1 if "fetched" in said else 2).split())
    assert said in told and told.count("Error:") == 1


def test_a_store_of_numbers_needs_words(tmp_path, models, monkeypatch):
    monkeypatch.chdir(models)
    new = tmp_path / "s.zarr"
    images = ("--generator", "digits", "--images", 10, "--steps", 1, "--teacher", "none")
    dmkd("generate", "--store", new, *images, "--device", "cpu")
    asked = ("label", "--store", new, "--teacher", CLIP, "--device", "cpu", "--views", "center")
    assert "if they are numbers, say of what" in " ".join(dmkd(*asked, code=2).split())
    dmkd(*asked, "--teacher-prompt", "the digit {}")


def test_like_gives_its_prompts(pets):
    dmkd(
        "label", "--store", "pets.zarr", "--teacher", CLIP, "--teacher-prompt", "a {}", "--name", "a", "--device", "cpu"
    )
    recipe = recipe_of(open_store("pets.zarr"))
    assert recipe["teacher-prompt"] in (["a photo of a {}."], ["a {}"]) and recipe["teacher"] == [CLIP]


@pytest.mark.slow
def test_two_actors_make_the_bytes_that_one_process_makes(pets, made):
    import os

    import ray

    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    # fmt: off
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20,
             runtime_env={"env_vars": {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}})
    try:
        dmkd("generate", "--store", "again.zarr", "--like", "pets.zarr", "--workers", 2, "--device", "cpu")
    finally:
        ray.shutdown()
    # fmt: on
    assert tree_bytes(Path("again.zarr")) == tree_bytes(made)
