"""Blocks in this process: stages side by side, failures, Ctrl-C, what is told and what is logged. Workers are fakes."""

import os
import signal
import threading
import time
import weakref
from collections import defaultdict

import pytest
from fake_orders import FakeOrder, FakeWorker, fake_store

import dmkd.engine.scheduler
from dmkd.engine.engine import Engine, RunOptions
from dmkd.engine.sharing import Todo
from dmkd.engine.stages import BlockStages
from dmkd.runtime.failures import DeviceLostError, is_device_lost, reason_of
from dmkd.runtime.interrupts import Terminated
from dmkd.stores import DmkdError, StoreWriteError, open_store


class Told:
    """A display that remembers."""

    def __init__(self):
        self.notices, self.details, self.done = [], [], 0

    def task(self, description, total, done=0, unit="images"):
        from contextlib import contextmanager

        @contextmanager
        def context():
            def advance(count, note="", detail=None):
                self.done += count
                self.details.append(detail)

            yield advance

        return context()

    def notice(self, text):
        self.notices.append(text)


@pytest.fixture
def workers(monkeypatch):
    """The fake workers that were made, in order."""
    made, real = [], FakeWorker.__init__

    def init(self, order):
        real(self, order)
        made.append(self)

    monkeypatch.setattr(FakeWorker, "__init__", init)
    monkeypatch.setattr(dmkd.engine.scheduler, "BACK_OFF_SECONDS", 0.01)
    return made


def run(tmp_path, display=None, num_images=64, **order):
    store = fake_store(tmp_path / "s.zarr", num_images)
    with Engine(store, RunOptions(workers=0), "cpu", display or Told(), "test", {"an": "option"}) as engine:
        engine.run(FakeOrder(store.path, str(tmp_path), **order), Todo(store.missing_blocks), "test")
    return store


class Meeting(FakeWorker):
    """Writing a block waits until the next is being made, and that until the writing has begun: one after the other, they
    would wait in vain."""

    def __init__(self, order):
        super().__init__(order)
        self.begun = defaultdict(threading.Event)

    def read(self, block):
        self.begun["read", block].set()
        return super().read(block)

    def make(self, block, inputs):
        self.begun["make", block].set()
        if block > 0:
            assert self.begun["write", block - 1].wait(20)
        else:
            assert self.begun["read", 2].wait(20), "two blocks ahead"
        return super().make(block, inputs)

    def write(self, made):
        self.begun["write", made].set()
        if made + 1 < self.store.num_blocks:
            assert self.begun["make", made + 1].wait(20)
        return super().write(made)


def test_a_block_is_written_while_the_next_is_made_and_another_is_read(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(FakeOrder, "new_worker", lambda order: Meeting(order))
    told = Told()
    store = run(tmp_path, told, reads=True)
    assert told.notices == [], "nobody waited in vain"
    assert workers[0].most_unwritten <= 2
    assert store.missing_blocks() == [] and store.images[17].max() == 17


def test_blocks_are_made_on_one_thread_the_callers_and_written_on_another(tmp_path, workers):
    run(tmp_path)
    threads = workers[0].threads
    assert threads["make"] == {threading.get_ident()}
    assert len(threads["write"]) == 1 and threads["write"].isdisjoint(threads["make"])


def test_slow_writing_keeps_no_more_than_two_blocks_in_memory(tmp_path, workers):
    run(tmp_path, seconds=(0.0, 0.0, 0.02))
    assert workers[0].most_unwritten == 2


def test_a_write_that_fails_is_told_of_the_right_block_and_ends_the_run(tmp_path, workers):
    store = fake_store(tmp_path / "s.zarr")
    (tmp_path / "s.zarr/images/c.5.0.0.0").mkdir(parents=True)  # no chunk can take that name
    order = FakeOrder(store.path, str(tmp_path))
    with (
        Engine(store, RunOptions(workers=0), "cpu", Told(), "test", {}) as engine,
        pytest.raises(StoreWriteError, match=r"c\.5\.0\.0\.0"),
    ):
        engine.run(order, Todo(lambda: list(range(store.num_blocks))), "test")
    assert set(range(5)).isdisjoint(open_store(store.path).missing_blocks())


def test_failures_are_told_as_they_happen_and_counted(tmp_path, workers):
    told = Told()
    with pytest.raises(DmkdError, match=r"1 blocks .* failed 3 times .*\(3\), block 3 because of RuntimeError: no"):
        run(tmp_path, told, trouble={3: "no"})
    assert told.notices == [
        "Block 3 failed on w0 (RuntimeError: no), attempt 1 of 3.",
        "Block 3 failed on w0 (RuntimeError: no), attempt 2 of 3.",
        "Block 3 failed on w0 (RuntimeError: no), attempt 3 of 3; it is left out.",
    ]
    assert "3 failures" in told.details[-1] and told.done == 60
    assert open_store(tmp_path / "s.zarr").missing_blocks() == [3]


def test_failures_are_in_the_run_log_with_who_why_and_whether_they_were_the_last(tmp_path, workers):
    start = time.time()
    with pytest.raises(DmkdError, match="1 blocks"):
        run(tmp_path, trouble={3: "no\nmore"})
    (log,) = open_store(tmp_path / "s.zarr").runs()
    assert log["planned"] == 16 and len(log["blocks"]) == 15 and log["failures"]["count"] == 3
    for failure, left_out in zip(log["failures"]["last"], (False, False, True), strict=True):
        assert failure | {"at": 0} == {
            "block": 3,
            "worker": "w0",
            "reason": "RuntimeError: no",
            "at": 0,
            "left_out": left_out,
        }
        assert start - 1 <= failure["at"] <= time.time() + 1


def test_a_device_that_is_lost_ends_the_run_at_once_and_keeps_what_is_done(tmp_path, workers):
    with pytest.raises(DeviceLostError, match="illegal memory access.*rerun the same command") as caught:
        run(tmp_path, trouble={4: "device lost"})
    assert caught.value.exit_code == 1
    assert open_store(tmp_path / "s.zarr").missing_blocks() == list(range(4, 16))


def test_memory_that_runs_out_is_an_ordinary_failure_told_in_plain_words(tmp_path, workers):
    told = Told()
    run(tmp_path, told, trouble={2: "out of memory"}, once=True)
    (notice,) = told.notices
    assert "does not hold a sub-batch" in notice and "smaller --sub-batch (CUDA out of memory" in notice
    assert "\n" not in notice


def test_which_errors_mean_that_the_device_is_lost():
    import torch

    assert is_device_lost(torch.AcceleratorError("CUDA error: device-side assert triggered"))
    assert is_device_lost(RuntimeError("CUDA error: unspecified launch failure\nCompile with ..."))
    assert not is_device_lost(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_device_lost(torch.AcceleratorError("CUDA error: out of memory"))
    handle = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    assert not is_device_lost(RuntimeError(handle)) and "smaller --sub-batch" in reason_of(RuntimeError(handle))
    assert not is_device_lost(RuntimeError("shapes differ")) and not is_device_lost(ValueError("CUDA error"))
    assert reason_of(ValueError("\n  first line\nsecond")) == "ValueError: first line"
    assert reason_of(KeyError()) == "KeyError"


class TensorHolder:
    """What a block was being made of."""


def test_a_failed_block_leaves_nothing_on_the_device():
    """An error that is kept keeps its frames, and these the tensors that did not fit into memory."""
    made_of = []

    class Worker(FakeWorker):
        def __init__(self):
            pass

        def read(self, block):
            return None

        def make(self, block, inputs):
            pixels = TensorHolder()
            made_of.append(weakref.ref(pixels))
            try:
                raise MemoryError("inner")
            except MemoryError as error:
                raise RuntimeError("CUDA out of memory") from error

    class Order:
        def new_worker(self):
            return Worker()

    with BlockStages(Order()) as stages:
        stages.worker = Worker()
        future = stages.make(0, stages.read(0))
        assert isinstance(future.exception(), RuntimeError) and str(future.exception().__cause__) == "inner"
        assert made_of[0]() is None


def interrupting(worker_class, block, times, monkeypatch, number=signal.SIGINT):
    real = worker_class.make

    def make(self, made, inputs):
        if made == block:
            for _ in range(times):
                os.kill(os.getpid(), number)
                time.sleep(0.01)  # Python delivers it here
        return real(self, made, inputs)

    monkeypatch.setattr(worker_class, "make", make)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_finishes_the_block_in_hand(tmp_path, workers, monkeypatch, number):
    interrupting(FakeWorker, 5, 1, monkeypatch, number)
    told, before = Told(), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as raised:
        run(tmp_path, told)
    assert raised.type is (Terminated if number == signal.SIGTERM else KeyboardInterrupt), "exit codes differ"
    store = open_store(tmp_path / "s.zarr")
    assert store.missing_blocks() == list(range(6, 16)), "block 5 was in hand, the next was given and not begun"
    assert told.notices == ["Finishing 1 block in progress; press Ctrl-C again to stop at once."]
    assert store.runs()[0]["outcome"] == "interrupted"
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_made_from_stored_images_is_abandoned_at_once(tmp_path, workers, monkeypatch, number):
    interrupting(FakeWorker, 5, 1, monkeypatch, number)
    told = Told()
    with pytest.raises(KeyboardInterrupt) as raised:
        run(tmp_path, told, reads=True)
    assert raised.type is (Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    assert set(range(5, 16)) <= set(open_store(tmp_path / "s.zarr").missing_blocks()) and told.notices == []


def test_the_second_interrupt_stops_at_once(tmp_path, workers, monkeypatch):
    interrupting(FakeWorker, 5, 2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert 5 in open_store(tmp_path / "s.zarr").missing_blocks()


def test_the_run_log_tells_who_made_what_when(tmp_path, workers):
    start = time.time()
    store = run(tmp_path, seconds=(0.0, 0.02, 0.01))
    (log,) = store.runs()
    assert (log["command"], log["options"], log["outcome"]) == ("test", {"an": "option"}, "done")
    assert log["versions"]["torch"] and log["driver"]["pid"] == os.getpid()
    assert log["workers"] == {"w0": {"host": "here", "pid": os.getpid()}}
    assert [row[0] for row in log["blocks"]] == list(range(16))
    for _, worker, made, written, finished in log["blocks"]:
        assert worker == "w0" and made >= 0.02 and written >= 0.01 and start - 1 <= finished <= time.time() + 1


def test_a_run_that_finds_all_done_leaves_no_log(tmp_path, workers):
    store = run(tmp_path)
    with Engine(store, RunOptions(workers=0), "cpu", Told(), "test", {}) as engine:
        engine.run(FakeOrder(store.path, str(tmp_path)), Todo(store.missing_blocks), "test")
    assert len(store.runs()) == 1
