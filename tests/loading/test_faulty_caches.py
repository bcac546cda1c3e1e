"""A loader's cache that is full, deleted, left over, or shared with other limits: batches are those without it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import block_arrays, filled_store

from dmkd.loading import Loader
from dmkd.loading.cache_folder import CacheFolder
from dmkd.stores import open_store


@pytest.fixture
def store(tmp_path):
    """7 blocks of 16 images, whose images can't be mapped."""
    return filled_store(tmp_path / "s.zarr", num_images=100, image_codec="webp")


def make(store, folder, notices, **options):
    return Loader(
        open_store(store.path), labels={"teacher": 1.0}, batch_size=10, memory=20_000, resident=None, threads=2,
        cache=folder, notice=notices.append, **options,
    )  # fmt: skip


def epoch(loader, number=0):
    return [
        np.asarray(part).tobytes()
        for batch in loader.epoch(number)
        for part in (batch.ids, batch.images, batch.class_ids, batch.views, batch.logits(1))
    ]


def test_a_disk_that_is_full_from_the_start_is_said_and_the_run_goes_on(store, tmp_path, monkeypatch):
    expected = [epoch(make(store, None, []), number) for number in range(2)]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dmkd.loading.cache_folder.os.pwrite", full)
    monkeypatch.setattr("dmkd.loading.disk_cache.os.replace", full)
    notices: list[str] = []
    loader = make(store, tmp_path / "cache", notices)
    assert [epoch(loader, number) for number in range(2)] == expected
    assert "has room for 0 of 7 blocks" in notices[0] and len(notices) == 1


@pytest.mark.parametrize("after", ["opening", "a batch", "an epoch"])
def test_a_cache_that_is_deleted_while_it_is_in_use(store, tmp_path, after):
    expected = [epoch(make(store, None, []), number) for number in range(3)]
    notices: list[str] = []
    loader = make(store, tmp_path / "cache", notices)
    if after == "a batch":
        running = loader.epoch(0)
        next(running)
    elif after == "an epoch":
        assert epoch(loader) == expected[0]
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # a file may be made meanwhile
    if after == "a batch":
        assert len(list(running)) == 9
    assert [epoch(loader, number) for number in range(3)] == expected
    assert len(notices) <= 1 and all("goes on without it" in notice for notice in notices)
    assert epoch(make(store, tmp_path / "cache", notices)) == expected[0]


def test_what_was_kept_before_the_store_changed_is_not_believed_whenever_it_is_written(store, tmp_path):
    """As when a run that began before the change keeps a block after another has proved the rest."""
    epoch(make(store, tmp_path / "cache", []))
    old = {file: file.read_bytes() for file in (tmp_path / "cache").rglob("2") if file.is_file()}
    store.write_block(2, **block_arrays(store, 2, seed=99))
    store.touch()
    expected = epoch(make(store, None, []))
    assert epoch(make(store, tmp_path / "cache", [])) == expected
    for file, content in old.items():
        assert file.read_bytes() != content
        file.write_bytes(content)
    assert epoch(make(store, tmp_path / "cache", [])) == expected


def test_half_written_files_are_swept_unless_somebody_may_be_writing_them(tmp_path):
    first = CacheFolder(tmp_path, "store", 1000, None)
    leftover = first.path / "images" / ".3.1.2.partial"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    second = CacheFolder(tmp_path, "store", 1000, None)
    assert leftover.exists()
    first.close()
    second.close()
    CacheFolder(tmp_path, "store", 1000, None)
    assert not leftover.exists()


def test_files_that_vanish_while_they_are_counted(tmp_path, monkeypatch):
    other = CacheFolder(tmp_path, "other", 100, None)
    (other.path / "1").write_bytes(b"1234")
    stat = os.stat

    def vanishing(path, *arguments, **options):
        if str(path).endswith("/1"):
            Path(path).unlink(missing_ok=True)
        return stat(path, *arguments, **options)

    monkeypatch.setattr("dmkd.loading.cache_folder.os.stat", vanishing)
    assert CacheFolder(tmp_path, "store", 100, None).budget == 100


def test_two_commands_with_other_limits_share_what_is_there(store, tmp_path):
    expected = [epoch(make(store, None, []), number) for number in range(2)]
    notices: list[str] = []
    large = make(store, tmp_path / "cache", notices)
    assert epoch(large) == expected[0] and notices == []
    small = make(store, tmp_path / "cache", notices, cache_bytes=2 * 16 * 192 + 100)
    assert len(notices) == 1 and "has room for" in notices[0]
    for number in range(2):
        assert epoch(small, number) == expected[number] and epoch(large, number) == expected[number]


def test_a_file_that_was_kept_of_another_store_is_not_taken(store, tmp_path):
    """Though it has the same recipe."""
    expected = epoch(make(store, tmp_path / "cache", []))
    other = filled_store(tmp_path / "other.zarr", num_images=100, image_codec="webp")
    other.write_block(3, **block_arrays(other, 3, seed=99))
    epoch(make(other, tmp_path / "others", []))
    mine, foreign = (next(f for f in (tmp_path / name).iterdir() if f.is_dir()) for name in ("cache", "others"))
    shutil.copy(foreign / "images/0/3", mine / "images/0/3")
    assert epoch(make(store, tmp_path / "cache", [])) == expected
