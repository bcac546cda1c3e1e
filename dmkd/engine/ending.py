"""How a run ends: interrupted, given up, or with blocks left out. The same in this process and on Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from dmkd.engine.monitor import Monitor
from dmkd.engine.scheduler import MAX_ATTEMPTS, Scheduler
from dmkd.runtime.interrupts import Interrupts
from dmkd.stores import DmkdError


@contextmanager
def finishing_on_interrupt(scheduler: Scheduler, monitor: Monitor, *, at_once: bool) -> Iterator[Interrupts]:
    """Inside, the first Ctrl-C or SIGTERM lets the scheduler hand out nothing more, and says so. With ``at_once`` it abandons
    what is in progress."""

    def finish() -> bool:
        scheduler.stop()
        if at_once:
            return False
        if count := scheduler.working:
            text = f"Finishing {count} block{'s' if count > 1 else ''} in progress; press Ctrl-C again to stop at once."
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
    """Raise ``DmkdError`` if blocks were set aside, ``KeyboardInterrupt`` if the run was interrupted."""
    if scheduler.set_aside:
        numbers = ", ".join(str(failure.block) for failure in scheduler.set_aside[:10])
        more = f" and {len(scheduler.set_aside) - 10} more" if len(scheduler.set_aside) > 10 else ""
        first = scheduler.set_aside[0]
        raise DmkdError(
            f"{len(scheduler.set_aside)} blocks of {store_path} failed {MAX_ATTEMPTS} times and were left out ({numbers}"
            f"{more}), block {first.block} because of {first.reason.rstrip('.')}. "
            "The others are done; rerun the same command to retry these."
        )
    interrupts.raise_if_interrupted()
