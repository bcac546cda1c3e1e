"""What a run would come to: checked against published counts, and against the stores that are then made."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmkd.classifiers.load import configured_classifier, load_classifier
from dmkd.cli.display import PlainDisplay
from dmkd.cli.main import main
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.generators.load import configured_generator, describe_generator
from dmkd.making.flops import classifier_flops, decoder_flops, model_calls, transformer_flops
from dmkd.plan import CostOptions, plan
from dmkd.recipes.recipe import Recipe
from dmkd.stores import open_store

DIT = "facebook/DiT-XL-2-256"
SMALL = {"images": 40, "block_size": 16, "steps": 2, "sampler": "ddim"}


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def planned(path, generator, images=None, cost=None, **labels):
    return plan(
        str(path),
        ImageOptions(generator=str(generator), **{**SMALL, **(images or {})}),
        LabelOptions(**labels),
        cost or CostOptions(),
        "cpu",
    )


def made(path, generator, **labels):
    options = ImageOptions(generator=str(generator), **SMALL)
    return generate(str(path), options, LabelOptions(**labels), RunOptions(0, "cpu"), PlainDisplay(every=float("inf")))[
        0
    ]


@pytest.fixture(scope="module")
def dit():
    return configured_generator(DIT)


def recipe(**options):
    values = {
        "generator": "g", "generator_sha256": "", "image_size": 256, "classes": None, "num_classes": 1000, "sampler": "ddpm",
        "steps": 100, "guidance": 2.0, "guidance_interval": None, "guided_channels": 3, "dtype": "bfloat16", "seed": 0,
        "sub_batch": 64, "compile": False, "cpu_threads": None,
    }  # fmt: skip
    return Recipe(**{**values, **options})


def test_arithmetic_is_what_is_published(dit):
    info, (_, transformer, vae, _) = dit
    assert transformer_flops(transformer, info) == pytest.approx(2 * 118.64e9, rel=1e-3)  # DiT's table 4: 118.64 Gflops
    assert decoder_flops(vae, info) == pytest.approx(622.2e9, rel=1e-3)
    assert classifier_flops(configured_classifier("resnet50"), 224) == pytest.approx(2 * 4.09e9, rel=1e-2)


def test_model_calls_are_those_that_the_sampler_makes(dit):
    info, (*_, scheduler) = dit
    assert model_calls(recipe(), info, scheduler) == 200
    assert model_calls(recipe(guidance=1.0), info, scheduler) == 100
    assert model_calls(recipe(guidance=(1.0, 3.0)), info, scheduler) == 200
    # ddpm at 100 steps visits 0, 10 (.09), 20 ... 999: 40 of them from 0.1 to 0.5 of 1000.
    assert model_calls(recipe(guidance_interval=(0.1, 0.5)), info, scheduler) == 140
    assert model_calls(recipe(sampler="dpm++", steps=25), info, scheduler) == 50


def test_the_default_run_is_dm_kds_and_needs_neither_network_nor_weights(tmp_path):
    found = plan(str(tmp_path / "s.zarr"), ImageOptions(), LabelOptions(), CostOptions())
    assert found["flops_per_image"]["total"] == pytest.approx(48.1e12, rel=1e-2)
    assert found["images"] == 200_000 and found["blocks"] == 3125 and found["block_size"] == 64
    assert found["arrays"]["images"]["bytes"] == 3125 * (64 * 256 * 256 * 3 + 4)
    assert found["arrays"]["labels/resnet18.tv_in1k/logits"]["bytes"] == 3125 * (64 * 9 * 1000 * 2 + 4)
    assert found["recipe"]["teacher"] == ["resnet18.tv_in1k"] and found["recipe"]["dtype"] == "bfloat16"
    assert found["gpu_hours"] == pytest.approx(200_000 * found["flops_per_image"]["total"] / (989e12 * 0.4) / 3600)
    assert "989 TFLOP/s" in found["assumption"] and "40%" in found["assumption"]
    assert not list(tmp_path.iterdir())


def test_the_default_plan_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in ((), ("--store", "imnet.zarr", "--gpus", 8)):
        screen = dmkd("plan", *arguments)
        assert screen.exit_code == 0, screen.output
        assert "48.12 TFLOP" in screen.stdout and "GPU-hours" in screen.stdout and "sub-batch" not in screen.stdout


def test_classes_of_the_default_generator_have_names():
    named = plan("s.zarr", ImageOptions(classes="golden retriever,tench"), LabelOptions(), CostOptions())
    assert named["recipe"]["classes"] == "0,207" and named["classes"] == 2


@pytest.mark.parametrize("codec", ["float16", "uint8", "topk:3", "features", "klt:1"])
def test_bytes_and_files_are_those_of_the_store(tmp_path, tiny_generator, tiny_teacher, other_teacher, codec):
    labels = {"teachers": (str(tiny_teacher), str(other_teacher)), "views": "rrc:2", "codec": codec}
    found = planned(tmp_path / "s.zarr", tiny_generator, **labels)
    assert not list(tmp_path.iterdir())
    store = made(tmp_path / "s.zarr", tiny_generator, **labels)
    # About the store, by how often a run is stopped: not planned.
    told = {Path(store.path) / "runs", Path(store.path) / "card"}
    files = [file for file in Path(store.path).rglob("*") if file.is_file() and not told & set(file.parents)]
    assert found["files"] == len(files)
    folders = {str(file.parent.relative_to(store.path)) for file in files if file.name.startswith("c")}
    assert folders == found["arrays"].keys()
    for node, array in found["arrays"].items():
        size = sum(file.stat().st_size for file in (Path(store.path) / node).glob("c*"))
        if array["bytes_are"] == "exact":
            assert size == array["bytes"], node
        elif array["bytes_are"] == "at most":
            assert size <= array["bytes"] + 64 * found["blocks"], node  # what cannot be compressed grows by a header
        else:
            assert isinstance(open_store(store.path).labels["tiny-resnet"].codec.to_json()["step"], float)
    assert found["bytes_are"] == {"features": "at most", "klt:1": "about"}.get(codec, "exact")


def test_the_recipe_told_is_the_recipe_made(tmp_path, tiny_generator, tiny_teacher):
    found = planned(tmp_path / "s.zarr", tiny_generator, teachers=(str(tiny_teacher),), views="rrc:2")
    store = made(tmp_path / "s.zarr", tiny_generator, teachers=(str(tiny_teacher),), views="rrc:2")
    for key in ("sampler", "steps", "guidance", "guided-channels", "seed", "dtype", "sub-batch"):
        assert found["recipe"][key] == store.recipe[key.replace("-", "_")]
    again = plan(store.path, ImageOptions(), LabelOptions(), CostOptions(), "cpu")
    assert again["exists"] and again["recipe"] == found["recipe"] and again["arrays"] == found["arrays"]


def test_what_is_left_of_a_store_that_is_there(tmp_path, tiny_generator, tiny_teacher, other_teacher):
    store = made(tmp_path / "s.zarr", tiny_generator, teachers=(str(tiny_teacher),), views="rrc:2")
    path = Path(store.path)
    done = plan(store.path, ImageOptions(), LabelOptions(), CostOptions(), "cpu")
    assert done["left"] == {"images": 0, "sampled": 0, "labels": {"tiny-resnet": 0}}
    assert done["flops"] == 0 and done["gpu_hours"] == 0
    (path / "images/c.2.0.0.0").unlink()  # 8 images, the last block
    (path / "labels/tiny-resnet/logits/c.0.0.0").unlink()  # 16
    left = plan(store.path, ImageOptions(), LabelOptions(), CostOptions(), "cpu")
    assert left["left"]["images"] == 8 and left["left"]["labels"] == {"tiny-resnet": 24}
    per_image = left["flops_per_image"]
    sampled = left["left"]["sampled"] * (per_image["sampling"] + per_image["decoding"])
    assert left["flops"] == sampled + 24 * per_image["labels"]["tiny-resnet"]
    # Growing makes the half-used last block again, and a new teacher labels everything.
    grown = plan(store.path, ImageOptions(images=100), LabelOptions((str(other_teacher),)), CostOptions(), "cpu")
    assert grown["left"]["images"] == 100 - 32
    assert grown["left"]["labels"] == {"tiny-resnet": 100 - 16, "tiny-efficientnet": 100}
    assert open_store(store.path).num_images == 40 and list(open_store(store.path).labels) == ["tiny-resnet"]


def test_sub_batches_are_filled_up(tmp_path, tiny_generator):
    found = planned(tmp_path / "s.zarr", tiny_generator, {"images": 32, "sub_batch": 10}, teachers=("none",))
    assert found["left"]["sampled"] == 40
    assert found["recipe"]["teacher"] == ["none"] and "views" not in found["recipe"]


def test_time_and_cost(tmp_path, tiny_generator):
    measured = CostOptions(images_per_second=2.0, gpus=4, dollars_per_hour=3.0)
    found = planned(tmp_path / "s.zarr", tiny_generator, {"images": 7200}, measured, teachers=("none",))
    assert (found["gpu_hours"], found["hours"], found["dollars"]) == (1.0, 0.25, 3.0)
    assert found["images_per_second"] == 8.0
    stated = CostOptions(tflops=2.0, utilisation=0.5)
    found = planned(tmp_path / "s.zarr", tiny_generator, cost=stated, teachers=("none",))
    assert found["hours"] == pytest.approx(found["flops"] / 1e12 / 3600)
    assert found["assumption"] == "2 TFLOP/s a GPU (as given), 50% of it reached"


def test_weights_are_not_read(tmp_path, tiny_generator, tiny_teacher):
    import shutil

    generator = shutil.copytree(tiny_generator, tmp_path / "g", ignore=shutil.ignore_patterns("*.safetensors"))
    teacher = shutil.copytree(tiny_teacher, tmp_path / "t", ignore=shutil.ignore_patterns("*.safetensors"))
    found = planned(tmp_path / "s.zarr", generator, teachers=(str(teacher),))
    whole = planned(tmp_path / "s.zarr", tiny_generator, teachers=(str(tiny_teacher),))
    assert found["flops"] == whole["flops"] and found["bytes"] == whole["bytes"]


def test_configuration_alone_says_the_same_as_with_weights(tiny_generator, tiny_teacher):
    described, (configured, _) = describe_generator(str(tiny_generator)), configured_generator(str(tiny_generator))
    assert {**vars(described), "sha256": ""} == vars(configured)
    loaded, without = load_classifier(str(tiny_teacher)), configured_classifier(str(tiny_teacher))
    assert without.model.get_classifier().weight.is_meta
    for name in ("name", "architecture", "num_classes", "class_names", "input_size", "mean", "crop_pct"):
        assert getattr(loaded, name) == getattr(without, name)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoints_classes_are_read_and_not_its_weights(tmp_path, tiny_teacher, suffix):
    import torch
    from safetensors.torch import load_file

    file = tiny_teacher / "model.safetensors"
    if suffix == ".pth":
        file = tmp_path / "w.pth"
        torch.save(load_file(tiny_teacher / "model.safetensors"), file)
    classifier = configured_classifier(f"test_resnet={file}")
    assert classifier.num_classes == 10 and next(classifier.model.parameters()).is_meta


def test_dry_run_and_plan_tell_the_same_and_write_nothing(tmp_path, monkeypatch, tiny_generator, tiny_teacher):
    monkeypatch.chdir(tmp_path)
    options = ["--generator", tiny_generator, "--teacher", tiny_teacher, "--images", 32, "--device", "cpu", "--json"]
    dry = dmkd("generate", "--store", "s.zarr", *options, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert json.loads(dry.stdout) == json.loads(dmkd("plan", "--store", "s.zarr", *options).stdout)
    assert not list(tmp_path.iterdir())
    screen = dmkd("plan", *options[:-1], "--gpus", 2, "--dollars-per-hour", 1)
    assert screen.exit_code == 0, screen.output
    for text in ("images = 32", "1 of 256 images", "on 2 GPUs", "labels/tiny-resnet/logits", "assumed", "dollars"):
        assert text in screen.stdout, text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpus", "0"], "--gpus must be greater than 0"),
        (["--utilisation", "40"], "--utilisation is a share"),
        (["--images-per-second", "1", "--tflops", "300"], "not both"),
        (["--images-per-second", "nan"], "must be greater than 0"),
        (["--steps", "1"], "2 to 1000 steps"),
        (["--teacher", "resnet19"], "no model 'resnet19'"),
        (["--teacher", "digits-vit"], "knows 10 classes"),
        (["--generator", "someone/else"], "someone/else"),
        (["--codec", "zip"], "no label codec"),
    ],
)
def test_what_can_not_be_gets_one_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    done = dmkd("plan", *arguments)
    assert done.exit_code in (1, 2) and sentence in done.stderr and "Traceback" not in done.output, done.output
    assert not list(tmp_path.iterdir())
