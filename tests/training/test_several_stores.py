"""One student of several stores: what is learnt from each, what is refused, and how such a run is resumed."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import CLASS_NAMES, block_arrays, filled_store
from safetensors.torch import load_file

import dmkd.training.run
from dmkd.cards.model_card import model_card
from dmkd.cli.main import main
from dmkd.stores import MismatchError, UsageError, create_store
from dmkd.train import train
from dmkd.training.execution import Execution
from dmkd.training.objective import Objective
from dmkd.training.sources import count_images, open_loader
from dmkd.training.training_recipe import resolve_mixture, resolve_training

FAST = {"student": "test_resnet", "epochs": 2, "batch_size": 16, "lr": 0.01}


def plain_store(path, num_images, class_names=CLASS_NAMES, size=32):
    """Images and classes alone."""
    store = create_store(
        str(path),
        recipe={"source": "photos"},
        num_images=num_images,
        image_shape=(size, size, 3),
        class_names=list(class_names),
        block_size=16,
    )
    for block in range(store.num_blocks):
        arrays = block_arrays(store, block)
        class_ids = arrays["class_ids"] % len(class_names)
        store.write_block(block, images=arrays["images"], class_ids=class_ids)
    return store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def labelled(folder):
    return filled_store(folder / "labelled.zarr", num_images=64, image_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def photos(folder):
    """Of some of the classes, in another order, and smaller."""
    return plain_store(folder / "photos.zarr", 48, ["4", "9", "0"], size=24)


def mixture(stores, weights=(None, None), **options):
    return resolve_mixture(stores, weights, {**FAST, **options})[1]


def test_logits_of_one_store_and_class_ids_of_another_are_learnt_in_one_batch(labelled, photos):
    recipe = mixture([labelled, photos], (1, 3), temperature=4.0, hard_weight=0.25)
    assert recipe.labels == "teacher" and recipe.beside[0].labels is None and count_images(recipe, labelled) == 112
    loader = open_loader(recipe, labelled, "cpu")
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.forward_features = lambda images: images.mean((2, 3))
    model.forward_head = torch.nn.Linear(3, 10)
    feeding = {"input_size": 16, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    objective = Objective(recipe, loader.loaders[0].decoder, model, feeding)
    batch = next(loader.epoch(0))
    assert [len(part) for part in batch.parts] == [4, 12]
    loss, agreeing = objective(batch, 0.0)

    pixels = batch.pixels(size=16).float() / 255
    logits = model.forward_head(((pixels - 0.5) / 0.5).mean((2, 3)))
    soft, hard = logits[:4], logits[4:]
    teacher = batch.parts[0].logits()
    p, q = (torch.log_softmax(z / 4, 1) for z in (teacher, soft))
    kl = 16 * (p.exp() * (p - q)).sum(1).mean()
    asked = torch.nn.functional.cross_entropy(soft, batch.parts[0].class_ids)
    names = [CLASS_NAMES.index(photos.class_names[i]) for i in photos.class_ids[batch.parts[1].ids]]
    assert batch.class_ids[4:].tolist() == names
    expected = (0.75 * kl + 0.25 * asked) / 4 + torch.nn.functional.cross_entropy(hard, torch.tensor(names)) * 3 / 4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    said = torch.cat([teacher.argmax(1), torch.tensor(names)])
    assert agreeing.item() == (logits.argmax(1) == said).sum().item()


def run(recipe, store, out, **more):
    return train(recipe, store, out, device="cpu", **more)


def test_a_run_on_several_stores_from_the_command_line(labelled, photos, tmp_path, monkeypatch):
    command = ["train-student", "--store", f"{labelled.path}=3", "--store", photos.path, "--student", "test_resnet"]
    command += ["--epochs", "2", "--batch-size", "32", "--lr", "0.01", "--device", "cpu", "--val", labelled.path]
    command += ["--select", "image_id < 40"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "75.0% of each batch, teacher, views views" in done.output
    assert "25.0% of each batch, class ids only, views rrc" in done.output
    assert "without labels cross-entropy with the class asked for" in done.output
    assert "32 of 112 images are not selected, not made or not labelled yet and are left out." in done.output
    summary = json.loads((tmp_path / "students/labelled+photos-test_resnet-teacher/summary.json").read_text())
    assert summary["store"]["identity"] == labelled.identity and summary["store"]["images"] == 80
    assert summary["labels"] == {"teacher": labelled.labels["teacher"].identity} and summary["top1"] is not None
    one, two = summary["stores"]["1"], summary["stores"]["2"]
    assert (one["path"], one["images"], one["share"]) == (labelled.path, 40, 0.75)
    assert (two["path"], two["identity"], two["images"], two["share"]) == (photos.path, photos.identity, 40, 0.25)
    assert one["labels"] == summary["labels"] and one["teachers"] == summary["teachers"]
    assert two["labels"] == {} == two["teachers"] and two["recipe"] == photos.recipe
    card = model_card(summary, "student")
    assert (
        "on 40 images of none and t's logits for them and 40 images of photos and the classes asked for, without"
        in card
    )
    assert f"| store 2 identity | {photos.identity} |" in card and "| images | 40, 25.0% of each batch |" in card


def test_a_store_alone_is_described_as_ever(labelled, tmp_path):
    _, recipe = resolve_training(labelled, FAST)
    summary = run(recipe, labelled, tmp_path)
    assert not {"stores", "beside", "weights"} & {*summary, *summary["training"]}


def test_views_that_mix_images_beside_views_that_do_not(labelled, folder, tmp_path):
    mixing = plain_store(folder / "mixing.zarr", 32)
    _, recipe = resolve_mixture(
        [labelled, mixing],
        [None, None],
        {**FAST, "labels": "labelled.zarr:teacher,mixing.zarr:", "view_set": "rrc+cutmix"},
    )
    assert recipe.view_set == "views" and recipe.beside[0].view_set == "rrc+cutmix"
    assert np.isfinite(run(recipe, labelled, tmp_path)["loss"])
    # A loss of one class an image learns from the store whose views don't mix; the other's mixed classes are hard labels.
    assert mixture([labelled, mixing], loss="dkd", view_set="rrc+cutmix").beside[0].view_set == "rrc+cutmix"


def stop_after(step, monkeypatch):
    """A report that ends the run after this many optimiser steps."""
    monkeypatch.setattr(dmkd.training.run, "REPORT_SECONDS", 0.0)
    seen = []

    def report(progress):
        seen.append(progress)
        if len(seen) == step:
            raise KeyboardInterrupt

    return report


def test_a_run_that_was_stopped_in_mid_epoch_goes_on_as_if_it_had_not_been(labelled, photos, tmp_path, monkeypatch):
    recipe = mixture([labelled, photos], (2, 1), epochs=3)
    whole = run(recipe, labelled, tmp_path / "whole")
    often = Execution(checkpoint_minutes=0)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, labelled, tmp_path / "cut", execution=often, report=stop_after(10, monkeypatch))
    cut = run(recipe, labelled, tmp_path / "cut", execution=often)
    one, other = (load_file(tmp_path / name / "student/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one) and cut["loss"] == whole["loss"]
    with pytest.raises(MismatchError, match=r"stores.1.share: the run has 0.66.*, you asked for 0.5"):
        run(mixture([labelled, photos], (1, 1), epochs=3), labelled, tmp_path / "cut")
    with pytest.raises(MismatchError, match="stores: the run has .*, you asked for nothing"):
        run(resolve_training(labelled, {**FAST, "epochs": 3})[1], labelled, tmp_path / "cut")


@pytest.mark.slow
def test_two_workers_go_on_with_what_one_began(labelled, photos, tmp_path, monkeypatch):
    """No batch statistics, so that a step is the same whoever computes which part of it."""
    student = {"student": "test_vit", "student_args": {"patch_size": 4}, "schedule": "constant", "lr": 0.002}
    recipe = mixture([labelled, photos], (2, 1), batch_size=28, **student)
    run(recipe, labelled, tmp_path / "whole")
    often = Execution(checkpoint_minutes=0)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, labelled, tmp_path / "cut", execution=often, report=stop_after(2, monkeypatch))
    command = ["train-student", "--store", f"{labelled.path}=2", "--store", photos.path, "--student", "test_vit"]
    command += ["--student-arg", "patch_size=4", "--schedule", "constant", "--lr", "0.002", "--batch-size", "28"]
    command += ["--epochs", "2", "--device", "cpu", "--workers", "2", "--json", "--out", str(tmp_path / "cut")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["execution"]["workers"] == 2
    one, other = (load_file(tmp_path / name / "student/model.safetensors") for name in ("whole", "cut"))
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [112, 112]


def test_what_several_stores_can_not_be_used_for_is_refused(labelled, photos, folder):
    with pytest.raises(UsageError, match="--feature-weight compares with the features of one teacher"):
        mixture([labelled, photos], labels="teacher", feature_weight=1.0)
    with pytest.raises(
        UsageError, match="--loss kl learns from labels, and no store has any that are used: use --loss hard"
    ):
        mixture([labelled, photos], labels="labelled.zarr:")
    assert mixture([labelled, photos], loss="hard").labels is None
    with pytest.raises(
        UsageError, match=r"photos.zarr has no classes 1, 2, 3, 5, 6 and 2 more of .*labelled.zarr: stores"
    ):
        mixture([photos, labelled])
    with pytest.raises(UsageError, match="--loss kl learns from labels, and --labels names none: use --loss hard"):
        resolve_training(labelled, {**FAST, "labels": ""})
    with pytest.raises(UsageError, match="has no label set 'nobody'; it has teacher"):
        mixture([labelled, photos], labels="nobody")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--store", "labelled.zarr", "--store", "nowhere.zarr"], "There is no store at nowhere.zarr."),
        (["--store", "labelled.zarr", "--store", "photos.zarr=0"], "a weight is a number greater than 0"),
        (["--store", "labelled.zarr", "--store", "labelled.zarr"], "labelled.zarr is named twice"),
        (
            ["--store", "labelled.zarr", "--store", "photos.zarr", "--workers", "3"],
            "--batch-size 16 can't be divided by 3",
        ),
    ],
)
def test_a_slip_in_the_stores_is_one_sentence(labelled, photos, folder, monkeypatch, more, sentence):
    monkeypatch.chdir(folder)
    command = ["train-student", *more, "--student", "test_resnet", "--batch-size", "16", "--device", "cpu", "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code != 0 and sentence in done.stderr and "Traceback" not in done.output
    assert len([line for line in done.stderr.splitlines() if line.startswith("Error:")]) == 1


def test_a_classifier_of_the_mixture_has_the_first_stores_classes(labelled, folder, tmp_path):
    backwards = plain_store(folder / "backwards.zarr", 32, CLASS_NAMES[::-1])
    run(mixture([labelled, backwards], epochs=1), labelled, tmp_path)
    config = json.loads((tmp_path / "student/config.json").read_text())
    assert config["label_names"] == CLASS_NAMES
