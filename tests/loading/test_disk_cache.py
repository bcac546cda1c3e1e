"""The cache on a local disk: the same batches, fewer reads, and nothing read as good that is not what the store holds."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import block_arrays, filled_store, new_store

from dmkd.loading import Loader
from dmkd.loading.cache_folder import IN_USE, CacheFolder
from dmkd.loading.mixture import Mixture
from dmkd.stores import DamagedChunkError, StoreError, UsageError, open_store
from dmkd.stores.pack_copy import pack_copy
from dmkd.stores.rows import Rows
from dmkd.stores.trees.zarr_tree import ZarrTree
from dmkd.training.execution import Execution


@pytest.fixture
def store(s3_bucket, tmp_path):
    """7 blocks of 16 images, in a bucket."""
    return pack_copy(filled_store(tmp_path / "made.zarr", num_images=100), f"{s3_bucket}/{tmp_path.name}/s.zarr")


@pytest.fixture
def reads(monkeypatch):
    """What is read of the store, block by block: (array, block)."""
    found = []
    read = ZarrTree.read_block
    monkeypatch.setattr(ZarrTree, "read_block", lambda self, *what: found.append(what) or read(self, *what))
    return found


def make(store, folder, notices=None, **options):
    options = {"labels": {"teacher": 1.0}, "batch_size": 10, "memory": 20_000, "resident": None, "threads": 2} | options
    return Loader(store, cache=folder, notice=pytest.fail if notices is None else notices.append, **options)


def batches(loader, epoch):
    return [
        (batch.ids, batch.images.clone(), batch.class_ids.clone(), batch.views, batch.logits(1).clone())
        for batch in loader.epoch(epoch)
    ]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for part, wanted in zip(one, other, strict=True):
            np.testing.assert_array_equal(np.asarray(part), np.asarray(wanted))


def files(folder):
    """Files of blocks in a cache."""
    return [file for file in Path(folder).rglob("*") if file.is_file() and file.name.isdecimal()]


def test_batches_are_those_without_a_cache_and_later_ones_read_nothing(store, tmp_path, reads):
    expected = [batches(make(store, None), epoch) for epoch in range(3)]
    loader = make(store, tmp_path / "cache")
    assert loader.places["images"] == "window"
    reads.clear()
    assert_same(batches(loader, 0), expected[0])
    assert {block for node, block in reads if node == "images"} == set(range(7))
    reads.clear()
    for epoch in (1, 2):
        assert_same(batches(loader, epoch), expected[epoch])
    assert reads == []
    again = make(open_store(store.path), tmp_path / "cache")
    reads.clear()
    for epoch in range(3):
        assert_same(batches(again, epoch), expected[epoch])
    assert reads == [], "a second run finds what the first one kept"


def test_from_the_second_epoch_on_the_store_is_asked_once_an_epoch(store, tmp_path, monkeypatch):
    asked = []
    attributes = ZarrTree.attributes
    monkeypatch.setattr(ZarrTree, "attributes", lambda self, node="": asked.append(node) or attributes(self, node))
    loader = make(store, tmp_path / "cache")
    batches(loader, 0)
    for name in ("names", "sizes", "read_bytes"):
        monkeypatch.setattr(f"dmkd.stores.trees.bucket.Bucket.{name}", lambda *_: pytest.fail("a request"))
    asked.clear()
    for epoch in (1, 2, 3):
        batches(loader, epoch)
    assert asked == [""] * 3


def test_compressed_stores_on_a_disk_are_kept_decoded(tmp_path, reads):
    store = filled_store(tmp_path / "s.zarr", num_images=100, image_codec="webp")
    loader = make(store, tmp_path / "cache")
    expected = batches(make(store, None), 1)
    batches(loader, 0)
    reads.clear()
    assert_same(batches(loader, 1), expected)
    assert not [node for node, _ in reads if node == "images"]
    plain = filled_store(tmp_path / "plain.zarr", num_images=100)
    assert make(plain, tmp_path / "unused").cache is None and not (tmp_path / "unused").exists()


@pytest.mark.parametrize("damage", ["a bit", "cut off", "empty", "of another block", "gone"])
def test_a_damaged_file_is_read_from_the_store_again(store, tmp_path, damage):
    expected = batches(make(store, None), 0)
    batches(make(store, tmp_path / "cache"), 0)
    for folder in (tmp_path / "cache").glob("*/*/0"):
        file, other = folder / "2", folder / "3"
        content = file.read_bytes()
        if damage == "gone":
            file.unlink()
            continue
        file.write_bytes(
            {
                "a bit": bytes([content[0] ^ 1]) + content[1:],
                "cut off": content[:-5],
                "empty": b"",
                "of another block": other.read_bytes(),
            }[damage]
        )
    assert_same(batches(make(open_store(store.path), tmp_path / "cache"), 0), expected)
    assert_same(batches(make(open_store(store.path), tmp_path / "cache"), 0), expected)


@pytest.mark.parametrize("running", [True, False])
def test_a_store_that_changes_is_read_again_where_it_changed_and_only_there(store, tmp_path, reads, running):
    loader = make(store, tmp_path / "cache")
    before = batches(loader, 0)
    writer = open_store(store.path)
    writer.write_block(2, **block_arrays(writer, 2, seed=99))
    writer.touch()
    expected = batches(make(open_store(store.path), None), 0)
    assert any(not np.array_equal(np.asarray(a[1]), np.asarray(b[1])) for a, b in zip(before, expected, strict=True))
    if not running:
        loader = make(open_store(store.path), tmp_path / "cache")
    reads.clear()
    assert_same(batches(loader, 0), expected)
    assert {block for node, block in reads if node == "images"} == {2}
    assert {block for node, block in reads if node == "labels/teacher/logits"} == {2}
    reads.clear()
    assert_same(batches(loader, 0), expected)
    assert_same(batches(make(open_store(store.path), tmp_path / "cache"), 0), expected)
    assert not [node for node, _ in reads if node == "images"], "what has been proved once is relied on"


def test_a_store_replaced_by_another_is_refused(s3_bucket, tmp_path, store):
    loader = make(store, tmp_path / "cache")
    batches(loader, 0)
    store.chunks.tree.set_attributes({"identity": "0" * 64})
    with pytest.raises(StoreError, match="is another store than it was when this run began"):
        batches(loader, 1)


def test_damage_in_the_store_is_never_kept(store, tmp_path, monkeypatch):
    read = Rows.block

    def damaged(self, block):
        rows = read(self, block)
        if self._node == "images" and block == 4:
            raise DamagedChunkError("block 4 is damaged")
        return rows

    monkeypatch.setattr(Rows, "block", damaged)
    with pytest.raises(DamagedChunkError):
        batches(make(store, tmp_path / "cache"), 0)
    assert not [file for file in files(tmp_path / "cache") if file.name == "4" and "images" in str(file)]


def test_what_does_not_fit_is_streamed_and_said(store, tmp_path):
    expected = [batches(make(store, None), epoch) for epoch in range(2)]
    notices: list[str] = []
    block_bytes = sum(16 * column.row_bytes + 4 for column in make(store, None).columns)
    loader = make(store, tmp_path / "cache", notices, cache_bytes=3 * block_bytes + 10)
    for epoch in range(2):
        assert_same(batches(loader, epoch), expected[epoch])
    assert len(notices) == 1 and "has room for 3 of 7 blocks" in notices[0]
    assert len({file.name for file in files(tmp_path / "cache")}) == 3
    assert sum(file.stat().st_size for file in files(tmp_path / "cache")) <= 3 * block_bytes


def test_a_full_disk_is_said_once_and_the_run_goes_on(store, tmp_path, monkeypatch):
    expected = [batches(make(store, None), epoch) for epoch in range(2)]
    replace, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) > 8:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("dmkd.loading.disk_cache.os.replace", full)
    notices: list[str] = []
    loader = make(store, tmp_path / "cache", notices)
    for epoch in range(2):
        assert_same(batches(loader, epoch), expected[epoch])
    assert len(notices) == 1 and "No space left on device" in notices[0] and "goes on without it" in notices[0]
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_stores_that_nobody_uses_make_room_the_oldest_first(tmp_path):
    def fill(name, size):
        folder = CacheFolder(tmp_path, name, size, 1000)
        (folder.path / "1").write_bytes(bytes(size - 20))
        os.utime(folder.path / IN_USE, (len(name), len(name)))
        return folder

    fill("old", 400).close()
    fill("older", 300).close()  # used later: the longer the name the later
    used = fill("in use now", 250)
    new = CacheFolder(tmp_path, "new", 400, 1000)
    assert new.budget == 400
    assert sorted(folder.name for folder in tmp_path.iterdir() if folder.is_dir()) == ["in use now", "new", "older"]
    large = CacheFolder(tmp_path, "large", 10_000, 1000)
    assert large.budget == 1000 - 250 - 400, "what is in use, and what it may take, stays"
    assert not (tmp_path / "older").exists() and (used.path / "1").exists()
    used.close()
    assert CacheFolder(tmp_path, "large", 10_000, 1000).budget == 600


def _read_some(path, folder, start, results):
    loader = make(open_store(path), folder, [])
    start.wait()
    results.put([[np.asarray(part) for part in batch] for epoch in range(2) for batch in batches(loader, epoch)])


def test_two_processes_on_one_cache_do_each_other_no_harm(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=100, image_codec="webp")
    expected = [batch for epoch in range(2) for batch in batches(make(store, None), epoch)]
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    processes = [
        context.Process(target=_read_some, args=(store.path, tmp_path / "cache", start, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    start.set()
    for _ in processes:
        assert_same(results.get(timeout=120), expected)
    for process in processes:
        process.join()
    kept = files(tmp_path / "cache")
    assert len([file for file in kept if "images" in str(file)]) == 7 and not list(
        (tmp_path / "cache").rglob("*.partial")
    )


def test_ranks_and_several_stores_share_a_cache(store, tmp_path, reads):
    from dmkd.loading.ingredient import Ingredient

    other = filled_store(tmp_path / "other.zarr", num_images=60, image_codec="webp")
    both = [Ingredient(store, "teacher"), Ingredient(other, "teacher")]
    options = {"batch_size": 5, "resident": None, "memory": 40_000, "threads": 2}
    expected = [b.ids for e in range(2) for r in range(2) for b in _parts(both, options, r, None).epoch(e)]
    loaders = [_parts(both, options, rank, tmp_path / "cache") for rank in range(2)]
    found = [batch.ids for epoch in range(2) for loader in loaders for batch in loader.epoch(epoch)]
    assert_same([(ids,) for ids in found], [(ids,) for ids in expected])
    reads.clear()
    assert [batch.ids for loader in loaders for batch in loader.epoch(0)]
    assert reads == []


class _Ids:
    def __init__(self, batch):
        self.ids = np.concatenate([part.ids for part in batch.parts])


class _Mixed:
    def __init__(self, mixture):
        self.mixture = mixture

    def epoch(self, number):
        return [_Ids(batch) for batch in self.mixture.epoch(number)]


def _parts(both, options, rank, cache):
    return _Mixed(Mixture(both, **options, rank=rank, world_size=2, cache=cache))


def test_a_size_without_a_cache_or_a_cache_without_a_place_is_refused(tmp_path, s3_bucket):
    for options in ({"cache_gb": 1.0}, {"cache": "c", "cache_gb": 0.0}):
        with pytest.raises(UsageError, match="--cache-gb"):
            Execution(**options)
    (tmp_path / "file").write_text("")
    store = filled_store(tmp_path / "s.zarr", num_images=32, image_codec="webp")
    with pytest.raises(StoreError, match="Could not write"):
        make(store, tmp_path / "file" / "cache")


def test_unfinished_blocks_are_left_out_as_without_a_cache(s3_bucket, tmp_path):
    made = new_store(f"{s3_bucket}/{tmp_path.name}/part.zarr", num_images=100)
    for block in (0, 2, 5):
        made.write_block(block, **block_arrays(made, block))
    loader = make(made, tmp_path / "cache")
    assert sorted(np.concatenate([batch[0] for batch in batches(loader, 0)]) // 16) == [0] * 16 + [2] * 16 + [5] * 16
