"""Several processes on one store: what others have made is not made again, and who comes later begins where the first one ends.

Nothing is locked. A block that two processes have in hand at once is made twice, with the same bytes, and no process waits for
another one.
"""

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from dmkd.engine.monitor import Monitor
from dmkd.engine.scheduler import Scheduler
from dmkd.runtime.progress import Display
from dmkd.stores import RunLog, Store, StoreUnreachableError
from dmkd.stores.at_work import RunsAtWork

SHARE_OF_TIME = 0.01  # that goes into looking what others have made: a request costs more in a bucket than in a folder


@dataclass(frozen=True)
class Todo:
    """Which blocks an order is to make. Asked again while it is worked off, since other processes may be at them too."""

    missing: Callable[[], Sequence[int]]  # blocks that are not there, ascending
    # Those that can't be made yet, as what they are made from is not there; and whether somebody is making that, so that it
    # pays to wait. What waits for nobody is left out.
    waiting: Callable[[], Collection[int]] = tuple
    expected: Callable[[], bool] = lambda: False


class Others:
    """The other processes at work on a store. Says who they are, once."""

    def __init__(self, store: Store, log: RunLog, display: Display) -> None:
        self._log, self._display = log, display
        self._at_work = RunsAtWork(store.chunks.tree)
        self._known: set[str] = set()

    def before(self) -> int:
        """How many others began before this one."""
        others = self._at_work.besides(self._log.name)
        for run in others:
            if run.name not in self._known:
                self._known.add(run.name)
                self._display.notice(f"Also at work on this store: {run}. Each skips what the other has made.")
        return sum(not self._log.name or run.name < self._log.name for run in others)


class Share:
    """One process's share of a :class:`Todo`: keeps the blocks of a scheduler up to date."""

    def __init__(self, store: Store, todo: Todo, others: Others) -> None:
        self._store, self._todo, self._others = store, todo, others
        expected = todo.expected()
        missing, waiting = set(todo.missing()), set(todo.waiting())
        self.following = expected and not missing.isdisjoint(waiting)
        self._open = missing if self.following else missing - waiting  # neither made nor given to a worker
        self.total = store.num_images - self._ids(() if self.following else missing & waiting)
        self.done = self.total - self._ids(self._open)
        self._due = 0.0

    @property
    def blocks(self) -> int:
        """How many are left to be made, now or later."""
        return len(self._open)

    def hurry(self) -> None:
        """Look again at once. Runs that begin together see each other once their logs are written, which is when a worker is
        ready."""
        self._due = 0.0

    def look(self, scheduler: Scheduler, monitor: Monitor) -> None:
        """Give the scheduler what is left to be made, if it is time to look again."""
        start = time.monotonic()
        if start < self._due:
            return
        try:
            expected = self.following and self._todo.expected()  # asked first: what they made last is listed then
            missing = self._todo.missing()
            waiting = set(self._todo.waiting()) if self.following else ()
            before = self._others.before()
        except StoreUnreachableError:
            self._due = start + 1.0  # whoever reads or writes will say so, if it does not pass
            return
        self._open -= scheduler.given
        if elsewhere := self._open.difference(missing):
            self._open -= elsewhere
            monitor.made_elsewhere(len(elsewhere), self._ids(elsewhere))
        blocks = [block for block in missing if block in self._open and block not in waiting]
        scheduler.renew(_in_order(blocks, before), more=expected and bool(self._open.intersection(waiting)))
        now = time.monotonic()
        self._due = now + min((now - start) / SHARE_OF_TIME, 60.0)

    def _ids(self, blocks: Collection[int]) -> int:
        return sum(len(self._store.block_ids(block)) for block in blocks)


def _in_order(blocks: list[int], before: int) -> list[int]:
    """Blocks in an order that seldom meets that of the ``before`` processes that began earlier: the first one begins at the
    start, the second one at the end, others anywhere."""
    if before > 1:
        return random.sample(blocks, len(blocks))
    return blocks[::-1] if before else blocks
