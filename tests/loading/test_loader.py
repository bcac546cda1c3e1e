import gc
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import block_arrays, filled_store, new_store

import dmkd
from dmkd.loading import Loader
from dmkd.loading.buffers import BufferPool
from dmkd.loading.sources import BlockWindow, DeviceRows, reader_of
from dmkd.stores import DamagedChunkError, MissingBlockError, UsageError, layout
from dmkd.stores.mapped import MappedArray


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


# Where images come from makes no difference


def compressed_store(path, **options):
    """The same contents as ``filled_store``'s, in Zstd chunks: nothing of it can be mapped."""
    plain = layout.ArraySpec.__init__

    def zstd(self, *arguments, **named):
        plain(self, *arguments, **{**named, "compression": "zstd"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout.ArraySpec, "__init__", zstd)
        return filled_store(path, **options)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    return compressed_store(tmp_path_factory.mktemp("loader") / "compressed.zarr", num_views=3)


def contents(batches):
    return [
        (
            b.ids.tolist(),
            b.images.tolist(),
            b.class_ids.tolist(),
            b.views.tolist(),
            b.labels["teacher"]["logits"].tolist(),
        )
        for b in batches
    ]


WAYS = {
    "held": {},
    "mapped": {"memory": 0},
    "resident": {"memory": 0, "resident": "ram"},
    "no thread": {"depth": 0, "threads": 1},
    "many threads": {"memory": 0, "depth": 5, "threads": 7},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_reading_gives_the_stores_values_in_the_same_order(store, way):
    found = loader(store, **WAYS[way])
    assert found.order_description == loader(store).order_description and found.window is None
    encoded, views = store.labels["teacher"].encoded(slice(None))["logits"], store.views["views"][:]
    images, class_ids, expected = store.images[:], store.class_ids[:], []
    for ids, _ in found.batches_of(3):
        which = found.views_of_epoch(ids, 3)
        rows = (ids, images[ids], class_ids[ids], views[ids, which], encoded[ids, which])
        expected.append(tuple(part.tolist() for part in rows))
    assert contents(found.epoch(3)) == expected


def test_the_places_are_what_the_options_say(store, compressed):
    assert set(loader(store).places.values()) == {"memory"}
    others = {"images", "class_ids", "teacher/logits"}
    for source, place in ((store, "mapped"), (compressed, "window")):
        assert loader(source, memory=0).places == {"views": "memory"} | dict.fromkeys(others, place)
    assert set(loader(compressed, memory=0, resident="ram").places.values()) == {"memory"}
    assert loader(compressed).window is None and loader(compressed, memory=0).window == 2
    with pytest.raises(UsageError, match="resident is one of auto, ram, gpu or None"):
        loader(store, resident="disk")
    with pytest.raises(UsageError, match="resident='gpu' needs a GPU, and the device is cpu"):
        loader(store, resident="gpu")


def test_compressed_blocks_come_through_a_window_and_hold_the_same(store, compressed):
    by_id = {}
    for batch in loader(store).epoch(0):
        by_id |= {rows[0]: rows for rows in zip(*contents([batch])[0], strict=True)}
    found = [
        rows for batch in loader(compressed, memory=0).epoch(0) for rows in zip(*contents([batch])[0], strict=True)
    ]
    assert sorted(rows[0] for rows in found) == list(range(100))
    assert all(by_id[rows[0]] == rows for rows in found)


def test_an_epoch_through_a_window_can_be_entered_half_way_and_reads_nothing_else(compressed):
    whole = contents(loader(compressed, memory=0).epoch(2))
    half = loader(compressed, memory=0)
    read = []
    half._gatherer.readers["images"] = lambda block, reader=half._gatherer.readers["images"]: (
        read.append(block) or reader(block)
    )
    assert contents(half.epoch(2, first_batch=2)) == whole[2:]
    assert sorted(read) == sorted({i // 16 for ids, *_ in whole[2:] for i in ids})


def test_a_window_holds_as_many_blocks_as_memory_allows_and_reads_each_once(tmp_path):
    many = compressed_store(tmp_path / "s.zarr", num_images=640, num_views=2)
    block_bytes = 16 * sum(c.row_bytes for c in loader(many).columns)
    small = loader(many, memory=4 * 3 * block_bytes, batch_size=8)
    held = {"memory": 0, "window": 0} | dict.fromkeys(small.places.values(), 0)
    for column in small.columns:
        held[small.places[column.name]] += column.row_bytes * 640
    assert held["memory"] <= 6 * block_bytes and 3 <= small.window < 10
    read, most = [], 0
    small._gatherer.readers["images"] = lambda block, reader=small._gatherer.readers["images"]: (
        read.append(block) or reader(block)
    )
    windows = []
    original = BlockWindow._submit

    def submit(self):
        original(self)
        windows.append(len(self._held))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockWindow, "_submit", submit)
        for batch in small.epoch(0):
            most = max(most, len(np.unique(batch.ids // 16)))
    assert sorted(read) == list(range(40)), "each block is read once an epoch"
    assert max(windows) <= 2 * small.window and most <= 2 * small.window


def test_small_blocks_are_read_in_stretches_if_the_window_has_room_for_many(tmp_path):
    small = filled_store(tmp_path / "s.zarr", num_images=300, block_size=1, image_codec="webp")
    wide, narrow = (loader(small, memory=4 * 192 * blocks) for blocks in (130, 60))
    assert (wide.window, wide.order_of.stretch) == (130, 4) and (narrow.window, narrow.order_of.stretch) == (60, 1)
    assert wide.order_description["order"] == "32 lanes of 4 neighbouring blocks"
    large = filled_store(tmp_path / "l.zarr", num_images=4, block_size=1, image_shape=(512, 512, 3), image_codec="webp")
    assert loader(large, memory=0).order_of.stretch == 1


def test_a_batch_larger_than_the_window_is_no_deadlock(compressed):
    assert [len(b.ids) for b in loader(compressed, memory=0, batch_size=100).epoch(0)] == [100]


def test_rows_on_the_device_are_the_stores_rows(store):
    ids, which = np.array([7, 99, 0, 7]), np.array([2, 0, 1, 0])
    for column in loader(store).columns:
        with ThreadPoolExecutor(2) as executor:
            rows = DeviceRows(store, column, reader_of(store, column, None), np.arange(7), "cpu", executor)
        blocks = np.concatenate([column.read(block) for block in range(7)])
        expected = blocks[ids, which] if column.by_view else blocks[ids]
        np.testing.assert_array_equal(rows.pick(ids, which if column.by_view else None).numpy(), expected)


def test_ranks_read_their_shares(store):
    shares = [loader(store, rank=rank, world_size=3, batch_size=10) for rank in range(3)]
    ids = [np.concatenate([batch.ids for batch in share.epoch(1)]) for share in shares]
    assert sorted(np.concatenate(ids).tolist()) == list(range(100)) and {len(i) for i in ids} <= {32, 33, 34, 35, 36}
    assert {len(share) for share in shares} == {4}


@pytest.mark.parametrize("memory", [0, 10**9])
def test_ranks_share_the_batches_of_a_single_one_and_say_so(compressed, memory):
    alone = loader(compressed, batch_size=30, memory=memory)
    shares = [loader(compressed, rank=rank, world_size=3, batch_size=10, memory=memory) for rank in range(3)]
    assert all(share.order_description == alone.order_description for share in shares)
    for whole, *parts in zip(*(each.epoch(1, first_batch=1) for each in (alone, *shares)), strict=True):
        assert whole.ids.tolist() == sorted(np.concatenate([part.ids for part in parts]).tolist())


# Iterating


def test_each_iteration_is_the_next_epoch(store):
    running = loader(store)
    passes = [[b.ids.tolist() for b in running] for _ in range(2)]
    assert passes == [[b.ids.tolist() for b in loader(store).epoch(e)] for e in (0, 1)]
    running.set_epoch(0)
    assert [b.ids.tolist() for b in running] == passes[0]


@pytest.fixture(autouse=True)
def others_threads():
    """Threads that ran before a test: those of a loader that some other test's traceback keeps alive, say."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


OTHERS: set[threading.Thread] = set()


def loader_threads():
    running = set(threading.enumerate()) - OTHERS
    return [t.name for t in running if t.name.startswith(("dmkd-loader", "ThreadPoolExecutor"))]


@pytest.mark.parametrize("memory", [0, 10**9])
def test_leaving_an_epoch_early_ends_its_threads(store, compressed, memory):
    for source in (store, compressed):
        for batch in loader(source, batch_size=4, memory=memory):
            assert len(batch) == 4 and loader_threads()
            break
        gc.collect()
        assert not loader_threads()
        with pytest.raises(RuntimeError, match="diverged"):
            fail_in_training(loader(source, batch_size=4, memory=memory))
        gc.collect()
        assert not loader_threads()


def fail_in_training(batches):
    for _ in batches:
        raise RuntimeError("the loss diverged")


def test_what_fails_in_a_thread_is_raised_where_the_batches_are_read(compressed):
    failing = loader(compressed, memory=0, batch_size=4)

    def broken(block):
        raise OSError("the disk is gone")

    failing._gatherer.readers["images"] = broken
    with pytest.raises(OSError, match="the disk is gone"):
        list(failing.epoch(0))
    assert not loader_threads()


def test_a_batch_that_is_kept_stays_as_it_is(store):
    for memory in (0, 10**9):
        kept = [
            (batch.ids, batch.images[3:], batch.labels["teacher"]["logits"][::2])
            for batch in loader(store, memory=memory)
        ]
        for ids, images, logits in kept:
            np.testing.assert_array_equal(images.numpy(), store.images[ids][3:])
            which = loader(store).views_of_epoch(ids, 0)
            stored = store.labels["teacher"].encoded(ids)["logits"][np.arange(len(ids)), which]
            np.testing.assert_array_equal(logits.numpy(), stored[::2])


def test_memory_is_used_again_once_a_batch_is_let_go(store):
    running = loader(store, batch_size=10, depth=1)
    for epoch in range(5):
        for _ in running.epoch(epoch):
            pass
    # images and logits are pooled, class ids and views as well: one batch in use, one waiting, one being made, one to spare
    assert running._gatherer.pool.made <= 4 * 4


def test_buffers_begin_at_a_page_border_and_come_back():
    pool = BufferPool()
    first = pool.take((3, 5), np.dtype(np.float16), largest=8)
    address = first.ctypes.data
    assert address % 4096 == 0 and first.shape == (3, 5)
    tensor = torch.from_numpy(first)[1:]
    del first
    assert pool.take((8, 5), np.dtype(np.float16), largest=8).ctypes.data != address, "a tensor still refers to it"
    del tensor
    assert (
        address in [pool.take((8, 5), np.dtype(np.float16), largest=8).ctypes.data for _ in range(1)] or pool.made <= 2
    )


# Damage


def test_damage_is_found_when_a_block_is_first_touched(tmp_path):
    for memory, node in (
        (0, "images"),
        (10**9, "images"),
        (0, "labels/teacher/logits"),
        (0, "views/views"),
        (0, "class_ids"),
    ):
        store = filled_store(tmp_path / f"{memory}-{node.replace('/', '-')}.zarr")
        chunk = next(Path(store.path).joinpath(node).glob("c.3*"))
        content = bytearray(chunk.read_bytes())
        content[5] ^= 1
        chunk.write_bytes(content)
        with pytest.raises(DamagedChunkError, match=rf"{re.escape(chunk.name)}.*verify --repair"):
            list(loader(store, memory=memory).epoch(0))
        assert not loader_threads()


@pytest.mark.parametrize("node", ["images", "class_ids", "checks", "views/views", "labels/teacher/logits"])
@pytest.mark.parametrize("memory", [0, 10**9])
def test_a_chunk_that_was_moved_is_found(tmp_path, node, memory):
    store = filled_store(tmp_path / "s.zarr")
    (one,), (other,) = (list(Path(store.path).joinpath(node).glob(f"c.{block}*")) for block in (2, 4))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(DamagedChunkError, match=r"c\.[24]"):
        list(loader(store, memory=memory).epoch(0))


def test_a_chunk_that_is_cut_short_is_damaged(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    chunk = Path(store.path) / "images" / "c.3.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(DamagedChunkError, match="it has 100 bytes, not 3,076"):
        list(loader(store, memory=0).epoch(0))


def test_a_chunk_that_vanishes_is_missing(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    running = loader(store, memory=0)
    (Path(store.path) / "images" / "c.3.0.0.0").unlink()
    with pytest.raises(MissingBlockError, match="Block 3 of images"):
        list(running.epoch(0))


def test_few_maps_are_enough(store):
    array = MappedArray(store.chunks, "images", max_maps=2)
    ids = np.random.default_rng(0).permutation(100)
    rows = np.empty((100, 8, 8, 3), np.uint8)
    array.take(ids, rows)
    np.testing.assert_array_equal(rows, store.images[ids])
    assert len(array._blocks) <= 2


@pytest.mark.parametrize(("batch_size", "limit", "expected"), [(10, 2**20, [100]), (64, 1, [50, 50])])
def test_small_batches_are_gathered_together_and_large_ones_are_not(store, monkeypatch, batch_size, limit, expected):
    alone = contents(loader(store, batch_size=batch_size, depth=0).epoch(2))
    running, gathered = loader(store, batch_size=batch_size), []
    whole = running._gather
    monkeypatch.setattr(sys.modules[Loader.__module__], "TOGETHER_BYTES", limit)
    monkeypatch.setattr(running, "_gather", lambda ids, *rest: gathered.append(len(ids)) or whole(ids, *rest))
    assert contents(running.epoch(2)) == alone
    assert gathered == expected


# The way in


def test_a_path_and_a_name_are_enough(store):
    running = dmkd.loader(store.path, labels="teacher", batch_size=64, device="cpu")
    batch = next(iter(running))
    assert batch.pixels().shape == (len(batch), 3, 8, 8) and batch.pixels(size=4).shape[-1] == 4
    np.testing.assert_allclose(
        batch.logits(),
        store.labels["teacher"].logits(batch.ids)[np.arange(len(batch)), running.views_of_epoch(batch.ids, 0)],
    )
    assert dmkd.loader(store, device="cpu").label_sets.keys() == {"teacher"}, "the only label set is the default"
    bare = dmkd.loader(Path(store.path), labels="", device="cpu")
    assert bare.view_set.name == "views"
    with pytest.raises(UsageError, match="without labels"):
        next(iter(bare)).logits()
    with pytest.raises(UsageError, match="no label set 'nobody'; it has teacher"):
        dmkd.loader(store, labels="nobody", device="cpu")
    with pytest.raises(UsageError, match="no view set 'x'"):
        dmkd.loader(store, labels="", view_set="x", device="cpu")
    with pytest.raises(UsageError, match="at least one image"):
        dmkd.loader(store, batch_size=0, device="cpu")
    with pytest.raises(UsageError, match="there is no 2"):
        dmkd.loader(store, rank=2, world_size=2, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("resident", [None, "auto", "gpu"])
def test_on_a_gpu_batches_hold_the_same(store, resident):
    for _ in range(3):
        expected = contents(loader(store).epoch(1))
        assert contents(loader(store, device="cuda", resident=resident, memory=0).epoch(1)) == expected


def test_a_store_in_a_bucket_comes_through_the_window(store, s3_bucket):
    remote = filled_store(f"{s3_bucket}/loader.zarr", num_views=3)
    found = loader(remote, memory=0)
    assert found.places["images"] == found.places["teacher/logits"] == "window" and found.window == 2
    for batch in found.epoch(0):
        np.testing.assert_array_equal(batch.images.numpy(), store.images[batch.ids])
