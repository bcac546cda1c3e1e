"""The run log: what is written comes back, in parts, beside other runs, and hurts no reader of the store."""

import time
import warnings

import numpy as np
import pytest
import zarr
from conftest import filled_store
from interruptions import interrupt
from store_schema import problems_below

from dmkd.stores import StoreWriteError, run_log
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


def test_a_run_that_is_killed_has_kept_its_first_block_and_what_was_saved_since(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.zarr")
    log = store.log_run(command="test")
    worker = log.add_worker({})
    log.add_block(0, worker, 1.0, 1.0)
    log.add_block(1, worker, 1.0, 1.0)
    (run,) = store.runs()
    assert run["outcome"] == "running" and run["ended"] is None
    assert [row[0] for row in run["blocks"]] == [0], "whoever looks sees that it has begun"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + run_log.MOST_SAVE_SECONDS + 1)
    log.add_block(2, worker, 1.0, 1.0)
    assert [row[0] for row in store.runs()[0]["blocks"]] == [0, 1, 2]


def test_killed_between_any_two_writes_what_is_there_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "BLOCKS_A_PART", 2)
    for after in range(100):
        store = filled_store(tmp_path / f"{after}.zarr")
        interrupt(store, after)
        log = store.log_run(command="test")
        try:
            worker = log.add_worker({"host": "a"})
            for block in range(4):
                log.add_block(block, worker, 1.0, 1.0)
        except KeyboardInterrupt:
            continue
        finally:
            assert list(problems_below(tmp_path)) == []
            kept = [row[0] for run in store.runs() for row in run["blocks"]]
            assert kept == list(range(len(kept)))
            assert [run["blocks"] for run in store.run_summaries()] == ([len(kept)] if store.runs() else [])
        break
    assert after > 5 and kept == [0, 1, 2, 3]


def test_a_part_that_a_killed_run_of_an_earlier_version_left_empty_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "BLOCKS_A_PART", 2)
    store = filled_store(tmp_path / "s.zarr")
    with store.log_run(command="test") as log:
        worker = log.add_worker({})
        for block in range(4):
            log.add_block(block, worker, 1.0, 1.0)
    store.chunks.tree.create_group(f"runs/{log.name}/part-2", {"blocks": []})
    (run,), (brief,) = store.runs(), store.run_summaries()
    assert len(run["blocks"]) == brief["blocks"] == 4 and brief["seconds"] is None


def test_where_saving_takes_long_it_is_done_seldom(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.zarr")
    log = store.log_run(command="test")
    now, saves, real = [1000.0], [], type(store.chunks.tree).set_attributes

    def slow(tree, attributes, node=""):
        now[0] += 0.02  # as in a bucket
        if "saved" in attributes:
            saves.append(now[0])
        real(tree, attributes, node)

    monkeypatch.setattr(type(store.chunks.tree), "set_attributes", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    worker = log.add_worker({})
    for block in range(200):
        now[0] += 1.0
        log.add_block(block, worker, 1.0, 0.0)
    gaps = np.diff(saves[1:])
    assert len(saves) > 5 and gaps.min() > 18 and gaps.max() < 22, "0.04 of 20 seconds"


def test_what_failed_is_bounded_one_line_each_and_saved_at_once(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    with store.log_run(command="test") as log:
        log.plan(40)
        log.plan(-8)
        log.add_failure("no GPU\nTraceback", block=None, worker=None)
        (run,) = store.runs()
        assert run["planned"] == 32 and run["failures"]["count"] == 1 and run["workers"] == {}
        for block in range(250):
            log.add_failure("long " * 100, block=block, worker="w0", left_out=block == 249)
    failures = store.runs()[0]["failures"]
    assert failures["count"] == 251 and [one["block"] for one in failures["last"]] == list(range(150, 250))
    assert {len(one["reason"]) for one in failures["last"]} == {run_log.LONGEST_REASON}
    assert [one["left_out"] for one in failures["last"]] == [False] * 99 + [True]
    assert run["failures"]["last"][0]["reason"] == "no GPU"


def test_what_has_ended_is_all_there(tmp_path, monkeypatch):
    """Who reads the outcome first and then the blocks misses none."""
    store = filled_store(tmp_path / "s.zarr")
    tree, seen = type(store.chunks.tree), []
    real = tree.set_attributes

    def set_attributes(self, attributes, node=""):
        if attributes.get("outcome") == "done":
            seen.append(len(store.runs()[0]["blocks"]))
        real(self, attributes, node)

    monkeypatch.setattr(tree, "set_attributes", set_attributes)
    with store.log_run(command="test") as log:
        worker = log.add_worker({})
        for block in range(5):
            log.add_block(block, worker, 1.0, 0.0)
    assert seen == [5]


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


def test_a_disk_that_has_room_again_after_a_first_write_failed_keeps_the_error_and_the_log(tmp_path, monkeypatch):
    store, failed = filled_store(tmp_path / "s.zarr"), []
    create_group = store.chunks.tree.create_group

    def full_once(node, attributes=None):
        if attributes and not failed:
            failed.append(node)
            raise OSError(28, "No space left on device")
        create_group(node, attributes)

    monkeypatch.setattr(store.chunks.tree, "create_group", full_once)
    with pytest.raises(StoreWriteError, match="No space left"), store.log_run(command="test") as log:
        log.add_worker({})
    (run,) = store.runs()
    assert run["outcome"].startswith("failed: Could not write the run log") and list(run["workers"]) == ["w0"]


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
