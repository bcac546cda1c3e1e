"""What the loader does beside a GPU, shown without one: where batches are, and what waits for what."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from absent_gpu import absent_gpu
from conftest import filled_store

from dmkd.loading import Loader
from dmkd.loading.sources import DeviceRows, reader_of


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return filled_store(tmp_path_factory.mktemp("to_gpu") / "s.zarr", num_views=3)


def devices(batch):
    logits, pixels = batch.logits(4.0), batch.pixels()
    found = {tensor.device.type for tensor in (*batch.tensors().values(), logits, pixels, batch.own_share())}
    assert logits.shape == (len(batch), 10) and pixels.shape == (len(batch), 3, 8, 8)
    return found


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_batch_of_any_ids_is_on_the_gpu_as_those_of_an_epoch_are(store, kind):
    with absent_gpu([], kind):
        loader = Loader(store, labels={"teacher": 1.0}, batch_size=32, device="cuda", resident=None, depth=0)
        assert devices(next(loader.epoch(0))) == {"cuda"}
        assert devices(loader.at(np.array([40, 3, 99]))) == {"cuda"}


def test_the_threads_that_read_ahead_wait_for_no_copy(store):
    waits = []
    with absent_gpu(waits):
        loader = Loader(store, labels={"teacher": 1.0}, batch_size=32, device="cuda", resident=None, depth=0)
        batches = loader.epoch(0)
        waits.clear()
        for _ in range(3):
            next(batches).pixels()
        assert waits == []
        batches.close()
        assert len(waits) == 1, "at the end, before their host memory goes"


def test_rows_kept_on_the_gpu_are_there_before_any_is_picked(store):
    """They are picked on another stream than the one that they were copied on."""
    column = next(column for column in Loader(store, view_set="views", batch_size=8).columns if column.part == "images")
    done, waits = [], []

    def one_by_one(load, blocks):
        for block in blocks:
            load(block)
            done.append(list(waits))
            yield

    with absent_gpu(waits):
        rows = DeviceRows(
            store, column, reader_of(store, column, None), np.arange(7), "cuda", SimpleNamespace(map=one_by_one)
        )
        assert done == [[]] * 7, "copies of blocks do not wait for one another"
        assert waits == ["All that was queued is waited for."]
        picked = rows.pick(np.array([5, 80, 6]), None)
        assert len(waits) == 1 and (picked.device.type, picked.dtype) == ("cuda", torch.uint8)
        assert picked.shape == (3, 8, 8, 3)
