"""Who makes which block next, and what follows when a block or a worker fails. Pure bookkeeping: no Ray, no threads,
no clock; ``in_process`` and ``on_ray`` report to it what happened and do what :meth:`Scheduler.tick` says.

A worker is first *starting* (it waits for a GPU, or loads its models), then *ready*, then perhaps gone. Blocks are given
to ready workers only, a few to each, so that it never waits for the next one.

Whose fault is it? A block that raises is counted. When a worker dies, any of its blocks may have killed it: the oldest
is counted, and all of them are made alone the next time, one at a time on an idle worker, so that a block that kills
its worker is found out and none is blamed for its neighbour more than once. A block with three counts is set aside.
"""

import heapq
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

MAX_ATTEMPTS = 3  # of a block, before it is set aside
MAX_STARTS = 3  # of a worker in a row, before it counts as hopeless
HOPELESS_BLOCKS = 10  # set aside without a single one done: nothing works here
BACK_OFF_SECONDS = 1.0  # before a second attempt; doubles
MAX_BACK_OFF_SECONDS = 60.0


@dataclass(frozen=True)
class StartWorker:
    """Start a worker of this number."""

    worker: int


@dataclass(frozen=True)
class GiveBlock:
    """Give a block to a ready worker."""

    worker: int
    block: int


@dataclass(frozen=True)
class Failure:
    """An attempt at a block that counts."""

    block: int
    reason: str
    attempt: int

    @property
    def set_aside(self) -> bool:
        """Whether it was the last one."""
        return self.attempt >= MAX_ATTEMPTS


@dataclass
class _Worker:
    slot: "_Slot"
    ready: bool = False
    blocks: list[int] = field(default_factory=list)  # given and not answered, the oldest first
    alone: bool = False  # its one block is suspected of having killed a worker


@dataclass
class _Slot:
    """Room for one worker: who holds it, and how often in a row a start failed."""

    worker: int | None = None
    failed_starts: int = 0
    not_before: float = 0.0


class Scheduler:
    """Hands ``blocks`` to ``workers`` workers, up to ``ahead`` to each. Times are seconds of any clock that only grows."""

    def __init__(self, blocks: Iterable[int] = (), *, workers: int = 1, ahead: int = 2) -> None:
        self.ahead = ahead
        self.stopping = False
        self.done = 0
        self.set_aside: list[Failure] = []
        self.given: set[int] = set()  # each block that was ever given to a worker
        self._fresh = array("I", blocks)
        self._next_fresh = 0
        self._more = False
        self._again: deque[int] = deque()
        self._alone: deque[int] = deque()
        self._later: list[tuple[float, int]] = []  # heap of (due, block)
        self._suspects: set[int] = set()  # to be made alone
        self._attempts: dict[int, int] = {}  # of blocks that failed and are not done yet
        self._workers: dict[int, _Worker] = {}
        self._slots: list[_Slot] = []
        self._started = 0
        self._last_start_error = ""
        self.want_workers(workers)

    # What happened

    def want_workers(self, count: int) -> None:
        """There is room for ``count`` workers now. Room that is gone again does no harm: a worker waits for it."""
        self._slots += [_Slot() for _ in range(count - len(self._slots))]

    def renew(self, blocks: Iterable[int], *, more: bool = False) -> None:
        """These are the blocks to be made now, in this order; those that were given before are not given anew. ``more``: others
        may be added later, so it pays to wait."""
        self._fresh = array("I", (block for block in blocks if block not in self.given))
        self._next_fresh = 0
        self._more = more

    def worker_ready(self, worker: int) -> None:
        self._workers[worker].ready = True
        self._workers[worker].slot.failed_starts = 0

    def worker_gone(
        self, worker: int, reason: str, now: float, *, blamed: int | None = None, preempted: bool = False
    ) -> list[Failure]:
        """A worker died, or could not start -> the failure that counts, if any.

        ``blamed`` is the block that is known to have caused it; ``preempted``: its machine was taken away, nobody's fault.
        """
        gone = self._workers.pop(worker)
        gone.slot.worker = None
        if preempted:
            self._again.extend(gone.blocks)
            return []
        if not gone.ready:
            self._last_start_error = reason
            gone.slot.not_before = now + _back_off(gone.slot.failed_starts)
            gone.slot.failed_starts += 1
            return []
        if blamed is None and gone.blocks:
            blamed = gone.blocks[0]
            self._suspects.update(gone.blocks)
        self._again.extend(block for block in gone.blocks if block != blamed and block not in self._suspects)
        self._alone.extend(block for block in gone.blocks if block != blamed and block in self._suspects)
        return [] if blamed is None else [self._count(blamed, reason, now)]

    def block_done(self, worker: int, block: int) -> None:
        self._forget(worker, block)
        self.done += 1
        self._attempts.pop(block, None)
        self._suspects.discard(block)

    def block_failed(self, worker: int, block: int, reason: str, now: float) -> Failure:
        self._forget(worker, block)
        return self._count(block, reason, now)

    def block_returned(self, worker: int, block: int) -> None:
        """A worker gave a block back without having begun it."""
        self._forget(worker, block)
        self._again.append(block)

    def stop(self) -> None:
        """Hand out nothing more; what workers have in hand may still be reported."""
        self.stopping = True

    # What to do

    def tick(self, now: float) -> list[StartWorker | GiveBlock]:
        """What is to be done now: workers to start, blocks to give."""
        if self.stopping:
            return []
        while self._later and self._later[0][0] <= now:
            _, block = heapq.heappop(self._later)
            (self._alone if block in self._suspects else self._again).append(block)
        return [*self._starts(now), *self._gifts()]

    @property
    def finished(self) -> bool:
        """Nothing is in hand, and nothing is left to give (or to be given any more)."""
        return not self.working and (self.stopping or not (self._more or self._anything_left()))

    @property
    def hopeless(self) -> str | None:
        """Why going on makes no sense, or None: no worker works and each failed to start, or no block succeeds."""
        if self.set_aside and not self.done and len(self.set_aside) >= HOPELESS_BLOCKS:
            return f"none succeeded and {len(self.set_aside)} failed, the last with: {self.set_aside[-1].reason}"
        if any(worker.ready for worker in self._workers.values()):
            return None
        if self._slots and all(slot.failed_starts >= MAX_STARTS for slot in self._slots):
            return f"the workers could not start, {MAX_STARTS} times in a row: {self._last_start_error}"
        return None

    @property
    def working(self) -> int:
        """Workers that have a block in hand."""
        return sum(bool(worker.blocks) for worker in self._workers.values())

    @property
    def starting(self) -> int:
        """Workers that were started and are not ready: they load models, or wait for a free GPU."""
        return sum(not worker.ready for worker in self._workers.values())

    def next_due(self, now: float) -> float:
        """Seconds until something waits no longer: a block to be tried again, or a worker to be started again."""
        due = [self._later[0][0]] if self._later else []
        due += [slot.not_before for slot in self._slots if slot.worker is None and slot.not_before > now]
        return max(0.0, min(due) - now) if due else float("inf")

    # Below: starting and giving

    def _starts(self, now: float) -> Iterator[StartWorker]:
        for slot in self._slots:
            if slot.worker is None and slot.not_before <= now and self._anything_left():
                slot.worker, self._started = self._started, self._started + 1
                self._workers[slot.worker] = _Worker(slot)
                yield StartWorker(slot.worker)

    def _gifts(self) -> Iterator[GiveBlock]:
        """Blocks for ready workers, one to each before any gets a second."""
        ready = [number for number, worker in self._workers.items() if worker.ready and not worker.alone]
        ready.sort(key=lambda number: len(self._workers[number].blocks))
        # While blocks wait to be made alone, the workers with the least in hand get no others until they are idle.
        reserved = ready[: len(self._alone)]
        for number in reserved:
            if not self._workers[number].blocks:
                self._workers[number].alone = True
                yield self._give(number, self._alone.popleft())
        for load in range(self.ahead):
            for number in ready[len(reserved) :]:
                if len(self._workers[number].blocks) <= load and (block := self._take()) is not None:
                    yield self._give(number, block)

    def _give(self, worker: int, block: int) -> GiveBlock:
        self._workers[worker].blocks.append(block)
        return GiveBlock(worker, block)

    def _take(self) -> int | None:
        if self._again:
            return self._again.popleft()
        if self._next_fresh < len(self._fresh):
            block = self._fresh[self._next_fresh]
            self._next_fresh += 1
            self.given.add(block)
            return block
        return None

    def _anything_left(self) -> bool:
        return bool(self._again or self._alone or self._later or self._next_fresh < len(self._fresh))

    def _forget(self, worker: int, block: int) -> None:
        self._workers[worker].blocks.remove(block)
        self._workers[worker].alone = False

    def _count(self, block: int, reason: str, now: float) -> Failure:
        failure = Failure(block, reason, self._attempts.get(block, 0) + 1)
        self._attempts[block] = failure.attempt
        if failure.set_aside:
            self.set_aside.append(failure)
            del self._attempts[block]
        else:
            heapq.heappush(self._later, (now + _back_off(failure.attempt - 1), block))
        return failure


def _back_off(failures_before: int) -> float:
    return min(MAX_BACK_OFF_SECONDS, BACK_OFF_SECONDS * 2**failures_before)
