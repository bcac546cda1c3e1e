"""Views that no store holds are drawn as a batch is made: the same ones wherever and whenever that is."""

import numpy as np
import pytest
import torch
from conftest import block_arrays, new_store

import dmkd
from dmkd.datasets import StoreDataset, StoreIterableDataset
from dmkd.loading import Loader
from dmkd.stores import UsageError, create_store
from dmkd.views import parse_policy
from dmkd.views.description import ViewDescription


@pytest.fixture(scope="module", params=["s.zarr", "s.h5"])
def bare(request, tmp_path_factory):
    """50 images of 12 pixels in blocks of 16, and neither views nor labels."""
    store = create_store(
        str(tmp_path_factory.mktemp("bare") / request.param),
        recipe={"generator": "none", "seed": 3},
        num_images=50,
        image_shape=(12, 12, 3),
        class_names=[str(i) for i in range(10)],
        block_size=16,
    )
    for block in range(store.num_blocks):
        arrays = block_arrays(store, block)
        store.write_block(block, images=arrays["images"], class_ids=arrays["class_ids"])
    return store


def rows(batches):
    return {int(i): v.tolist() for batch in batches for i, v in zip(batch.ids, batch.views, strict=True)}


def test_a_store_of_images_alone_gives_each_image_once_and_a_new_crop_in_each_epoch(bare):
    loader = dmkd.loader(bare.path, batch_size=16, device="cpu")
    epochs = [rows(loader.epoch(epoch)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    different = sum(epochs[a][i] != epochs[b][i] for i in range(50) for a, b in ((0, 1), (1, 2), (0, 2)))
    assert different > 145 and loader.view_set.name == "rrc"
    batch = next(loader.epoch(0))
    assert batch.pixels().shape == (len(batch), 3, 12, 12) and batch.labels == {}
    with pytest.raises(UsageError, match="There are no logits"):
        batch.logits()


def test_drawn_views_depend_on_seed_image_and_epoch_alone(bare):
    def made(first_batch=0, **options):
        loader = dmkd.loader(bare, view_set="rrc,scale=0.3:1,flip=0.1", device="cpu", **{"batch_size": 7, **options})
        return rows(loader.epoch(5, first_batch))

    expected = made(seed=4)
    assert expected == made(seed=4, threads=3, depth=4) == made(seed=4, memory=0) == made(seed=4, batch_size=50)
    assert expected != made(seed=5)
    rest = made(seed=4, first_batch=3)
    assert 0 < len(rest) < 50 and rest.items() <= expected.items()
    shares = [made(seed=4, rank=rank, world_size=2) for rank in range(2)]
    assert shares[0] | shares[1] == expected


def test_whole_images_are_as_stored(bare):
    loader = dmkd.loader(bare, view_set="whole", batch_size=50, device="cpu")
    for epoch in (0, 1):
        batch = next(loader.epoch(epoch))
        assert torch.equal(batch.pixels(), batch.images.permute(0, 3, 1, 2))


@pytest.mark.parametrize("views", ["rrc+cutmix", "rrc+mixup,alpha=1"])
def test_drawn_views_may_mix_images_of_a_block(bare, views):
    loader = dmkd.loader(bare, view_set=views, batch_size=20, device="cpu")
    for batch in loader.epoch(1):
        assert (batch.partners.ids // 16 == batch.ids // 16).all() and batch.pixels().shape[1:] == (3, 12, 12)
        alone = batch.ids // 16 == 3  # the last block has two images
        assert (batch.partners.ids != batch.ids).all() and alone.sum() <= 2
        theirs = rows(loader.epoch(1))
        assert all(theirs[int(i)] == v.tolist() for i, v in zip(batch.partners.ids, batch.partners.views, strict=True))


@pytest.mark.parametrize("name", ["rrc8", "rrc:8", "center", "rrcx", "whole,flip=0"])
def test_names_that_are_no_views_are_refused(bare, name):
    with pytest.raises(UsageError, match="has no view set"):
        dmkd.loader(bare, view_set=name, device="cpu")


def test_pytorchs_own_loaders_take_a_store_of_images_alone(bare):
    samples, batches = StoreDataset(bare, seed=2), StoreIterableDataset(bare.path, batch_size=16, seed=2)
    for dataset in (samples, batches):
        dataset.set_epoch(3)
    found = {}
    for batch in batches:
        assert set(batch) == {"id", "pixels", "class_id"}
        found |= dict(zip(batch["id"].tolist(), batch["pixels"], strict=True))
    assert sorted(found) == list(range(50)) and all(torch.equal(samples[i]["pixels"], found[i]) for i in range(50))


@pytest.fixture(params=["rrc:3", "rrc:2+mixup"])
def partly(request, tmp_path):
    """A store whose blocks 1 and 2 have views, of the four that have images; and the description of these views."""
    store = new_store(tmp_path / "s.zarr", num_images=60)
    policy = parse_policy(request.param)
    canonical = (0.0, 0.0, 1.0, 1.0)
    description = ViewDescription(
        policy.name, policy, 7, False, 8, "bilinear", 1.0, "center", canonical, (8, 8), store.block_size
    )
    attributes = description.to_attributes()
    store.add_view_set(policy.name, description.num_views, description.components, attributes)
    for block in range(4):
        arrays = block_arrays(store, block)
        views = {policy.name: description.draw(np.array(store.block_ids(block)))} if block in (1, 2) else {}
        store.write_block(block, images=arrays["images"], class_ids=arrays["class_ids"], views=views)
    return store, description


def test_views_that_are_not_stored_yet_are_the_ones_that_will_be(partly):
    store, description = partly
    before = Loader(store, view_set=description.name, batch_size=16)
    drawn = [rows(before.epoch(epoch)) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(60)) for epoch in drawn)
    for block in (0, 3):
        store.write_block(block, views={description.name: description.draw(np.array(store.block_ids(block)))})
    after = Loader(store, view_set=description.name, batch_size=16)
    assert "views" in after.places and "views" not in before.places
    assert drawn == [rows(after.epoch(epoch)) for epoch in range(4)]
    assert [a.ids.tolist() for a in after.epoch(1)] == [b.ids.tolist() for b in before.epoch(1)]


def test_views_that_only_their_maker_can_draw_are_not_made_up(tmp_path):
    store = new_store(tmp_path / "s.zarr", num_images=48)
    for block in range(3):
        arrays = block_arrays(store, block)
        del arrays["labels"]
        store.write_block(block, **(arrays if block else {**arrays, "views": {}}))
    assert sorted(rows(Loader(store, view_set="views", batch_size=8).epoch(0))) == list(range(16, 48))
