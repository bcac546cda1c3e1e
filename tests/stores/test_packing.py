"""Packed stores: nothing is lost on the way there, and they are stores like any other. That every tree and every store keeps its
contract when it is packed is tested where the contracts are (``packed`` of ``PLACES``)."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from conftest import block_arrays, filled_store, new_store

from dmkd.cli.main import main
from dmkd.stores import DamagedChunkError, Store, UsageError, open_store
from dmkd.stores.convert import convert
from dmkd.stores.pack_copy import pack_copy
from dmkd.stores.packing import count_files, fold_packed, is_packed, pack
from dmkd.stores.trees import packed_remote, shards, zarr_tree
from dmkd.stores.trees.folder import Folder
from dmkd.stores.verifying.finding import ERROR
from dmkd.stores.verifying.repair import repair
from dmkd.stores.verifying.verifier import Verifier


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def small_shards(monkeypatch):
    """Three blocks a shard."""
    for module in ("dmkd.stores.packing", "dmkd.stores.trees.shards"):
        monkeypatch.setattr(f"{module}.choose_blocks_per_shard", lambda chunk_bytes, blocks: 3)


def contents(store):
    """Everything that a reader gets."""
    labels = store.labels["teacher"]
    found = [store.images[:], store.class_ids[:], store.checks[:], store.views["views"][:]]
    return [*found, labels.logits(slice(None)), labels.quality[:]]


def assert_same(store, expected):
    for found, wanted in zip(contents(open_store(store.path)), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def findings(store):
    verifier = Verifier(open_store(store.path))
    found = list(verifier.attributes())
    for block in range(verifier.num_blocks):
        found += verifier.block(block)
    return [*found, *verifier.summary()]


def test_a_packed_store_has_few_files_and_the_same_rows_for_every_reader(tmp_path, small_shards):
    store = filled_store(tmp_path / "s.zarr", num_images=100)  # 7 blocks of 16
    expected, loose = contents(store), count_files(store)
    pack(store)
    assert is_packed(store) and count_files(store) < 0.6 * loose
    assert not list(tmp_path.rglob("c.*.0.0.0"))
    assert_same(store, expected)
    assert findings(store) == []
    plain = zarr.open(str(store.path), mode="r")
    np.testing.assert_array_equal(plain["images"][:], expected[0])
    np.testing.assert_array_equal(plain["images"][40:70], expected[0][40:70])
    np.testing.assert_array_equal(plain["class_ids"][:], expected[1])
    pack(store)
    assert_same(store, expected)


def test_chunks_begin_where_mapped_memory_is_copied_fast(tmp_path):
    for size, wanted in ((8, shards.CACHE_LINE), (80, shards.PAGE)):
        store = filled_store(tmp_path / f"{size}.zarr", num_images=40, image_shape=(size, size, 3))
        pack(store)
        content = (Path(store.path) / "images" / "0.0.0.0").read_bytes()
        per_shard = store.chunks.tree.packed("images").shape.blocks_per_shard
        index = shards.parse_index(content[-shards.index_bytes(per_shard) :], per_shard, len(content))
        assert (index[shards.blocks_in(index), 0] % wanted == 0).all() and len(shards.blocks_in(index)) == 3


@pytest.mark.parametrize("copied", [False, True])
def test_a_step_that_fails_anywhere_loses_nothing_and_the_same_call_goes_on(
    tmp_path, small_shards, monkeypatch, copied
):
    """As a kill does at each step that changes files."""

    def steps():
        """Counts the steps and stops at one of them."""
        for name in ("new_file", "remove", "write_bytes"):
            original = getattr(Folder, name)

            def step(self, *arguments, original=original):
                if next(counter) == stop_at:
                    raise KeyboardInterrupt
                return original(self, *arguments)

            monkeypatch.setattr(Folder, name, step)

    source = filled_store(tmp_path / "whole.zarr", num_images=100)
    expected = contents(source)
    counter, stop_at = itertools.count(), -1
    steps()
    for stop_at in range(0, 200, 7):
        counter = itertools.count()
        target = tmp_path / f"{stop_at}.zarr"
        store = source if copied else convert(source, str(target))
        run = (lambda s=store, t=target: pack_copy(s, str(t))) if copied else (lambda s=store: pack(s))
        counter = itertools.count()
        try:
            run()
            break
        except KeyboardInterrupt:
            pass
        assert_same(store, expected)
        stopped, stop_at = stop_at, -1
        run()
        assert_same(Store(str(target)), expected)
        assert is_packed(Store(str(target)))
        assert stopped < 150
    assert stop_at > 20, "no step was stopped at"


def test_killed_at_any_moment_nothing_is_lost(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=1600)
    expected = contents(store)
    program = (
        "import sys; from dmkd.stores.trees import shards; import dmkd.stores.packing as p; from dmkd.stores import open_store\n"
        "p.choose_blocks_per_shard = lambda chunk_bytes, blocks: 8\n"
        "print('go', flush=True); p.pack(open_store(sys.argv[1]))"
    )
    rng, kills = random.Random(0), 0
    while not is_packed(Store(store.path)):
        process = subprocess.Popen([sys.executable, "-c", program, store.path], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1 + 0.02 * kills))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert_same(store, expected)
        assert kills < 100
    assert kills >= 3
    assert findings(store) == []


def test_what_is_added_to_a_packed_store_is_there_at_once_and_packed_at_the_next_pack(tmp_path, small_shards):
    store = new_store(tmp_path / "s.zarr", num_images=100)
    for block in range(4):
        store.write_block(block, **block_arrays(store, block))
    pack(store)
    assert not is_packed(new_store(tmp_path / "loose.zarr")) and is_packed(store)
    for block in range(4, 7):
        store.write_block(block, **block_arrays(store, block))
    expected = contents(filled_store(tmp_path / "whole.zarr", num_images=100))
    assert_same(store, expected)
    assert not is_packed(store)
    store.grow(120)
    for block in (6, 7):
        store.write_block(block, **block_arrays(store, block))
    expected = contents(filled_store(tmp_path / "larger.zarr", num_images=120))
    assert_same(store, expected)
    fold_packed(store)
    assert is_packed(store)
    assert_same(store, expected)
    np.testing.assert_array_equal(zarr.open(store.path, mode="r")["images"][:], expected[0])


def test_a_block_that_is_deleted_is_missing_until_it_is_made_again(tmp_path, small_shards):
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    expected = contents(store)
    pack(store)
    store.chunks.tree.delete_block("images", 3)
    for fold in (False, True):
        if fold:
            fold_packed(store)
        assert open_store(store.path).missing_blocks() == [3]
        assert open_store(store.path).chunks.tree.chunk_bytes("images").keys() == {0, 1, 2, 4, 5, 6}
    arrays = block_arrays(store, 3)
    store.write_block(3, images=arrays["images"], class_ids=arrays["class_ids"])
    assert_same(store, expected)
    fold_packed(store)
    assert_same(store, expected)


def damaged(content, kind):
    middle = len(content) // 3
    return {
        "a bit of a chunk": content[:10] + bytes([content[10] ^ 1]) + content[11:],
        "a bit of the index": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "cut off": content[:middle],
        "empty": b"",
        "zeros": bytes(len(content)),
        "cut out": content[:middle] + content[middle + 4 :],
    }[kind]


@pytest.mark.parametrize("array", ["images", "class_ids", "labels/teacher/logits", "views/views", "checks"])
@pytest.mark.parametrize(
    "kind", ["a bit of a chunk", "a bit of the index", "cut off", "empty", "zeros", "cut out", "swapped"]
)
def test_a_damaged_shard_is_found_never_read_as_good_and_made_again(tmp_path, small_shards, array, kind):
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    store.chunks.tree.set_attributes({"source": "a generator"})
    expected = contents(store)
    pack(store)
    first, second = (sorted((Path(store.path) / array).glob(f"{shard}*"))[0] for shard in (0, 1))
    content = first.read_bytes()
    if kind == "swapped":
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    else:
        first.write_bytes(damaged(content, kind))
    opened = open_store(store.path)
    with pytest.raises(DamagedChunkError):
        contents(opened)
    found = findings(store)
    assert any(finding.severity == ERROR for finding in found)
    repair(opened, found)
    again = open_store(store.path)
    for block in sorted({*again.missing_blocks(), *again.labels["teacher"].missing_blocks()}):
        again.write_block(block, **block_arrays(store, block))
    assert_same(store, expected)
    assert findings(store) == []
    fold_packed(open_store(store.path))
    assert_same(store, expected)


def test_damaged_blocks_are_not_packed_and_said(tmp_path, small_shards):
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    chunk = Path(store.path) / "images/c.4.0.0.0"
    good = chunk.read_bytes()
    chunk.write_bytes(good[:-1] + b"x")
    with pytest.raises(DamagedChunkError, match=r"1 damaged chunks .* were not packed.*c\.4\.0\.0\.0"):
        pack(store)
    assert chunk.exists(), "a bad chunk is not thrown away either"
    chunk.write_bytes(good)
    pack(store)
    assert is_packed(store)


def test_many_blocks_are_packed_while_they_are_made(tmp_path, monkeypatch):
    """So that no folder gets tens of thousands of files."""
    monkeypatch.setattr(zarr_tree, "MOST_LOOSE_BLOCKS", 3)
    monkeypatch.setattr(shards, "MOST_BLOCKS", 3)
    monkeypatch.setattr("dmkd.stores.packing.FOLD_EVERY", 1)
    monkeypatch.chdir(tmp_path)
    options = ["--generator", "digits", "--steps", "2", "--block-size", "16", "--workers", "0"]
    made = dmkd("generate", "--store", "s.zarr", "--images", "240", *options)
    assert made.exit_code == 0, made.output
    store = open_store("s.zarr")
    assert is_packed(store) and store.num_blocks == 15
    assert len(os.listdir("s.zarr/images")) == 1 + 5
    monkeypatch.setattr(zarr_tree, "MOST_LOOSE_BLOCKS", 10_000)
    assert dmkd("generate", "--store", "loose.zarr", "--images", "240", *options).exit_code == 0
    np.testing.assert_array_equal(store.images[:], open_store("loose.zarr").images[:])
    assert not is_packed(open_store("loose.zarr"))


def test_a_store_that_grows_to_many_blocks_is_packed_from_then_on(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_tree, "MOST_LOOSE_BLOCKS", 7)
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    assert not is_packed(store) and list(Path(store.path, "images").glob("c.*"))
    store.grow(120)
    for block in (6, 7):
        store.write_block(block, **block_arrays(store, block))
    fold_packed(store)
    assert is_packed(store)
    assert_same(store, contents(filled_store(tmp_path / "larger.zarr", num_images=120)))


def test_a_reader_that_was_there_before_reads_on(tmp_path, small_shards):
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    expected = contents(store)
    reader = open_store(store.path)
    reader.images[[0]]
    pack(store)
    np.testing.assert_array_equal(reader.images[:], expected[0])
    np.testing.assert_array_equal(reader.labels["teacher"].logits(slice(None)), expected[4])


def test_an_hdf5_file_and_a_store_at_work_are_refused(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.h5")
    with pytest.raises(UsageError, match="an HDF5 file: only a Zarr store has files to pack"):
        pack(store)
    result = dmkd("pack", store.path)
    assert result.exit_code == 2 and "Traceback" not in result.output
    working = filled_store(tmp_path / "s.zarr")
    with working.log_run(command="label", driver={"host": "elsewhere", "pid": 1}) as log:
        log.add_worker({})
        with pytest.raises(UsageError, match=r"being written by dmkd label .*: pack it when that has ended"):
            pack(open_store(working.path))
    pack(open_store(working.path))


def test_the_command_says_how_many_files_there_were(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    result = dmkd("pack", store.path, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["files_before"] > facts["files"] == count_files(open_store(store.path))
    files = [file for file in Path(store.path).rglob("*") if file.is_file()]
    assert facts["files"] == len(files)


# Buckets


@pytest.fixture
def bucket_path(s3_bucket, tmp_path):
    return f"{s3_bucket}/{tmp_path.name}/s.zarr"


def test_a_bucket_is_packed_in_place_and_by_a_copy(bucket_path, tmp_path, small_shards):
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    expected = contents(store)
    assert_same(pack_copy(store, bucket_path), expected)
    in_place = convert(store, bucket_path.replace("s.zarr", "other.zarr"))
    pack(in_place)
    assert is_packed(in_place) and is_packed(Store(bucket_path))
    assert_same(in_place, expected)
    in_place.chunks.tree.delete_block("images", 3)
    assert open_store(in_place.path).missing_blocks() == [3]
    in_place.write_block(3, **block_arrays(store, 3))
    assert_same(in_place, expected)


def test_neighbours_of_small_chunks_come_by_one_request(bucket_path, tmp_path, monkeypatch):
    store = pack_copy(filled_store(tmp_path / "s.zarr", num_images=100), bucket_path)
    asked = []
    read = packed_remote.RemotePacked._range
    monkeypatch.setattr(
        packed_remote.RemotePacked, "_range", lambda self, *part: asked.append((self.node, *part)) or read(self, *part)
    )
    store.images[:]
    # Of images, their classes and checks: the index, and everything there is.
    assert sorted(node for node, *_ in asked) == ["checks"] * 2 + ["class_ids"] * 2 + ["images"] * 2


def test_a_bucket_that_ends_a_range_early_is_asked_again_and_never_believed(bucket_path, tmp_path, monkeypatch):
    from dmkd.stores import StoreUnreachableError
    from dmkd.stores.trees.bucket import Bucket

    store = pack_copy(filled_store(tmp_path / "s.zarr", num_images=100), bucket_path)
    expected, whole, asked = store.images[:], Bucket.read_bytes, set()

    def ending_early(self, key, start=None, stop=None):
        content, first = whole(self, key, start, stop), (key, start) not in asked
        asked.add((key, start))
        return content[:-3] if start is not None and first else content

    monkeypatch.setattr(Bucket, "read_bytes", ending_early)
    np.testing.assert_array_equal(open_store(store.path).images[:], expected)
    monkeypatch.setattr(Bucket, "read_bytes", lambda *a: (c := whole(*a)) and (c[:-3] if a[2:] else c))
    with pytest.raises(StoreUnreachableError, match=r"bytes were asked for and .* came; rerun the same command"):
        open_store(store.path).images[:]


def test_threads_that_begin_together_ask_a_bucket_once(bucket_path, tmp_path, monkeypatch):
    pack_copy(filled_store(tmp_path / "s.zarr", num_images=100), bucket_path)
    store, asked = open_store(bucket_path), []

    def counting(where, name):
        original = getattr(where, name)

        def call(self, *arguments):
            asked.append((name, *arguments))
            time.sleep(0.05)
            return original(self, *arguments)

        monkeypatch.setattr(where, name, call)

    counting(zarr_tree.ZarrTree, "_node")
    counting(packed_remote.RemotePacked, "_list")
    store.chunks.look_again([])
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda block: store.chunks.decoded("checks", block), [0] * 8))
    assert asked == [("_node", "checks"), ("_list",)]
