"""Making blocks in this process: computing on this thread, reading and writing beside it."""

import time
from collections import deque
from concurrent.futures import Future, wait
from typing import Any

from dmkd.engine.ending import end_of_run, finishing_on_interrupt, give_up_if_hopeless
from dmkd.engine.monitor import Monitor
from dmkd.engine.scheduler import GiveBlock, Scheduler
from dmkd.engine.sharing import Share
from dmkd.engine.stages import BlockDone, BlockStages, Order, blocks_ahead
from dmkd.runtime.failures import FATAL, DeviceLostError, is_device_lost, reason_of


def run_here(order: Order, share: Share, monitor: Monitor) -> None:
    """Make blocks. At most two are in memory that are not written. Raises as :meth:`dmkd.engine.engine.Engine.run` does."""
    scheduler = Scheduler(ahead=blocks_ahead(order))
    share.look(scheduler, monitor)
    given: deque[tuple[int, Future[Any]]] = deque()
    writing: dict[Future[BlockDone], int] = {}
    scheduler.tick(time.monotonic())  # the worker of number 0 is this process
    with BlockStages(order) as stages, finishing_on_interrupt(scheduler, monitor, at_once=order.reads) as interrupts:
        monitor.worker_ready(0, stages.start())
        scheduler.worker_ready(0)
        share.hurry()
        while not scheduler.finished:
            share.look(scheduler, monitor)
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
                "is kept; rerun the same command to resume."
            ) from error
        monitor.block_failed(0, scheduler.block_failed(0, block, reason_of(error), time.monotonic()))
        give_up_if_hopeless(scheduler)
    else:
        scheduler.block_done(0, block)
        monitor.block_done(0, block, done)
