"""What the page is told of runs: how far, how fast, what failed; of logs of every age, place and honesty."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import filled_store, new_store
from run_notes import HERE

from dmkd.browsing import live_log
from dmkd.browsing.desk import Desk
from dmkd.browsing.live import LiveRuns
from dmkd.browsing.live_rates import Done, edges_of
from dmkd.cli.main import main
from dmkd.making.blocks import BlockWorker
from dmkd.stores import open_store, run_log


@pytest.fixture(autouse=True)
def looking_each_time(monkeypatch):
    monkeypatch.setattr(live_log, "SECONDS", -1.0)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are told to, for what a log writes."""
    now = [time.time() - 1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def told(store, *opened):
    facts = LiveRuns().facts(store, opened)
    json.dumps(facts, allow_nan=False)
    assert facts["problem"] is None
    return facts["runs"]


def seconds_done(at, seconds, images=10.0):
    at = np.array(at, np.float64)
    return Done.of(np.full(len(at), images), np.full(len(at), float(seconds)), at)


# Rates, by hand


def test_rates_of_blocks_that_take_longer_than_the_window():
    done = seconds_done([1000.0, 1300.0, 1600.0], 300)
    assert done.lately == 10 / 300 and done.overall == 30 / 900


def test_the_last_minute_counts_from_the_block_before_it():
    done = seconds_done([1000.0 + second for second in range(0, 200, 10)], 10)
    assert done.lately == pytest.approx(1.0) and done.overall == pytest.approx(1.0)
    slower = seconds_done([*range(1000, 1100, 5), *range(1120, 1220, 20)], 5)
    assert slower.lately == pytest.approx(10 / 20), "0.5 a second lately"
    assert slower.overall == pytest.approx(250 / 205)


def test_eight_workers_that_finish_at_once():
    at = np.repeat([1000.0, 1180.0, 1360.0], 8)
    assert seconds_done(at, 180).lately == pytest.approx(80 / 180)


def test_what_took_no_time_has_no_rate():
    assert seconds_done([1000.0], 0).lately is None and seconds_done([1000.0], 0).overall is None
    assert seconds_done([], 1).lately is None and seconds_done([], 1).overall is None


def test_a_curve_spreads_a_block_over_its_time_and_shows_gaps():
    done = seconds_done([1004.0, 1010.0, 1020.0], 4)
    edges = edges_of([done])
    assert edges.tolist() == [1000.0 + second for second in range(21)]
    short, gap, as_made = [10 / 6] * 6, [0.0] * 6, [2.5] * 4
    assert done.binned(edges) == pytest.approx([2.5] * 4 + short + gap + as_made, abs=1e-3)
    late = seconds_done([5000.0], 1000)
    assert len(edges_of([done, late])) == 121
    assert sum(late.binned(edges_of([done, late]))) * (4000 / 120) == pytest.approx(10, rel=1e-3)


# Runs of the real thing


def test_a_run_on_digits_with_a_block_that_fails_once(tmp_path, monkeypatch):
    real, seen = BlockWorker.make, []

    def make(self, block, inputs):
        store = open_store(tmp_path / "d.zarr")
        if block == 2 and not seen:
            seen.append("failed")
            raise RuntimeError("a cosmic <b>ray</b>\nwith a traceback")
        if block == 2:
            seen.append(told(store)[0])
        return real(self, block, inputs)

    monkeypatch.setattr(BlockWorker, "make", make)
    monkeypatch.setattr(run_log, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(run_log, "SHARE_OF_TIME", 1e9)
    monkeypatch.setattr("dmkd.engine.scheduler.BACK_OFF_SECONDS", 0.01)
    command = [
        "generate",
        "--store",
        str(tmp_path / "d.zarr"),
        "--generator",
        "digits",
        "--images",
        "50",
        "--block-size",
        "10",
    ]
    done = CliRunner().invoke(main, [*command, "--steps", "2", "--device", "cpu", "--workers", "0"])
    assert done.exit_code == 0, done.output
    _, during = seen
    assert during["state"] == "running" and during["command"] == "generate" and during["hosts"] == [HERE["host"]]
    assert during["planned"] == 5 and 1 <= during["blocks"] <= 4 and during["failures"] == 1
    assert during["lately"] > 0 and during["eta"] == pytest.approx((5 - during["blocks"]) * 10 / during["lately"])
    (failure,) = during["detail"]["failures"]
    assert failure["reason"] == "RuntimeError: a cosmic <b>ray</b>" and (failure["block"], failure["worker"]) == (
        2,
        "w0",
    )
    (after,) = told(open_store(tmp_path / "d.zarr"))
    assert (after["state"], after["blocks"], after["planned"], after["images"]) == ("done", 5, 5, 50)
    assert after["eta"] is None and after["ended"] >= after["started"] and after["left_out"] == 0
    detail = after["detail"]
    (worker,) = detail["workers"]
    assert (worker["name"], worker["blocks"], worker["images"]) == ("w0", 5, 50) and worker["overall"] > 0
    assert set(detail["newest"]) <= set(range(50)) and 20 in detail["newest"], "block 2 was among the last"
    width = (detail["curve"]["end"] - detail["curve"]["start"]) / len(detail["curve"]["total"])
    assert sum(detail["curve"]["total"]) * width == pytest.approx(50, rel=0.01)


def test_a_process_that_was_killed_has_stopped(tmp_path):
    script = Path(__file__).parents[1] / "fake_orders.py"
    path = str(tmp_path / "s.zarr")
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, str(script), path, str(tmp_path), "0"], env=here)
    live, deadline, runs = LiveRuns(), time.monotonic() + 120, []
    while not (runs and runs[0]["blocks"]):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
        if (tmp_path / "s.zarr/runs").exists():
            runs = live.facts(open_store(path), ())["runs"]
    assert runs[0]["state"] == "running" and runs[0]["planned"] == 40
    process.send_signal(signal.SIGKILL)
    process.wait()
    (run,) = live.facts(open_store(path), ())["runs"]
    assert run["state"] == "stopped" and run["eta"] is None and run["ended"] is None and run["blocks"] >= 1


# Logs


def test_two_processes_on_one_store_end_together(tmp_path, clock):
    store = new_store(tmp_path / "s.zarr", num_images=160, block_size=10)
    logs = [store.log_run(command=command, driver=HERE) for command in ("generate", "generate", "label")]
    for log in logs:
        log.plan(16)
        worker = log.add_worker({"host": "here"})
        clock[0] += 10.0
        log.add_block(0, worker, 10.0, 0.0)
        clock[0] += 10.0
        log.add_block(1, worker, 10.0, 0.0)
        log.save()
    label, second, first = told(store)
    assert (label["command"], second["command"]) == ("label", "generate")
    assert first["lately"] == pytest.approx(1.0) and label["eta"] == pytest.approx(140)
    assert first["eta"] == second["eta"] == pytest.approx(70)


def test_blocks_that_are_left_out_are_not_waited_for(tmp_path, clock):
    store = new_store(tmp_path / "s.zarr", num_images=40, block_size=10)
    log = store.log_run(command="generate", driver=HERE)
    log.plan(4)
    worker = log.add_worker({})
    for block in range(2):
        clock[0] += 10.0
        log.add_block(block, worker, 10.0, 0.0)
    log.add_failure("no", block=2, worker="w0", left_out=True)
    log.save()
    (run,) = told(store)
    assert run["left_out"] == 1 and run["eta"] == pytest.approx(10)


def test_rates_by_worker_and_a_last_block_that_is_short(tmp_path, clock):
    store = new_store(tmp_path / "s.zarr", num_images=95, block_size=10)
    with store.log_run(command="generate", driver=HERE) as log:
        fast, slow = log.add_worker({"host": "a", "hardware": "H100"}), log.add_worker({"host": "b"})
        for second in range(1, 9):
            clock[0] += 1.0
            log.add_block(second, fast, 1.0, 0.0)
            if second == 8:
                log.add_block(9, slow, 8.0, 0.0)
    (run,) = told(store)
    assert run["images"] == 85 and run["hosts"] == ["a", "b"] and run["hardware"] == ["H100"]
    workers = {worker["name"]: worker for worker in run["detail"]["workers"]}
    assert workers["w0"]["lately"] == pytest.approx(10.0) and workers["w1"]["lately"] == pytest.approx(5 / 8)
    curve = run["detail"]["curve"]
    assert curve["workers"]["w0"] == pytest.approx([10.0] * 8) and curve["total"] == pytest.approx([10.625] * 8)


def test_only_the_newest_and_those_asked_for_come_in_detail(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    for _ in range(3):
        with store.log_run(command="generate", driver=HERE) as log:
            log.add_block(0, log.add_worker({}), 1.0, 0.0)
    newest, middle, oldest = told(store)
    assert "detail" in newest and "detail" not in middle and "detail" not in oldest
    assert ["detail" in run for run in told(store, oldest["name"])] == [True, False, True]


def test_a_log_of_an_early_version_is_shown_without_what_it_lacks(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    tree = store.chunks.tree
    tree.create_group("runs")
    tree.create_group("runs/old")
    facts = {"command": "generate", "started": "2024-05-01T10:00:00+00:00", "ended": None, "outcome": "running"}
    tree.set_attributes({**facts, "workers": {"w0": {"host": "a", "pid": 7}}}, "runs/old")
    tree.create_group("runs/old/part-0")
    tree.set_attributes({"blocks": [[0, "w0", 1.0, 0.5, 1714557610.0]]}, "runs/old/part-0")
    (run,) = told(store)
    assert (run["state"], run["blocks"], run["images"], run["planned"], run["failures"]) == ("stopped", 1, 16, None, 0)
    assert run["eta"] is None and run["saved"] is None and run["detail"]["failures"] == []


def test_a_run_elsewhere_is_running_while_it_saves_and_may_come_back(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.zarr")
    live, now = LiveRuns(), time.time()
    log = store.log_run(command="generate", driver={"host": "elsewhere", "pid": 7})
    log.add_block(0, log.add_worker({}), 1.0, 0.0)
    states = []
    for seconds in (0.0, 3000.0, 10.0):  # what is saved meanwhile makes the log young again
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        states.append(live.facts(store, ())["runs"][0]["state"])
    assert states == ["running", "stopped", "running"]


def test_what_can_not_change_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "BLOCKS_A_PART", 3)
    store = new_store(tmp_path / "s.zarr")
    with store.log_run(command="generate", driver=HERE) as log:
        worker = log.add_worker({})
        for block in range(4):
            log.add_block(block, worker, 1.0, 0.0)
    log = store.log_run(command="generate", driver=HERE)
    worker = log.add_worker({})
    live, read = LiveRuns(), []
    real = type(store.chunks.tree).attributes

    def attributes(tree, node=""):
        read.append(node.removeprefix("runs/").partition("/")[2] or node)
        return real(tree, node)

    for block in range(7):
        log.add_block(block, worker, 1.0, 0.0)
    log.save()
    live.facts(store, ())
    monkeypatch.setattr(type(store.chunks.tree), "attributes", attributes)
    runs = live.facts(store, ())["runs"]
    assert read == [f"runs/{runs[0]['name']}", "part-2"]
    assert [run["blocks"] for run in runs] == [7, 4]
    read.clear()
    log.add_block(0, worker, 1.0, 0.0)
    log.add_block(1, worker, 1.0, 0.0)
    log.add_block(2, worker, 1.0, 0.0)
    log.save()
    assert [run["blocks"] for run in live.facts(store, ())["runs"]] == [10, 4]
    assert read[1:] == ["part-2", "part-3"]


def test_a_bucket_is_asked_seldom(s3_bucket, monkeypatch):
    store = filled_store(f"{s3_bucket}/live/s.zarr")
    log = store.log_run(command="generate", driver=HERE)
    worker = log.add_worker({})
    log.add_block(0, worker, 1.0, 0.0)
    live, looks, real = LiveRuns(), [], live_log.RunLogs._update
    monkeypatch.setattr(live_log.RunLogs, "_update", lambda logs, store: looks.append(1) or real(logs, store))
    now = time.monotonic()
    for seconds in range(41):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: now + seconds)
        (run,) = live.facts(store, ())["runs"]
    assert len(looks) == 2 and run["blocks"] == 1 and run["state"] == "running"


def test_every_kind_of_store(place):
    store = filled_store(place.path)
    with store.log_run(command="generate", driver=HERE) as log:
        log.add_block(1, log.add_worker({}), 1.0, 0.0)
    answer = Desk([place.path]).answer("runs", {"store": "0"})
    (run,) = json.loads(answer.body)["runs"]
    assert run["state"] == "done" and run["detail"]["newest"] == [16, 17, 18, 19]


def test_a_store_without_a_log_and_a_store_that_is_gone(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    live = LiveRuns()
    assert live.facts(store, ()) == {"runs": [], "problem": None}
    with store.log_run(command="generate", driver=HERE) as log:
        log.add_block(1, log.add_worker({}), 1.0, 0.0)
    live.facts(store, ())
    monkey = store.chunks.tree

    def fail(node):
        raise OSError(5, "Input/output error")

    monkey.names = fail
    facts = live.facts(store, ())
    assert "Input/output error" in facts["problem"] and len(facts["runs"]) == 1, "what was known is still shown"


HOSTILE = "<img src=x onerror=alert(1)>"


def test_a_strangers_log_is_text_and_numbers(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    tree = store.chunks.tree
    tree.create_group("runs")
    for name in ("a", "b", "c", "empty"):
        tree.create_group(f"runs/{name}")
    (tmp_path / "s.zarr/runs/file").write_text("no group")
    (tmp_path / "s.zarr/runs/torn").mkdir()
    (tmp_path / "s.zarr/runs/torn/zarr.json").write_text('{"zarr_format": 3, "node_')
    nonsense = {"started": 10**400, "ended": [], "outcome": HOSTILE * 10**4, "workers": ["w0"], "planned": math.nan}
    tree.set_attributes({**nonsense, "failures": {"count": "many", "last": [7, {"block": {}, "at": 1e999}]}}, "runs/a")
    running = {"outcome": "running", "driver": {"host": HERE["host"], "pid": "7"}, "started": "yesterday", "saved": 3}
    tree.set_attributes({**running, "workers": {HOSTILE: {"host": {"a": 1}, "hardware": HOSTILE}}}, "runs/b")
    tree.create_group("runs/b/part-0")
    rows = [
        [0, HOSTILE, 1.0, 0.5, 1714557610.0],
        [10**9, "w0", 1.0, 0.5, 1714557620.0],
        [-1, "w0", 1.0, 0.5, 1714557610.0],
        ["0", "w0", 1.0, 0.5, 1714557610.0],
        [True, "w0", 1.0, 0.5, 1714557610.0],
        [0, "w0", math.nan, 0.5, 1714557610.0],
        [0, "w0", 1.0, 0.5, 1e300],
        [0, "w0", -5.0, 0.5, 1714557610.0],
        [0, "w0", 1.0],
        "row",
    ]
    tree.set_attributes({"blocks": rows}, "runs/b/part-0")
    tree.create_group("runs/b/part-x")
    tree.set_attributes({"driver": 7, "outcome": "running", "started": "2024-05-01T10:00:00+00:00"}, "runs/c")
    tree.create_group("runs/c/part-0")
    tree.set_attributes({"blocks": {"0": 1}}, "runs/c/part-0")
    c, b, a = told(store, "a", "b", "c")
    assert (c["blocks"], c["state"]) == (0, "stopped") and len(a["state"]) <= 300 and a["planned"] is None
    assert a["detail"]["failures"] == [{"block": None, "worker": "", "reason": "None", "at": None, "left_out": False}]
    assert (b["blocks"], b["images"], b["state"]) == (2, 16, "stopped")
    assert b["hardware"] == [HOSTILE] and b["detail"]["newest"] == [0, 1, 2, 3]
    assert {worker["name"] for worker in b["detail"]["workers"]} == {HOSTILE, "w0"}
