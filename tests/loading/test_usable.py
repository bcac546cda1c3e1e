"""Which images there are to learn from: one answer for whoever asks."""

import numpy as np
import pytest
from conftest import block_arrays, new_store

from dmkd.export import ExportOptions, export_store
from dmkd.loading import Loader
from dmkd.loading.usable import usable_images
from dmkd.runtime.progress import Silent
from dmkd.stores import MissingBlockError, UsageError, open_store
from dmkd.train import train
from dmkd.training.conditions import Axes, plan_runs
from dmkd.training.training_recipe import resolve_training


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Blocks 0, 2, 3 and 5 of seven are made, of these 0, 2 and 5 are labelled."""
    store = new_store(tmp_path_factory.mktemp("usable") / "half.zarr")
    for block in (0, 2, 3, 5):
        arrays = block_arrays(store, block)
        store.write_block(block, **(arrays if block != 3 else {k: v for k, v in arrays.items() if k != "labels"}))
    return store


@pytest.mark.parametrize("select", [None, "entropy < 0.5", "image_id >= 40 and not agree"])
def test_the_images_are_those_that_the_loader_reads(half, select):
    usable = usable_images(half, ["teacher"], select=select)
    loader = Loader(half, labels={"teacher": 1.0}, batch_size=7, select=select)
    assert usable.ids.tolist() == sorted(np.concatenate([batch.ids for batch in loader.epoch(0)]).tolist())
    assert 0 < len(usable.ids) == loader.num_images and usable.blocks.tolist() == [0, 2, 5]


def test_without_labels_the_blocks_need_none(half):
    usable = usable_images(half, view_set="views")
    assert usable.blocks.tolist() == [0, 2, 3, 5] and len(usable.ids) == 64 and not usable.label_sets


def test_what_leaves_no_image_is_refused(half, tmp_path):
    with pytest.raises(UsageError, match="leaves none of the 48 images"):
        usable_images(half, ["teacher"], select="entropy < -1")
    with pytest.raises(UsageError, match="needs a teacher's opinion"):
        usable_images(half, view_set="views", select="entropy < 1")
    with pytest.raises(MissingBlockError, match="no finished block"):
        usable_images(new_store(tmp_path / "empty.zarr"), ["teacher"])


def rare(path):
    """Sixteen images each of classes 0 to 9 but 7; the teacher never sees a 3, and half of the 5s."""
    store = new_store(path, num_images=144)
    for block in range(store.num_blocks):
        arrays = block_arrays(store, block)
        class_ids = np.repeat(np.setdiff1d(np.arange(10), [7]), 16).astype(np.int32)[np.array(store.block_ids(block))]
        top1 = np.where(class_ids == 3, 4, class_ids).astype(np.float32)
        top1[(class_ids == 5) & (np.arange(len(class_ids)) % 2 == 0)] = 6
        arrays["labels"]["teacher"][1][:, 0] = top1
        store.write_block(block, **{**arrays, "class_ids": class_ids})
    return store


def test_a_selection_says_which_classes_it_drops_to_everybody_who_uses_it(tmp_path):
    store = rare(tmp_path / "s.zarr")
    told = "--select 'agree' keeps 120 of 144 images: of 1 of 9 classes none is left (3); the others have 8 to 16 each."
    assert usable_images(store, ["teacher"], select="agree").notice == told
    heard: dict[str, list[str]] = {"train": [], "compare": [], "export": []}
    options = {
        "student": "test_resnet",
        "updates": 1,
        "batch_size": 16,
        "lr": 0.01,
        "labels": "teacher",
        "select": "agree",
    }
    train(resolve_training(store, options)[1], store, tmp_path / "out", device="cpu", notice=heard["train"].append)
    axes = Axes((store.path,), labels=("teacher",), students=("test_resnet",), seeds=(0, 1))
    plan_runs(
        axes, {key: options[key] for key in ("select", "lr", "batch_size", "updates")}, notice=heard["compare"].append
    )

    class Told(Silent):
        def notice(self, text):
            heard["export"].append(text)

    export_store(store, str(tmp_path / "png"), ExportOptions("imagefolder", select="agree"), Told())
    assert heard["export"].pop(0) == told
    assert (heard["train"], heard["compare"]) == ([told], [f"{store.path}: {told}"])


def test_a_selection_that_drops_no_class_says_how_even_it_leaves_them(tmp_path):
    usable = usable_images(rare(tmp_path / "s.zarr"), ["teacher"], select="agree or class_id == 3")
    assert usable.notice == "--select 'agree or class_id == 3' keeps 136 of 144 images, 8 to 16 of each of 9 classes."
    assert usable_images(open_store(str(tmp_path / "s.zarr")), ["teacher"]).notice is None
