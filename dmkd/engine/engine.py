"""Making many blocks: in this process, or on Ray actors, with progress, a run log, and Ctrl-C that finishes what is begun.

:class:`Engine` is what commands use. :func:`run_here` is the loop without Ray; ``dmkd.engine.on_ray`` has the one with. Both
ask the same :class:`dmkd.engine.scheduler.Scheduler` what to do next and run the same stages of a block.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from dmkd.engine.monitor import Monitor
from dmkd.engine.scheduler import MAX_ATTEMPTS, GiveBlock, Scheduler
from dmkd.engine.stages import BlockDone, BlockStages, Order, blocks_ahead
from dmkd.runtime.failures import FATAL, DeviceLostError, is_device_lost, reason_of
from dmkd.runtime.interrupts import Interrupts
from dmkd.runtime.progress import Display
from dmkd.runtime.ray_session import ray_session
from dmkd.runtime.versions import library_versions
from dmkd.stores import DmkdError, Store, UsageError


@dataclass(frozen=True)
class RunOptions:
    """Where the work is done."""

    workers: int | None = None  # Ray actors; 0: this process; None: one a GPU if there are several, else 0
    device: str | None = None  # None: the GPU if there is one
    ray_address: str | None = None


class Engine:
    """Makes the blocks of one store for one command. A context, so that Ray and the run log have an end.

    ``command`` and ``options`` (JSON-able) are noted in the run log.
    """

    def __init__(
        self, store: Store, run: RunOptions, device: str, display: Display, command: str, options: Mapping[str, Any]
    ) -> None:
        self.store, self.run_options, self.device, self.display = store, run, device, display
        self.workers = planned_workers(run, device)
        facts = {"command": command, "options": dict(options), "versions": library_versions()}
        self._log = store.log_run(**facts, driver={"host": socket.gethostname(), "pid": os.getpid()})
        self._exits = ExitStack()
        self._on_ray = False

    def __enter__(self) -> "Engine":
        self._exits.enter_context(self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, traceback)

    def run(self, order: Order, blocks: Sequence[int], what: str) -> None:
        """Make blocks, telling progress as ``what``.

        A block that fails three times is set aside and named in the ``DmkdError`` at the end. A full disk or a wrong
        request ends the run at once; Ctrl-C ends it with ``KeyboardInterrupt`` when what is in hand is finished.
        """
        if not blocks:
            return
        todo = sum(len(self.store.block_ids(block)) for block in blocks)
        with self.display.task(what, self.store.num_images, self.store.num_images - todo) as advance:
            monitor = Monitor(self.display, advance, self._log)
            if self.workers == 0:
                run_here(order, blocks, monitor)
            else:
                from dmkd.engine.on_ray import run_on_ray

                if not self._on_ray:  # connected once there is something to do, until the command's end
                    address = self.run_options.ray_address
                    self._exits.enter_context(ray_session(self.workers or 1, self.device, address))
                    self._on_ray = True
                run_on_ray(order, blocks, monitor, workers=self.workers)


def run_here(order: Order, blocks: Sequence[int], monitor: Monitor) -> None:
    """Make blocks in this process: computing on this thread, reading and writing beside it.

    At most two blocks are in memory that are not written. Raises as :meth:`Engine.run` does.
    """
    scheduler = Scheduler(blocks, ahead=blocks_ahead(order))
    given: deque[tuple[int, Future[Any]]] = deque()
    writing: dict[Future[BlockDone], int] = {}
    scheduler.tick(time.monotonic())  # the worker of number 0 is this process
    with BlockStages(order) as stages, finishing_on_interrupt(scheduler, monitor) as interrupts:
        monitor.worker_ready(0, stages.start())
        scheduler.worker_ready(0)
        while not scheduler.finished:
            for action in scheduler.tick(time.monotonic()):
                assert isinstance(action, GiveBlock)
                given.append((action.block, stages.read(action.block)))
            if interrupts.interrupted:
                for block, _ in given:
                    scheduler.block_returned(0, block)
                given.clear()
            if given:
                block, inputs = given.popleft()
                writing[stages.make(block, inputs)] = block
            elif writing:
                wait(writing, return_when="FIRST_COMPLETED")
            else:
                time.sleep(min(1.0, scheduler.next_due(time.monotonic())))
            for future in [future for future in writing if future.done()]:
                _take_in(writing.pop(future), future, scheduler, monitor)
        end_of_run(order.store_path, scheduler, interrupts)


def _take_in(block: int, future: "Future[BlockDone]", scheduler: Scheduler, monitor: Monitor) -> None:
    try:
        done = future.result()
    except FATAL:
        raise
    except Exception as error:
        if is_device_lost(error):
            raise DeviceLostError(
                f"The GPU reported an error after which this process can't use it ({reason_of(error)}): what is finished "
                "is kept; run the same command again."
            ) from error
        monitor.block_failed(0, scheduler.block_failed(0, block, reason_of(error), time.monotonic()))
        give_up_if_hopeless(scheduler)
    else:
        scheduler.block_done(0, block)
        monitor.block_done(0, block, done)


@contextmanager
def finishing_on_interrupt(scheduler: Scheduler, monitor: Monitor) -> Iterator[Interrupts]:
    """Inside, the first Ctrl-C or SIGTERM lets the scheduler hand out nothing more, and says so."""
    from threading import Thread

    def finish() -> bool:
        scheduler.stop()
        if count := scheduler.working:
            text = f"Finishing {count} block{'s' if count > 1 else ''} in hand; press Ctrl-C again to stop at once."
            # On a thread: the one that was interrupted may be in the middle of printing.
            Thread(target=monitor.notice, args=(text,), daemon=True).start()
        return bool(count)

    with Interrupts(finish) as interrupts:
        yield interrupts


def give_up_if_hopeless(scheduler: Scheduler) -> None:
    """Raise ``DmkdError`` if going on makes no sense."""
    if reason := scheduler.hopeless:
        raise DmkdError(f"The run was given up: {reason.rstrip('.')}.")


def end_of_run(store_path: str, scheduler: Scheduler, interrupts: Interrupts) -> None:
    """Raise what a run that is over has to tell: that it was interrupted, or which blocks were set aside."""
    if scheduler.set_aside:
        numbers = ", ".join(str(failure.block) for failure in scheduler.set_aside[:10])
        more = f" and {len(scheduler.set_aside) - 10} more" if len(scheduler.set_aside) > 10 else ""
        first = scheduler.set_aside[0]
        raise DmkdError(
            f"{len(scheduler.set_aside)} blocks of {store_path} failed {MAX_ATTEMPTS} times and were left out ({numbers}"
            f"{more}), block {first.block} because of {first.reason.rstrip('.')}. "
            "The others are done; run the same command again to retry these."
        )
    if interrupts.interrupted:
        raise KeyboardInterrupt


def planned_workers(run: RunOptions, device: str) -> int | None:
    """Ray actors to use; 0: this process; None: as many as the cluster has GPUs.

    Not said: one a GPU where there are several; this process where there is one, or none. Raises ``UsageError``.
    """
    if run.workers is not None:
        if run.workers < 0:
            raise UsageError(f"--workers must be 0 or more, not {run.workers}.")
        if run.workers == 0 and run.ray_address:
            raise UsageError(
                "--workers 0 means this process and does not go with --ray-address: leave one of them out."
            )
        return run.workers
    if run.ray_address:
        if device == "cpu":
            raise UsageError("On a Ray cluster without GPUs say how many actors are to work: --workers N.")
        return None
    import torch

    gpus = torch.cuda.device_count() if device == "cuda" else 0
    return gpus if gpus > 1 else 0
