"""What is free where a store would lie."""

import shutil

from dmkd.runtime.space import available_memory, free_disk


def test_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path, monkeypatch):
    asked = []
    usage = shutil.disk_usage(tmp_path)._replace(free=1234)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: asked.append(place) or usage)
    assert free_disk(str(tmp_path / "not" / "yet" / "s.zarr")) == 1234
    assert asked == [tmp_path.resolve()]


def test_a_file_system_that_says_nothing_and_a_bucket_are_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(0, 0, 0))
    assert free_disk(str(tmp_path)) is None
    assert free_disk("s3://bucket/s.zarr") is None


def test_some_memory_is_available():
    assert 10**7 < available_memory() < 10**15
