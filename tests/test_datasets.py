"""The store under PyTorch's own DataLoader."""

import pickle

import numpy as np
import pytest
import torch
from conftest import filled_store
from torch.utils.data import DataLoader

import dmkd
from dmkd.datasets import StoreDataset, StoreIterableDataset, pixels_and_class
from dmkd.stores import UsageError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("datasets") / "s.zarr", num_views=3)


def test_a_sample_is_what_the_loader_gives(store):
    dataset = StoreDataset(store, "teacher")
    dataset.set_epoch(1)
    assert len(dataset) == 100
    for batch in dmkd.loader(store, "teacher", batch_size=32, device="cpu").epoch(1):
        pixels, logits = batch.pixels(), batch.logits()
        for row, image_id in enumerate(batch.ids.tolist()):
            sample = dataset[image_id]
            assert sample["id"] == image_id and sample["class_id"] == batch.class_ids[row]
            assert torch.equal(sample["pixels"], pixels[row]) and torch.equal(sample["logits"], logits[row])


def test_pixels_are_normalised_if_asked_for(store):
    plain, floats = (StoreDataset(store, "", mean=mean, std=mean) for mean in (None, (0.5, 0.25, 0.125)))
    sample = floats[7]
    assert plain[7]["pixels"].dtype == torch.uint8 and "logits" not in sample
    expected = plain[7]["pixels"] / 255 / torch.tensor([0.5, 0.25, 0.125])[:, None, None] - 1
    torch.testing.assert_close(sample["pixels"], expected)


def test_only_selected_images_are_counted(store):
    entropy = store.labels["teacher"].quality[:][:, 2]
    limit = float(np.median(entropy))
    dataset = StoreDataset(store, "teacher", select=f"entropy < {limit}")
    assert [int(dataset[i]["id"]) for i in range(len(dataset))] == np.flatnonzero(entropy < limit).tolist()
    with pytest.raises(UsageError, match="no label set 'nobody'"):
        StoreDataset(store.path, "nobody")


@pytest.mark.parametrize(
    ("workers", "context"), [(0, None), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)]
)
def test_data_loader_gives_each_image_once(store, workers, context):
    dataset = StoreDataset(store, "teacher", transform=pixels_and_class)
    batches = list(
        DataLoader(dataset, batch_size=30, shuffle=True, num_workers=workers, multiprocessing_context=context)
    )
    assert [tuple(pixels.shape) for pixels, _ in batches] == [(30, 3, 8, 8)] * 3 + [(10, 3, 8, 8)]
    found = sorted(torch.cat([class_ids for _, class_ids in batches]).tolist())
    assert found == sorted(store.class_ids[:].tolist())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_ready_batches_are_the_loaders_whatever_the_workers(store, workers):
    dataset = StoreIterableDataset(store, "teacher", batch_size=16, rank=1, world_size=2)
    dataset.set_epoch(4)
    batches = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    expected = dmkd.loader(store, "teacher", batch_size=16, rank=1, world_size=2, device="cpu")
    assert len(dataset) == len(batches) == len(expected) == 4
    for found, batch in zip(batches, expected.epoch(4), strict=True):
        assert found["id"].tolist() == batch.ids.tolist()
        assert torch.equal(found["pixels"], batch.pixels()) and torch.equal(found["logits"], batch.logits())


def test_a_dataset_can_be_pickled_and_keeps_its_epoch(store):
    dataset = StoreDataset(store, "teacher")
    dataset.set_epoch(2)
    again = pickle.loads(pickle.dumps(dataset))
    assert again._loader is None and torch.equal(again[5]["logits"], dataset[5]["logits"])
