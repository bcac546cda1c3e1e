"""Making blocks on Ray actors: one actor a GPU, blocks pulled one by one, failures retried elsewhere.

Images never travel through Ray: an actor makes a block and writes it; what comes back is a count.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dmkd.blocks import BlockWorker, WorkOrder
from dmkd.engine import BACK_OFF_SECONDS, BlockDone, Failures
from dmkd.stores import DmkdError, StoreWriteError, UsageError

IN_FLIGHT_PER_ACTOR = 2  # one being made, one waiting, so that an actor never waits for the driver
MAX_ACTOR_STARTS = 3  # failures of an actor in a row, without one block between them, before the run ends


class WorkerStartError(DmkdError):
    """A worker could not load its models."""


class RayBlockWorker:
    """A :class:`BlockWorker` as a Ray actor.

    Models are loaded with the first block, not in the constructor: Ray reduces what a constructor raises to a string.
    """

    def __init__(self, order: WorkOrder) -> None:
        self.order = order
        self.worker: BlockWorker | None = None

    def run(self, block: int) -> tuple[int, float]:
        """Make and write a block -> (images, seconds)."""
        if self.worker is None:
            try:
                self.worker = BlockWorker(self.order)
            except UsageError:
                raise
            except Exception as error:
                raise WorkerStartError(f"{type(error).__name__}: {error}".splitlines()[0]) from None
        start = time.perf_counter()
        return self.worker.run(block), time.perf_counter() - start


def run_on_ray(
    order: WorkOrder,
    blocks: Sequence[int],
    report: Callable[[BlockDone], None],
    *,
    workers: int,
    address: str | None = None,
) -> None:
    """Make blocks on ``workers`` actors of the Ray cluster at ``address`` (None: one started here, and stopped after).

    An actor that dies or can't load its models is replaced and its blocks are made elsewhere; a block that fails three
    times is set aside and named in the ``DmkdError`` at the end. A full disk or a wrong request ends the run at once.
    """
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        gpus = workers if order.device.startswith("cuda") else 0
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers, "num_gpus": gpus}
        ray.init(**options, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        _Dispatcher(order, blocks, report, workers).run()
    finally:
        if started_here:
            ray.shutdown()


class _Dispatcher:
    """The driver's loop: keeps every actor busy, counts failures, and holds nothing that grows but the queue."""

    def __init__(
        self, order: WorkOrder, blocks: Sequence[int], report: Callable[[BlockDone], None], workers: int
    ) -> None:
        import ray

        self.ray = ray
        on_gpu = order.device.startswith("cuda")
        # Each actor sees one GPU only, as its first. A CPU actor asks for no more than one core of Ray's: it sets its
        # number of threads itself, to the one in the recipe, since the number of threads changes pixel values.
        self.order = replace(order, device="cuda") if on_gpu else order
        self.actor_class = ray.remote(num_gpus=1 if on_gpu else 0, num_cpus=1, max_restarts=0)(RayBlockWorker)
        self.report = report
        self.queue = list(reversed(blocks))
        self.not_before: list[tuple[float, int]] = []  # (time, block): failed blocks wait here
        self.failures = Failures()
        self.in_flight: dict[Any, tuple[int, int]] = {}  # future -> (actor number, block)
        self.actors: dict[int, Any] = {}
        self.deaths = 0
        for number in range(workers):
            self.actors[number] = self.actor_class.remote(self.order)

    def run(self) -> None:
        while self.queue or self.not_before or self.in_flight:
            self._hand_out()
            if not self.in_flight:
                time.sleep(0.05)
                continue
            ready, _ = self.ray.wait(list(self.in_flight), timeout=1.0)
            for future in ready:
                self._take_in(future)
        self.failures.raise_if_any(self.order.store_path)

    def _hand_out(self) -> None:
        now = time.monotonic()
        self.queue += [block for due, block in self.not_before if due <= now]
        self.not_before = [(due, block) for due, block in self.not_before if due > now]
        load = dict.fromkeys(self.actors, 0)
        for number, _ in self.in_flight.values():
            load[number] += 1
        while self.queue and min(load.values()) < IN_FLIGHT_PER_ACTOR:
            number = min(load, key=lambda n: load[n])
            block = self.queue.pop()
            self.in_flight[self.actors[number].run.remote(block)] = (number, block)
            load[number] += 1

    def _take_in(self, future: Any) -> None:
        number, block = self.in_flight.pop(future)
        try:
            images, seconds = self.ray.get(future)
        except self.ray.exceptions.RayActorError as error:
            # Only the block in hand can be to blame for a death; those that waited behind it are not.
            self._try_again(block, error)
            self._replace_actor(number, error)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, UsageError | StoreWriteError):
                raise type(cause)(str(cause)) from None
            if isinstance(cause, WorkerStartError):
                self.queue.append(block)
                self._replace_actor(number, cause)
            else:
                self._try_again(block, cause)
        else:
            self.deaths = 0
            self.report(BlockDone(block, images, seconds))

    def _replace_actor(self, number: int, error: BaseException) -> None:
        """The actor is gone: what waited for it goes back, and another takes its place, so many times in a row."""
        self.deaths += 1
        if self.deaths >= MAX_ACTOR_STARTS * len(self.actors):
            raise DmkdError(
                f"The workers failed {self.deaths} times in a row, the last time with: {_first_line(error)}."
            )
        self.queue += [block for n, block in self.in_flight.values() if n == number]
        self.in_flight = {future: work for future, work in self.in_flight.items() if work[0] != number}
        self.ray.kill(self.actors[number])
        self.actors[number] = self.actor_class.remote(self.order)

    def _try_again(self, block: int, error: BaseException) -> None:
        if self.failures.note(block, error):
            pause = BACK_OFF_SECONDS * 2 ** (self.failures.attempts[block] - 1)
            self.not_before.append((time.monotonic() + pause, block))


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
