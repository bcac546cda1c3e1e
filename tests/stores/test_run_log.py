"""The run log: what is written comes back, in parts, beside other runs, and hurts no reader of the store."""

import warnings

import numpy as np
import pytest
import zarr
from conftest import filled_store

from dmkd.stores import run_log
from dmkd.stores.verifying.verifier import Verifier


def test_parts_are_bounded_and_come_back_in_order(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.zarr")
    monkeypatch.setattr(run_log, "BLOCKS_A_PART", 3)
    with store.log_run(command="test") as log:
        worker = log.add_worker({"host": "a"})
        for block in range(31):
            log.add_block(block, worker, 1.23456, 0.5)
            assert len(log._rows) < 3
    (run,) = store.runs()
    assert [row[:4] for row in run["blocks"]] == [[block, "w0", 1.235, 0.5] for block in range(31)]
    assert run["outcome"] == "done" and run["ended"] >= run["started"]
    group = zarr.open_group(store.path, mode="r")["runs"][run["name"]]
    assert sorted(group.group_keys()) == sorted(f"part-{n}" for n in range(11))


def test_a_run_that_is_killed_has_kept_what_was_saved(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.zarr")
    log = store.log_run(command="test")
    worker = log.add_worker({})
    monkeypatch.setattr(run_log, "SAVE_SECONDS", 0.0)
    log.add_block(0, worker, 1.0, 1.0)
    monkeypatch.setattr(run_log, "SAVE_SECONDS", 30.0)
    log.add_block(1, worker, 1.0, 1.0)
    (run,) = store.runs()
    assert run["outcome"] == "running" and run["ended"] is None
    assert [row[0] for row in run["blocks"]] == [0]


def test_runs_in_the_same_second_are_two_and_the_outcome_is_how_it_was_left(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    for error in (None, KeyboardInterrupt(), ValueError("odd")):
        try:
            with store.log_run(command="test") as log:
                log.add_block(0, log.add_worker({}), 0.0, 0.0)
                if error:
                    raise error
        except (KeyboardInterrupt, ValueError):
            pass
    assert [run["outcome"] for run in store.runs()] == ["done", "interrupted", "failed: ValueError: odd"]


def test_a_full_disk_keeps_its_own_error(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.zarr")

    def full(*_):
        raise OSError(28, "No space left on device")

    def fail():
        with store.log_run(command="test") as log:
            log.add_worker({})
            monkeypatch.setattr(type(store.chunks.tree), "set_attributes", full)
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        fail()


def test_readers_of_the_store_do_not_stumble(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    with store.log_run(command="test") as log:
        log.add_block(0, log.add_worker({}), 0.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(store.path, mode="r")
        members = dict(group.members(max_depth=None))
        str(group.tree()) if _has_rich() else None
    assert "runs" in members and np.asarray(group["images"][:2]).shape == (2, 8, 8, 3)
    assert [f for f in Verifier(store).attributes() if "runs" in f.where] == []


def _has_rich() -> bool:
    try:
        import rich  # noqa: F401
    except ImportError:
        return False
    return True
