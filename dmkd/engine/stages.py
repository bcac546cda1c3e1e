"""The stages of a block, side by side: one is read, one is made, one is finished and written.

The device should never wait for a disk. Making happens in the thread that calls :meth:`BlockStages.make`, which must be the
one that called ``start``: torch's number of threads is a setting of each thread, and pixels depend on it.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from dmkd.runtime.failures import without_frames


class Worker(Protocol):
    """What makes the blocks of an order.

    A block depends on its number alone, not on who makes it or what was made before. It may be made and written twice (a
    worker that dies leaves it in the dark whether it had finished), so writing must be idempotent, and a block that was
    written by halves must count as missing.

    The stages of one block follow each other; those of different blocks overlap: reading, making, and finishing and writing, each
    on a thread of its own.
    Whatever a stage raises counts as a failed attempt at this block, but for ``dmkd.runtime.failures.FATAL``, which end the
    run, and errors after which a device is lost, which end the process.
    """

    def facts(self) -> dict[str, Any]:
        """JSON-able: machine, device and versions, for the run log."""

    def read(self, block: int) -> Any:
        """What must be read from the store before a block can be made. Called ahead."""

    def make(self, block: int, inputs: Any) -> Any:
        """Compute a block, from what ``read`` gave -> what ``finish`` takes. Always called on one thread, that of
        :meth:`Order.new_worker`."""

    def finish(self, made: Any) -> Any:
        """The rest of the computing, which may go on beside the making of the next block -> what ``write`` takes, on the
        host."""

    def write(self, finished: Any) -> int:
        """Encode and write a block -> how far it takes the progress, in the units of the display's task."""


class Order(Protocol):
    """What is to be made: all that the engine knows of its work. Small and picklable: it travels to workers."""

    @property
    def store_path(self) -> str:
        """Where the blocks are written: named in errors, and decides whether one process must write for all."""

    @property
    def device(self) -> str:
        """``cpu``, ``cuda`` or ``cuda:1``; on Ray each worker asks for a GPU if it begins with ``cuda``."""

    @property
    def reads(self) -> bool:
        """Whether blocks are made from what the store holds, so that reading ahead pays, and an interruption need not wait for
        a block in hand: little is lost."""

    def for_actor(self) -> "Order":
        """The same order in a process that sees one GPU only, as its first."""

    def new_worker(self) -> Worker:
        """Load the models, on the thread that will make the blocks."""

    def new_writer(self) -> Callable[[Any], int]:
        """What writes blocks that workers in other processes have made, as :meth:`Worker.write` does. Loads no models;
        asked for only where one process must write for all."""


def blocks_ahead(order: Order) -> int:
    """Blocks that a worker holds: one made, one written, and where something is read one read."""
    return 3 if order.reads else 2


@dataclass(frozen=True)
class BlockDone:
    """What is known of a block that was written."""

    count: int  # units of progress
    seconds_made: float
    seconds_written: float


class BlockStages:
    """A worker of ``order``, its stages overlapping. A context: leaving it finishes the writing that was begun."""

    def __init__(self, order: Order, write: Callable[[Any], int] | None = None) -> None:
        """``write`` takes the place of the worker's own, where another process is to write."""
        self.order, self._write_made = order, write
        self._reader = ThreadPoolExecutor(1, "block-reader")
        self._writer = ThreadPoolExecutor(1, "block-writer")

    def __enter__(self) -> "BlockStages":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        at_once = kind is not None and issubclass(kind, KeyboardInterrupt)
        for thread in (self._reader, self._writer):
            thread.shutdown(wait=not at_once, cancel_futures=at_once)

    def start(self) -> dict[str, Any]:
        """Load the models -> the worker's facts."""
        self.worker = self.order.new_worker()
        return self.worker.facts()

    def read(self, block: int) -> "Future[Any]":
        """Begin to read what a block is made from."""
        return self._reader.submit(self.worker.read, block)

    def make(self, block: int, inputs: "Future[Any]") -> "Future[BlockDone]":
        """Compute a block here, then begin to finish and write it. What goes wrong in any stage is in the future."""
        try:
            read = inputs.result()
            start = time.perf_counter()
            made = self.worker.make(block, read)
        except Exception as error:
            failed: Future[BlockDone] = Future()
            failed.set_exception(without_frames(error))
            return failed
        return self._writer.submit(self._write, made, time.perf_counter() - start)

    def _write(self, made: Any, seconds_made: float) -> BlockDone:
        start = time.perf_counter()
        finished = self.worker.finish(made)
        then = time.perf_counter()
        count = (self._write_made or self.worker.write)(finished)
        return BlockDone(count, seconds_made + then - start, time.perf_counter() - then)
