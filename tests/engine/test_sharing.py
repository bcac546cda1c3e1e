"""Several processes on one store: who is at work, who makes what, what is left for whom."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tree_bytes
from fake_orders import FakeOrder, FakeWorker, fake_store, write

from dmkd.engine.engine import Engine, RunOptions
from dmkd.engine.scheduler import GiveBlock, Scheduler
from dmkd.engine.sharing import Others, Share, Todo
from dmkd.runtime.progress import Silent
from dmkd.stores import open_store
from dmkd.stores.at_work import RunsAtWork


class Notices(Silent):
    def __init__(self):
        self.texts = []

    def notice(self, text):
        self.texts.append(text)


def running(store, **driver):
    """The log of a run that has not ended."""
    log = store.log_run(command="generate", driver={"host": socket.gethostname(), "pid": os.getpid(), **driver})
    log.add_worker({"host": "worker", "pid": 1})
    return log


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


@pytest.fixture
def store(tmp_path):
    return fake_store(tmp_path / "s.zarr")


def at_work(store):
    return RunsAtWork(store.chunks.tree).besides("")


def test_a_run_of_a_living_process_is_at_work_until_it_is_killed(store):
    process = sleeper()
    try:
        running(store, pid=process.pid)
        (run,) = at_work(store)
        assert (run.command, run.pid, run.host) == ("generate", process.pid, socket.gethostname())
    finally:
        process.kill()
    deadline = time.monotonic() + 10
    while at_work(store) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert at_work(store) == [], "not even while nobody has waited for it"
    process.wait()
    assert at_work(store) == []


@pytest.mark.skipif(not Path("/proc/1/stat").exists(), reason="only Linux says when a process began")
def test_a_number_that_another_process_has_now_is_not_the_run(store):
    log = running(store, pid=os.getppid())
    assert len(at_work(store)) == 1
    log._facts["started"] = "2001-01-01T00:00:00+00:00"
    log.save()
    assert at_work(store) == [], "the process is younger than the run"


def test_a_run_that_has_ended_and_ones_own_are_not_at_work(store):
    with store.log_run(command="label", driver={"host": socket.gethostname(), "pid": os.getppid()}) as log:
        log.add_worker({})
        assert len(at_work(store)) == 1
        assert RunsAtWork(store.chunks.tree).besides(log.name) == []
    assert at_work(store) == []
    running(store)
    assert at_work(store) == [], "this process is no other"


def test_a_run_on_another_machine_counts_while_it_saves(store, monkeypatch):
    log = running(store, host="elsewhere")
    assert len(at_work(store)) == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 700)
    assert at_work(store) == []
    monkeypatch.undo()
    log.save()
    assert len(at_work(store)) == 1


class Counting:
    """A monitor that counts."""

    def __init__(self):
        self.elsewhere = 0

    def made_elsewhere(self, blocks, count):
        self.elsewhere += count


def share_of(store, todo):
    log = store.log_run(command="test")
    return Share(store, todo, Others(store, log, Silent()))


def given(scheduler):
    return [action.block for action in scheduler.tick(0.0) if isinstance(action, GiveBlock)]


def test_what_another_process_makes_is_counted_and_not_given(store):
    share, scheduler, monitor = share_of(store, Todo(store.missing_blocks)), Scheduler(), Counting()
    share.look(scheduler, monitor)
    scheduler.tick(0.0)
    scheduler.worker_ready(0)
    assert given(scheduler) == [0, 1]
    for block in (1, 2, 3, 15):
        write(open_store(store.path), block)
    share.hurry()
    share.look(scheduler, monitor)
    assert monitor.elsewhere == 12, "block 1 is in hand here, and counts when it is done"
    done = []
    while not scheduler.finished:
        for block in list(scheduler._workers[0].blocks):
            scheduler.block_done(0, block)
            done.append(block)
        given(scheduler)
    assert done == [0, 1, *range(4, 15)]


def test_who_comes_second_begins_at_the_end_and_says_who_was_there(store):
    process = sleeper()
    try:
        running(store, pid=process.pid)
        told = Notices()
        with Engine(store, RunOptions(workers=0), "cpu", told, "test", {}) as engine:
            engine.run(FakeOrder(store.path, str(Path(store.path).parent)), Todo(store.missing_blocks), "test")
    finally:
        process.kill()
        process.wait()
    assert [row[0] for row in store.runs()[-1]["blocks"]] == list(range(16))[::-1]
    assert len(told.texts) == 1 and f"dmkd generate (process {process.pid} on" in told.texts[0]


def test_the_log_plans_what_this_run_is_to_make_without_what_others_made(store, monkeypatch):
    real = FakeWorker.make

    def make(self, block, inputs):
        if block == 2:
            for other in range(10, 16):
                write(open_store(store.path), other)
        return real(self, block, inputs)

    monkeypatch.setattr(FakeWorker, "make", make)
    monkeypatch.setattr("dmkd.engine.sharing.SHARE_OF_TIME", 1e9)  # look at each turn
    write(store, 0)
    with Engine(store, RunOptions(workers=0), "cpu", Silent(), "test", {}) as engine:
        order = FakeOrder(store.path, str(Path(store.path).parent))
        engine.run(order, Todo(store.missing_blocks), "test")
        engine.run(order, Todo(lambda: [3]), "again")
    (run,) = store.runs()
    assert [row[0] for row in run["blocks"]] == [*range(1, 10), 3] and run["planned"] == 10


def test_what_waits_for_nobody_is_left_out_and_not_counted(store):
    waiting = set(range(8, 16))
    share = share_of(store, Todo(store.missing_blocks, lambda: waiting))
    assert (share.total, share.done) == (32, 0)
    share = share_of(store, Todo(store.missing_blocks, lambda: waiting, lambda: True))
    assert (share.total, share.done) == (64, 0)
    assert share_of(store, Todo(store.missing_blocks, lambda: set(range(16)))).blocks == 0


def test_what_is_expected_is_waited_for(store):
    waiting, expected = {14, 15}, [True]
    share = share_of(store, Todo(store.missing_blocks, lambda: waiting, lambda: expected[0]))
    scheduler = Scheduler(ahead=20)

    def work():
        share.hurry()
        share.look(scheduler, Counting())
        blocks = given(scheduler)
        for block in blocks:
            scheduler.block_done(0, block)
        return blocks

    share.look(scheduler, Counting())
    scheduler.tick(0.0)
    scheduler.worker_ready(0)
    assert work() == list(range(14)) and not scheduler.finished
    assert work() == [] and not scheduler.finished
    waiting.remove(15)
    assert work() == [15] and not scheduler.finished
    expected[0] = False
    assert work() == [] and scheduler.finished, "nobody makes the last one"


def test_two_processes_make_each_block_once_but_for_those_in_hand(tmp_path):
    def start():
        script = str(Path(__file__).parent.parent / "fake_orders.py")
        command = [sys.executable, script, str(tmp_path / "s.zarr"), str(tmp_path), "0"]
        here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=here)

    store = fake_store(tmp_path / "s.zarr", num_images=160)  # 40 blocks, a fifth of a second each
    processes = [start(), start()]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert store.missing_blocks() == []
    runs = store.runs()
    blocks = [row[0] for run in runs for row in run["blocks"]]
    assert set(blocks) == set(range(40))
    assert len(blocks) <= 40 + 5, "twice only what both had in hand"
    if len(runs) == 2:  # one may have finished before the other had started
        assert "Also at work on this store: dmkd test" in "".join(errors)
    alone = fake_store(tmp_path / "alone.zarr", num_images=160)
    for block in range(40):
        write(alone, block)
    assert tree_bytes(tmp_path / "s.zarr") == tree_bytes(tmp_path / "alone.zarr")


def test_an_interruption_ends_the_waiting(tmp_path, store):
    start = time.monotonic()

    def expected():
        if time.monotonic() > start + 0.5:
            os.kill(os.getpid(), signal.SIGINT)
        return True

    todo = Todo(store.missing_blocks, lambda: set(store.missing_blocks()) & {15}, expected)
    with (
        pytest.raises(KeyboardInterrupt),
        Engine(store, RunOptions(workers=0), "cpu", Silent(), "test", {}) as engine,
    ):
        engine.run(FakeOrder(store.path, str(tmp_path)), todo, "test")
    assert store.missing_blocks() == [15]
