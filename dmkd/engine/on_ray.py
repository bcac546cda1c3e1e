"""Making blocks on Ray actors: one actor a GPU, blocks pulled one by one, failures retried elsewhere.

What is made does not travel through Ray: an actor makes a block and writes it; what comes back is a count and two times.
Only where the store is one HDF5 file, blocks go through Ray to the one process that writes it, on the driver's machine: file
locks, by which writers on one machine take turns, are not to be relied on between machines.

An actor is given blocks once its ``start`` has answered. One that has no place in the cluster yet is waited for by nobody:
to an autoscaler it is the demand for a machine. One that dies is replaced by another one, at once or when there is room.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from dmkd.engine.ending import end_of_run, finishing_on_interrupt, give_up_if_hopeless
from dmkd.engine.monitor import Monitor
from dmkd.engine.scheduler import Scheduler, StartWorker
from dmkd.engine.sharing import Share
from dmkd.engine.stages import BlockDone, BlockStages, Order, blocks_ahead
from dmkd.runtime.failures import FATAL, DeviceLostError, WorkerStartError, is_device_lost, reason_of
from dmkd.stores import DmkdError, UsageError
from dmkd.stores.trees.tree import open_tree

POLL_SECONDS = 10.0  # between two looks at the cluster
EXIT_SECONDS = 2.0  # for the driver to hear of a lost device before its process is gone


class StoreWriter:
    """The one process that writes a store with one writer. If it dies, Ray starts it again and writes what was not written."""

    def __init__(self, order: Order) -> None:
        self._write = order.new_writer()

    def write(self, made: Any) -> int:
        """As :meth:`dmkd.engine.stages.Worker.write`."""
        return self._write(made)


class RayBlockWorker:
    """The stages of a block in an actor. Its calls run on several threads; models are used on one alone.

    Models are loaded in :meth:`start`, not in the constructor: Ray reduces what a constructor raises to a string.
    """

    def __init__(self, order: Order, writer: Any = None) -> None:
        """``writer``: the actor that writes; None: this one does."""
        self._stages = BlockStages(order, partial(_write_by, writer) if writer is not None else None)
        self._compute = ThreadPoolExecutor(1, "block-compute")
        self._stopping = False

    def start(self) -> dict[str, Any]:
        """Load the models -> the worker's facts."""
        try:
            return self._compute.submit(self._stages.start).result()
        except UsageError:
            raise
        except Exception as error:
            raise WorkerStartError(reason_of(error)) from None

    def run(self, block: int) -> BlockDone | None:
        """Make and write a block; None if it was not begun because :meth:`stop` was called."""
        inputs = self._stages.read(block)
        try:
            writing = self._compute.submit(self._make, block, inputs).result()
            return writing and writing.result()
        except Exception as error:
            if not is_device_lost(error):
                raise
            # Only another process can use this GPU again. The driver ends this one when it hears of it.
            timer = threading.Timer(EXIT_SECONDS, os._exit, (1,))
            timer.daemon = True
            timer.start()
            raise DeviceLostError(reason_of(error)) from None

    def stop(self) -> None:
        """Begin no further block."""
        self._stopping = True

    def _make(self, block: int, inputs: Any) -> Any:
        return None if self._stopping else self._stages.make(block, inputs)


def _write_by(writer: Any, made: Any) -> int:
    """Let another actor write, and raise what it raises."""
    import ray

    try:
        return ray.get(writer.write.remote(made))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def run_on_ray(order: Order, share: Share, monitor: Monitor, *, workers: int | None) -> None:
    """Make blocks on ``workers`` actors of the Ray that is connected; None: one for each GPU that the cluster has, also for
    those that it gets later. Raises as :meth:`dmkd.engine.engine.Engine.run` does."""
    driver = _Driver(order, share, monitor, workers)
    try:
        driver.run()
    finally:
        driver.end()


class _Driver:
    """Carries out what the scheduler says, and reports back to it. Holds nothing that grows but the queue."""

    def __init__(self, order: Order, share: Share, monitor: Monitor, workers: int | None) -> None:
        import ray

        self.ray, self.share, self.monitor = ray, share, monitor
        on_gpu = order.device.startswith("cuda")
        # Each actor sees one GPU only, as its first. A CPU actor asks for no more than one core of Ray's: it sets its
        # number of threads itself, to the one in the recipe, since the number of threads changes pixel values.
        self.order = order.for_actor()
        ahead = blocks_ahead(order)
        self.actor_class = ray.remote(RayBlockWorker).options(
            num_gpus=1 if on_gpu else 0, num_cpus=1, max_restarts=0, max_concurrency=ahead + 1
        )
        self.follow_cluster = workers is None
        self.node = ray.get_runtime_context().get_node_id()
        self.polled_at = time.monotonic()
        self.scheduler = Scheduler(workers=self._gpus() if workers is None else workers, ahead=ahead)
        share.look(self.scheduler, monitor)
        self.actors: dict[int, Any] = {}
        self.writer = self._start_writer() if open_tree(order.store_path).one_writer else None
        self.calls: dict[Any, tuple[int, int | None]] = {}  # future -> (worker, block; None: its start)

    def run(self) -> None:
        scheduler, stopped = self.scheduler, False
        with finishing_on_interrupt(scheduler, self.monitor, at_once=self.order.reads) as interrupts:
            while not scheduler.finished:
                if interrupts.interrupted and not stopped:
                    stopped = True
                    for actor in self.actors.values():
                        actor.stop.remote()
                self._poll()
                self.share.look(scheduler, self.monitor)
                for action in scheduler.tick(time.monotonic()):
                    if isinstance(action, StartWorker):
                        self._start(action.worker)
                    else:
                        self.calls[self.actors[action.worker].run.remote(action.block)] = (action.worker, action.block)
                self.monitor.starting(scheduler.starting)
                give_up_if_hopeless(scheduler)
                self._wait()
            end_of_run(self.order.store_path, scheduler, interrupts)

    def end(self) -> None:
        """End all actors."""
        for actor in [*self.actors.values(), *([self.writer] if self.writer else [])]:
            with suppress(Exception):  # Ray may be gone before its actors
                self.ray.kill(actor)

    def _start_writer(self) -> Any:
        """On this machine, where the file is known to lie."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
        return self.ray.remote(StoreWriter).options(**options).remote(self.order)

    def _wait(self) -> None:
        """Wait until something is answered, or is due, and take it in."""
        seconds = min(1.0, self.scheduler.next_due(time.monotonic()))
        if not self.calls:
            time.sleep(seconds)
            return
        futures = list(self.calls)
        if self.ray.wait(futures, timeout=seconds)[0]:
            ready, _ = self.ray.wait(futures, num_returns=len(futures), timeout=0)
            for future in ready:
                if future in self.calls:  # not, if its worker was found to be gone just now
                    self._take_in(future)

    def _start(self, worker: int) -> None:
        actor: Any = self.actor_class.remote(self.order, self.writer)
        self.actors[worker] = actor
        self.calls[actor.start.remote()] = (worker, None)

    def _take_in(self, future: Any) -> None:
        worker, block = self.calls.pop(future)
        try:
            answer = self.ray.get(future)
        except self.ray.exceptions.RayActorError as error:
            self._gone(worker, _cause_of_death(error), preempted=getattr(error, "preempted", False))
        except self.ray.exceptions.RayTaskError as error:
            self._failed(worker, block, error.cause)
        else:
            if block is None:
                self.scheduler.worker_ready(worker)
                self.monitor.worker_ready(worker, answer)
                self.share.hurry()
            elif answer is None:
                self.scheduler.block_returned(worker, block)
            else:
                self.scheduler.block_done(worker, block)
                self.monitor.block_done(worker, block, answer)

    def _failed(self, worker: int, block: int | None, cause: BaseException) -> None:
        if isinstance(cause, FATAL):
            raise type(cause)(str(cause)) from None
        reason = reason_of(cause)
        if block is None or isinstance(cause, DeviceLostError):
            self._gone(worker, reason, blamed=block)
        else:
            self.monitor.block_failed(worker, self.scheduler.block_failed(worker, block, reason, time.monotonic()))

    def _gone(self, worker: int, reason: str, blamed: int | None = None, preempted: bool = False) -> None:
        """A worker is gone, or is of no use any more: what it had goes back, and the scheduler will start another one."""
        self.calls = {future: call for future, call in self.calls.items() if call[0] != worker}
        with suppress(Exception):  # it may be dead already
            self.ray.kill(self.actors[worker])
        del self.actors[worker]
        failures = self.scheduler.worker_gone(worker, reason, time.monotonic(), blamed=blamed, preempted=preempted)
        for failure in failures:
            self.monitor.block_failed(worker, failure)
        self.monitor.worker_gone(worker, reason)

    def _poll(self) -> None:
        if time.monotonic() - self.polled_at < POLL_SECONDS:
            return
        self.polled_at = time.monotonic()
        if not any(node["Alive"] for node in self.ray.nodes() if node["NodeID"] == self.node):
            # Actors die with their driver's node, and new ones would wait for a place for ever.
            raise DmkdError(
                "Ray has died on this machine (its raylet was killed, or had no memory left): what is finished is kept; "
                "rerun the same command to resume."
            )
        if self.follow_cluster:
            self.scheduler.want_workers(self._gpus())

    def _gpus(self) -> int:
        """At least one, so that a cluster without GPUs at present has something to grow for."""
        return max(1, int(self.ray.cluster_resources().get("GPU", 0)))


def _cause_of_death(error: BaseException) -> str:
    """Why an actor died, in one line: of the many that Ray says, the last that names a cause, without the guesses after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "exit" in line.lower() or "died because" in line or "OOM" in line]
    cause = (causes or lines or [type(error).__name__])[-1]
    return cause.partition(" Some common causes include")[0].rstrip(".")
