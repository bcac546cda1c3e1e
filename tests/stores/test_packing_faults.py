"""What goes wrong while stores are packed, and what is wrong in shards, beyond what test_packing.py kills and damages."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import block_arrays, filled_store

from dmkd.cli.main import main
from dmkd.stores import DamagedChunkError, Store, UsageError, open_store
from dmkd.stores.pack_copy import pack_copy
from dmkd.stores.packing import fold_packed, is_packed, pack
from dmkd.stores.trees import packed, packed_remote, shards
from dmkd.stores.verifying.finding import ERROR
from dmkd.stores.verifying.verifier import Verifier


@pytest.fixture
def small_shards(monkeypatch):
    """Three blocks a shard."""
    for module in ("dmkd.stores.packing", "dmkd.stores.trees.shards"):
        monkeypatch.setattr(f"{module}.choose_blocks_per_shard", lambda chunk_bytes, blocks: 3)


@pytest.mark.parametrize("entry", [(0, 2**63), (2**64 - 2, 8), (2**40, 100), "into the index"])
def test_an_index_that_points_outside_its_shard_is_damage(tmp_path, small_shards, entry):
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    pack(store)
    shard = Path(store.path) / "images/0.0.0.0"
    content = shard.read_bytes()
    tail = shards.index_bytes(3)
    index = shards.parse_index(content[-tail:], 3, len(content)).copy()
    index[1] = (len(content) - tail - 1, 2) if entry == "into the index" else entry
    edited = index.tobytes()
    shard.write_bytes(content[:-tail] + edited + google_crc32c.value(edited).to_bytes(4, "little"))
    with pytest.raises(DamagedChunkError, match="index points outside the shard"):
        open_store(store.path).images[[20]]
    assert [f.severity for f in Verifier(open_store(store.path)).block(1) if f.node == "images"] == [ERROR]
    opened = open_store(store.path)
    np.testing.assert_array_equal(opened.images[50:], block_arrays_of(store)[50:])


def block_arrays_of(store):
    return np.concatenate([block_arrays(store, block)["images"] for block in range(store.num_blocks)])


def test_of_two_processes_that_fold_at_once_none_undoes_the_other(tmp_path, small_shards, monkeypatch):
    store = filled_store(tmp_path / "s.zarr", num_images=96)  # two full shards an array
    expected = store.images[:]
    pack(store)
    store.chunks.tree.delete_block("images", 2)
    store.write_block(0, **block_arrays(store, 0))  # something to fold
    write, others = shards.write_shard, []

    def slowly(file, chunks):
        """Meanwhile another process makes the block that is missing, and folds it."""
        chunks = list(chunks)
        if not others and chunks[2] is None:
            arrays = block_arrays(store, 2)
            other = Store(store.path)
            other.write_block(2, images=arrays["images"], class_ids=arrays["class_ids"])
            others.append(threading.Thread(target=fold_packed, args=(other,)))
            others[0].start()
            others[0].join(timeout=0.5)
        return write(file, chunks)

    monkeypatch.setattr(packed.shards, "write_shard", slowly)
    fold_packed(open_store(store.path))
    others[0].join()
    again = open_store(store.path)
    assert again.missing_blocks() == [] and is_packed(again)
    np.testing.assert_array_equal(again.images[:], expected)


def test_while_others_are_at_work_only_full_shards_are_written(tmp_path, small_shards):
    store = filled_store(tmp_path / "s.zarr", num_images=96)
    pack(store)
    store.chunks.tree.delete_block("images", 5)
    store.write_block(0, **block_arrays(store, 0))
    store.write_block(4, **block_arrays(store, 4))
    with store.log_run(command="label", driver={"host": "elsewhere", "pid": 1}) as log:
        log.add_worker({})
        fold_packed(open_store(store.path))
        assert store.chunks.tree.packed("images").loose() == {4, 5}
    fold_packed(open_store(store.path))
    assert store.chunks.tree.packed("images").loose() == set()


def test_a_copy_that_is_interrupted_begins_anew_if_its_source_has_changed(tmp_path, small_shards):
    source, target = filled_store(tmp_path / "s.zarr", num_images=100), tmp_path / "copy.zarr"

    def stop(chunks):
        stop.count += 1
        if stop.count > 5:
            raise KeyboardInterrupt

    stop.count = 0
    with pytest.raises(KeyboardInterrupt):
        pack_copy(source, str(target), stop)
    assert (target / "images/0.0.0.0").exists()
    (target / "images/0.0.0.0.abc.partial").write_bytes(b"half")
    source.write_block(1, **block_arrays(source, 1, seed=7))
    source.touch()
    copy = pack_copy(source, str(target))
    assert not list(target.rglob("*.partial"))
    np.testing.assert_array_equal(copy.images[:], source.images[:])
    np.testing.assert_array_equal(
        copy.labels["teacher"].logits(slice(None)), source.labels["teacher"].logits(slice(None))
    )


def test_a_copy_of_a_store_at_work_or_into_the_store_is_refused(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match="is inside the store .*give the copy another name"):
        pack_copy(store, f"{store.path}/inner.zarr")
    with store.log_run(command="label", driver={"host": "elsewhere", "pid": 1}) as log:
        log.add_worker({})
        with pytest.raises(UsageError, match=r"being written by dmkd label .*: pack it when that has ended"):
            pack_copy(open_store(store.path), str(tmp_path / "copy.zarr"))
    assert not (tmp_path / "copy.zarr").exists()


def test_what_can_not_be_packed_is_told_in_a_sentence(tmp_path):
    store, other = filled_store(tmp_path / "s.zarr"), filled_store(tmp_path / "other.zarr")
    (tmp_path / "file").write_text("x")
    for words in (["nothing.zarr"], ["file"], ["s.zarr", "other.zarr"], ["s.zarr", "file"], ["s.zarr", "s.zarr"]):
        paths = [str(tmp_path / word) for word in words]
        told = CliRunner().invoke(main, ["pack", *paths])
        assert told.exit_code == 2 and paths[-1] in told.stderr and "Traceback" not in told.output, told.output
    for sound in (store, other):
        assert not is_packed(open_store(sound.path)) and open_store(sound.path).missing_blocks() == []


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path, small_shards, monkeypatch):
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    expected, write, calls = store.images[:], shards.write_shard, []

    def full(file, chunks):
        calls.append(file)
        if len(calls) > 4:
            file.write(b"some")
            raise OSError(28, "No space left on device")
        return write(file, chunks)

    monkeypatch.setattr(packed.shards, "write_shard", full)
    told = CliRunner().invoke(main, ["pack", store.path])
    assert told.exit_code == 1 and "the disk is full; free some space. Rerun the same command" in told.stderr
    assert "Traceback" not in told.output and not list(Path(store.path).rglob("*.partial"))
    np.testing.assert_array_equal(open_store(store.path).images[:], expected)
    monkeypatch.setattr(packed.shards, "write_shard", write)
    assert CliRunner().invoke(main, ["pack", store.path]).exit_code == 0
    np.testing.assert_array_equal(open_store(store.path).images[:], expected)


def test_interrupted_by_the_user_it_ends_at_once_and_the_same_command_goes_on(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=100)
    expected = store.images[:]
    program = (
        "import signal, sys, time; from dmkd.stores.trees import packed, shards\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # the shell that started the tests may have it ignored
        "write = shards.write_shard\n"
        "def slowly(file, chunks): print('go', flush=True); [time.sleep(0.01) for _ in range(6000)]\n"
        "packed.shards.write_shard = slowly\n"
        "from dmkd.cli.main import main; main(['pack', sys.argv[1]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, store.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    np.testing.assert_array_equal(open_store(store.path).images[:], expected)
    assert CliRunner().invoke(main, ["pack", store.path]).exit_code == 0
    assert is_packed(open_store(store.path)) and not list(Path(store.path).rglob("*.partial"))
    np.testing.assert_array_equal(open_store(store.path).images[:], expected)


@pytest.mark.parametrize("codec", ["raw", "webp"])
def test_a_shard_in_a_bucket_that_is_replaced_while_it_is_read(s3_bucket, tmp_path, small_shards, monkeypatch, codec):
    """By a shorter one: what was asked for is not there any more."""
    monkeypatch.setattr(packed_remote, "SPAN_BYTES", 1)  # each block is a request
    source = filled_store(tmp_path / "s.zarr", num_images=100, image_codec=codec)
    store = pack_copy(source, f"{s3_bucket}/{tmp_path.name}/s.zarr")
    reader = open_store(store.path)
    expected = reader.images[[0, 16, 40, 90]]
    for block in (1, 2):
        store.chunks.tree.delete_block("images", block)
    fold_packed(open_store(store.path))
    np.testing.assert_array_equal(reader.images[[0, 90]], expected[[0, 3]])
    with pytest.raises(DamagedChunkError, match="there is no such block"):
        reader.images[[40]]
    assert reader.missing_blocks() == [1, 2]
