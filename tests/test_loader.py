import numpy as np
import pytest
import torch
from conftest import block_arrays, filled_store, new_store

from dmkd.loading import Loader
from dmkd.stores import MissingBlockError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("loader") / "s.zarr", num_views=3)


def loader(store, **options):
    return Loader(store, labels={"teacher": 1.0}, **{"batch_size": 32, "seed": 0, **options})


def test_an_epoch_holds_every_image_once(store):
    for memory in (1, 10_000, 10**9):
        ids = np.concatenate([batch.ids for batch in loader(store, memory=memory).epoch(0)])
        assert sorted(ids.tolist()) == list(range(100))


def test_batches_differ_by_one_image_at_most_and_none_is_dropped(store):
    sizes = [len(batch.ids) for batch in loader(store).epoch(0)]
    assert sum(sizes) == 100 and len(sizes) == len(loader(store)) and max(sizes) - min(sizes) <= 1 and max(sizes) <= 32


def test_what_belongs_together_stays_together(store):
    for batch in loader(store).epoch(1):
        which = loader(store).views_of_epoch(batch.ids, 1)
        for row, image_id in enumerate(batch.ids):
            arrays = block_arrays(store, image_id // 16, num_views=3)
            position, view = image_id % 16, which[row]
            assert torch.equal(batch.images[row], torch.from_numpy(arrays["images"][position]))
            assert batch.class_ids[row] == arrays["class_ids"][position]
            np.testing.assert_array_equal(batch.views[row], arrays["views"]["views"][position, view])
            logits = arrays["labels"]["teacher"][0][position, view]
            np.testing.assert_allclose(batch.labels["teacher"]["logits"][row].numpy(), logits, rtol=2**-11)


def test_each_view_is_used_once_before_any_is_used_again(store):
    ids = np.arange(100)
    seen = np.stack([loader(store).views_of_epoch(ids, epoch) for epoch in range(3)])
    assert (np.sort(seen, axis=0) == np.arange(3)[:, None]).all()
    assert 15 < (seen[0] == 0).sum() < 55, "images start at different views"


def test_the_order_is_a_function_of_seed_and_epoch(store):
    assert (loader(store).order(0) == loader(store).order(0)).all()
    assert (loader(store).order(0) != loader(store).order(1)).any()
    assert (loader(store).order(0) != loader(store, seed=1).order(0)).any()


def test_an_epoch_can_be_entered_half_way(store):
    whole = [batch.ids for batch in loader(store).epoch(2)]
    rest = [batch.ids for batch in loader(store).epoch(2, first_batch=2)]
    assert all((a == b).all() for a, b in zip(whole[2:], rest, strict=True))


def test_memory_holds_no_more_than_two_windows_of_blocks(store, monkeypatch):
    held, most = [], 0
    small = loader(store, window_bytes=1)
    read = small._read_block
    monkeypatch.setattr(small, "_read_block", lambda block: held.append(block) or read(block))
    for batch in small.epoch(0):
        most = max(most, len(np.unique(batch.ids // 16)))
    assert sorted(held) == list(range(7)), "each block is read once an epoch"
    assert most <= 4


def test_blocks_that_are_not_done_are_left_out(tmp_path):
    store = new_store(tmp_path / "s.zarr")
    with pytest.raises(MissingBlockError, match="no finished block"):
        loader(store)
    store.write_block(2, **block_arrays(store, 2))
    without_labels = {k: v for k, v in block_arrays(store, 4).items() if k != "labels"}
    store.write_block(4, **without_labels)
    assert sorted(np.concatenate([batch.ids for batch in loader(store).epoch(0)])) == list(range(32, 48))
    hard = Loader(store, view_set="views", batch_size=8)
    assert hard.num_images == 32 and next(hard.epoch(0)).labels == {}
