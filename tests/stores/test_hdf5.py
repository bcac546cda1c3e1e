"""Stores in one HDF5 file: what only they do. The contract of a store is in test_stores.py; converting in test_convert.py."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import TESTS, block_arrays, filled_store, new_store
from places import Hdf5File

from dmkd.cli.main import main
from dmkd.stores import (
    DamagedChunkError,
    NotAStoreError,
    StoreError,
    StoreWriteError,
    UsageError,
    create_store,
    open_store,
)
from dmkd.stores.trees import journaled_file


def assert_sound(path: Path, blocks: set[int]) -> None:
    """Every block that counts as done holds what was written, and plain h5py agrees."""
    store = open_store(path)
    done = set(range(store.num_blocks)) - set(store.missing_blocks())
    assert done == blocks
    for block in done:
        expected = block_arrays(store, block)
        ids = store.block_ids(block)
        np.testing.assert_array_equal(store.images[list(ids)], expected["images"])
        np.testing.assert_array_equal(store.labels["teacher"].quality[list(ids)], expected["labels"]["teacher"][1])
        with h5py.File(path, "r") as file:
            np.testing.assert_array_equal(file["images"][ids.start : ids.stop], expected["images"])


# Killed at any moment


def crash_at(call: int, path: Path, torn: bool) -> None:
    """In a child process: write block 1 and die at the given system call, which is half done or not begun."""
    calls = 0

    def dying(name):
        real = getattr(os, name)

        def maybe(*arguments):
            nonlocal calls
            calls += 1
            if calls == call:
                if torn and name == "pwrite":
                    descriptor, content, offset = arguments
                    real(descriptor, bytes(content)[: len(content) // 2], offset)
                os._exit(7)
            return real(*arguments)

        return maybe

    store = open_store(path)
    arrays = block_arrays(store, 1)
    for name in ("pwrite", "fsync", "ftruncate", "replace", "unlink"):
        setattr(os, name, dying(name))
    store.write_block(1, **arrays)
    os._exit(0)


@pytest.mark.parametrize("torn", [False, True])
def test_dying_at_any_system_call_leaves_the_old_file_or_the_new_one(tmp_path, torn):
    store = new_store(tmp_path / "whole.h5")
    store.write_block(0, **block_arrays(store, 0))
    outcomes = []
    for call in range(1, 1000):
        path = tmp_path / "s.h5"
        shutil.copy(store.path, path)
        child = multiprocessing.get_context("fork").Process(target=crash_at, args=(call, path, torn))
        child.start()
        child.join()
        done = 1 not in open_store(path).missing_blocks()
        outcomes.append(done)
        assert_sound(path, {0, 1} if done else {0})
        assert not (tmp_path / "s.h5.journal").exists()
        store_again = open_store(path)
        store_again.write_block(1, **block_arrays(store_again, 1))  # and it can be gone on with
        assert_sound(path, {0, 1})
        if child.exitcode == 0:
            break
        assert child.exitcode == 7
    assert child.exitcode == 0 and len(outcomes) > 10
    assert outcomes == sorted(outcomes) and not outcomes[0], "once the change is certain it is made"


WRITER = """
import sys
from click.testing import CliRunner
from conftest import block_arrays
from dmkd.stores import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
for block in store.missing_blocks():
    store.write_block(block, **block_arrays(store, block))
    print(block, flush=True)
"""


def test_a_writer_that_is_killed_twelve_times_loses_nothing_it_had_written(tmp_path):
    path = tmp_path / "s.h5"
    new_store(path, num_images=50_000, block_size=100)
    rng, told, kills = random.Random(0), set(), 0
    while kills < 12:
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.02, 0.4))
            writer.send_signal(signal.SIGKILL)
            told |= {int(line) for line in writer.stdout.read().split()}
        kills += writer.returncode == -signal.SIGKILL
        store = open_store(path)
        done = set(range(store.num_blocks)) - set(store.missing_blocks())
        assert told <= done and len(done - told) <= kills
    assert len(told) > 24
    assert_sound(path, done)


# Several at once


def test_a_reader_sees_whole_blocks_while_another_process_writes(tmp_path):
    path = tmp_path / "s.h5"
    store = new_store(path, num_images=6000, block_size=100)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.DEVNULL, cwd=TESTS) as writer:
        seen, looks, writing = set(), 0, True
        while writing or looks < 3:
            writing = writer.poll() is None  # asked before the look, so that the last one is after the writer's end
            done = set(range(60)) - set(store.missing_blocks())
            assert seen <= done
            for block in sorted(done - seen):
                ids = list(store.block_ids(block))
                np.testing.assert_array_equal(store.images[ids], block_arrays(store, block)["images"])
            seen, looks = done, looks + 1
    assert writer.returncode == 0 and seen == set(range(60)) and looks > 3


def test_two_writers_take_turns(tmp_path):
    path = tmp_path / "s.h5"
    store = new_store(path, num_images=3000, block_size=100)
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=TESTS) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert store.missing_blocks() == []
    assert_sound(path, set(range(30)))


def test_threads_share_a_store(tmp_path):
    store = new_store(tmp_path / "s.h5", num_images=640)
    failures = []

    def work(first: int) -> None:
        try:
            for block in range(first, store.num_blocks, 4):
                store.write_block(block, **block_arrays(store, block))
                ids = list(store.block_ids(block))
                np.testing.assert_array_equal(store.images[ids], block_arrays(store, block)["images"])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and store.missing_blocks() == []


def test_a_file_that_another_program_holds_open_is_told(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.h5", num_images=32)
    monkeypatch.setattr(journaled_file, "LOCK_SECONDS", 0.1)
    with h5py.File(store.path, "r"):
        assert store.images[[3]].shape == (1, 8, 8, 3)
        with pytest.raises(StoreError, match=r"s\.h5 is locked: another program .*Close it there"):
            store.touch()
        monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
        store.touch()


# Failures, told


def test_what_fails_inside_a_transaction_changes_nothing(tmp_path):
    store = filled_store(tmp_path / "s.h5", num_images=32)
    before = Path(store.path).read_bytes()

    def fail() -> None:
        with store.chunks.tree.transaction():
            store.chunks.tree.delete_block("images", 1)
            store.chunks.tree.set_attributes({"state": "odd"})
            assert not store.chunks.tree.has_block("images", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Path(store.path).read_bytes() == before
    assert store.missing_blocks() == [] and store.chunks.tree.attributes()["state"] == "ready"


FULL_DISK = """
import os, resource, sys
from click.testing import CliRunner
from conftest import block_arrays
from dmkd.stores import open_store, StoreWriteError
store = open_store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1]) + 1000,) * 2)
try:
    store.write_block(1, **block_arrays(store, 1))
except StoreWriteError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_told_and_harms_nothing(tmp_path):
    store = new_store(tmp_path / "s.h5")
    store.write_block(0, **block_arrays(store, 0))
    before = Path(store.path).read_bytes()
    command = [sys.executable, "-c", FULL_DISK, store.path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS)
    assert "Could not write block 1 of" in done.stdout and "Rerun the same command" in done.stdout, done.stderr
    assert Path(store.path).read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["s.h5"]
    store.write_block(1, **block_arrays(store, 1))
    assert_sound(Path(store.path), {0, 1})


@pytest.mark.parametrize("size", [0, 5, 600, 5000])
def test_a_file_that_was_cut_off_is_told(tmp_path, size):
    store = filled_store(tmp_path / "s.h5", num_images=32)
    os.truncate(store.path, size)
    with pytest.raises(StoreError, match=r"s\.h5 (can't be opened|is not a dmkd store)"):
        open_store(store.path)


def test_what_is_no_store_is_told(tmp_path):
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(NotAStoreError, match="holds no HDF5 file"):
        open_store(tmp_path / "text.h5")
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(NotAStoreError, match="HDF5 file lacks the attribute dmkd_format"):
        open_store(tmp_path / "theirs.h5")
    with pytest.raises(UsageError, match="an HDF5 file must be on a disk"):
        open_store("s3://bucket/imnet.h5")
    options = {"recipe": {}, "num_images": 4, "image_shape": (8, 8, 3), "class_names": ["a"]}
    with pytest.raises(UsageError, match="--image-codec webp is for Zarr stores"):
        create_store(str(tmp_path / "new.h5"), image_codec="webp", **options)
    assert not (tmp_path / "new.h5").exists()


def test_a_store_that_another_program_copied_is_read_and_not_changed(tmp_path):
    store = filled_store(tmp_path / "s.h5", num_images=32)
    with h5py.File(store.path, "r") as old, h5py.File(tmp_path / "copy.h5", "w") as new:
        for name in old:
            old.copy(name, new)
        for name, value in old.attrs.items():
            new.attrs[name] = value
    copy = open_store(tmp_path / "copy.h5")
    np.testing.assert_array_equal(copy.images[:], store.images[:])
    np.testing.assert_array_equal(copy.labels["teacher"].logits([3, 20]), store.labels["teacher"].logits([3, 20]))
    with pytest.raises(UsageError, match=r"copy\.h5 was written by another program.*dmkd convert"):
        copy.touch()


def test_the_journal_of_another_file_is_not_used(tmp_path):
    store, other = (filled_store(tmp_path / name, num_images=32) for name in ("s.h5", "other.h5"))
    before = Path(store.path).read_bytes()
    changes = journaled_file.Changes(os.open(other.path, os.O_RDONLY))
    with journaled_file.locked(other.path) as (_, version):
        journaled_file._write_journal(store.path, version, 10, [(0, b"x")])
    with pytest.raises(StoreError, match=r"s\.h5\.journal belongs to another file"):
        open_store(store.path)
    changes.flush()
    assert Path(store.path).read_bytes() == before


# Every command


def test_every_command_works_on_an_hdf5_file(tmp_path, tiny_generator, tiny_teacher, other_teacher):
    path, zarr = tmp_path / "s.h5", tmp_path / "s.zarr"
    # fmt: off
    generate = ["--generator", tiny_generator, "--teacher", tiny_teacher, "--images", 48, "--block-size", 16,
                "--sampler", "ddpm", "--steps", 2, "--views", "rrc:1", "--device", "cpu"]
    for arguments in (
        ["generate", "--store", path, *generate],
        ["label", "--store", path, "--teacher", other_teacher, "--codec", "klt:0.5", "--device", "cpu"],
        ["generate", "--store", path, "--images", 64, "--device", "cpu"],
        ["train-student", "--store", path, "--labels", "tiny-resnet,tiny-efficientnet", "--epochs", 1,
         "--student", "test_resnet", "--batch-size", 16, "--device", "cpu", "--out", tmp_path / "run"],
        ["evaluate", tmp_path / "run" / "student", "--data", path, "--device", "cpu"],
        ["codec-report", "--store", path, "--teacher", tiny_teacher, "--codec", "float16", "--device", "cpu"],
        ["inspect", path],
        ["verify", path, "--rerun-teacher", 1, "--regenerate", 1, "--device", "cpu"],
        ["plan", "--store", path],
        ["convert", path, zarr],
        ["verify", zarr],
    ):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, (arguments, done.output)
    # fmt: on
    store = open_store(path)
    content = bytearray(Hdf5File(path).read("images/c.1.0.0.0"))
    content[100] ^= 1
    Hdf5File(path).write("images/c.1.0.0.0", bytes(content))
    before = open_store(zarr).images[:]
    found = CliRunner().invoke(main, ["verify", str(path), "--repair"])
    assert found.exit_code == 0 and "images, block 1" in found.output, found.output
    assert store.missing_blocks() == [1]
    again = CliRunner().invoke(main, ["generate", "--store", str(path), "--device", "cpu"])
    assert again.exit_code == 0, again.output
    np.testing.assert_array_equal(store.images[:], before)


# What the file is like


def test_every_byte_that_is_read_is_checked(tmp_path):
    """One bit, anywhere in the file: what is read is right, or an error, or the file can't be opened."""
    store = filled_store(tmp_path / "s.h5", num_images=32)
    expected = store.images[:], store.labels["teacher"].logits(slice(None)), store.recipe, store.class_names
    content, rng, told = Path(store.path).read_bytes(), random.Random(1), 0
    for _ in range(200):
        damaged, at = bytearray(content), rng.randrange(journaled_file.USER_BLOCK, len(content))
        damaged[at] ^= 1 << rng.randrange(8)
        (tmp_path / "d.h5").write_bytes(damaged)
        try:
            again = open_store(tmp_path / "d.h5")
            found = again.images[:], again.labels["teacher"].logits(slice(None)), again.recipe, again.class_names
        except (StoreError, DamagedChunkError, OSError, KeyError, RuntimeError, ValueError):
            told += 1
            continue
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)
    assert told > 50


def test_deleted_blocks_are_missing_read_as_fill_values_and_can_be_written_again(tmp_path):
    store = filled_store(tmp_path / "s.h5", num_images=48)
    store.chunks.tree.delete_block("images", 1)
    assert open_store(store.path).missing_blocks() == store.missing_blocks() == [1]
    with h5py.File(store.path, "r") as file:
        assert (file["images"][16:32] == 0).all() and (file["images"][32:] != 0).any()
    size = os.path.getsize(store.path)
    store.write_block(1, **block_arrays(store, 1))
    assert store.missing_blocks() == [] and os.path.getsize(store.path) < size + 500
    assert_sound(Path(store.path), {0, 1, 2})


def test_long_attributes_and_any_text_come_back(tmp_path):
    place = Hdf5File(tmp_path / "s.h5")
    recipe = {"prompts": ["Zürich ☃ \U0001f600" * 20_000], "nested": {"a": [1, 2.5, None, True, 1e-300]}, "empty": ""}
    store = create_store(place.path, recipe=recipe, num_images=4, image_shape=(8, 8, 3), class_names=["é"] * 5000)
    again = open_store(store.path)
    assert again.recipe == recipe and again.class_names == ["é"] * 5000


def test_listing_twenty_thousand_blocks_is_fast(tmp_path):
    store = new_store(tmp_path / "s.h5", num_images=20_000, block_size=1)
    with store.chunks.tree.transaction():
        for block in range(20_000):
            store.chunks.tree.write_block("class_ids", block, np.array([3], np.int32))
    again = open_store(store.path)
    start = time.perf_counter()
    assert len(again.chunks.tree.present_blocks("class_ids")) == 20_000
    assert all(again.chunks.tree.has_block("class_ids", block) for block in range(0, 20_000, 100))
    assert time.perf_counter() - start < 5


def test_no_writable_file_no_change(tmp_path):
    store = filled_store(tmp_path / "s.h5", num_images=32)
    if os.geteuid() == 0:
        pytest.skip("root may write anything")
    os.chmod(store.path, 0o444)
    assert store.images[[1]].shape == (1, 8, 8, 3)
    with pytest.raises(StoreWriteError, match="can't be written"):
        store.touch()
