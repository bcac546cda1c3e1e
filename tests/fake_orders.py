"""Work orders without models, for tests of the engine: image i of a block is all i, and things go wrong on purpose."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.stores import Store, create_store, open_store


def fake_store(path: Path, num_images: int = 64, block_size: int = 4):
    return create_store(
        str(path),
        recipe={"generator": "fake", "seed": 0},
        num_images=num_images,
        image_shape=(8, 8, 3),
        class_names=[str(i) for i in range(10)],
        block_size=block_size,
    )


@dataclass(frozen=True)
class FakeOrder:
    """``trouble``: block -> what happens to whoever makes it, ``kill`` or the name of an exception; with ``once`` it
    happens the first time only. ``folder`` is where that is remembered, and where each worker notes what it did."""

    store_path: str
    folder: str
    device: str = "cpu"
    reads: bool = False
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)  # to read, make, write
    trouble: dict[int, str] = field(default_factory=dict)
    once: bool = False
    failing_starts: int = 0

    def for_actor(self) -> "FakeOrder":
        return self

    def new_worker(self) -> "FakeWorker":
        return FakeWorker(self)

    def new_writer(self) -> Callable[[int], int]:
        self.first_time("writer")
        return partial(write, open_store(self.store_path))

    def first_time(self, name: str) -> bool:
        try:
            open(os.path.join(self.folder, name), "x").close()
        except FileExistsError:
            return False
        return True


class FakeWorker:
    def __init__(self, order: FakeOrder) -> None:
        for start in range(order.failing_starts):
            if order.first_time(f"start{start}"):
                raise RuntimeError("the weights are on their way")
        self.order, self.store = order, open_store(order.store_path)
        self.threads: dict[str, set[int]] = {"read": set(), "make": set(), "write": set()}
        self.unwritten = self.most_unwritten = 0
        self.events: list[tuple[str, int]] = []

    def facts(self) -> dict[str, Any]:
        return {"host": "here", "pid": os.getpid()}

    def _stage(self, stage: str, block: int) -> None:
        self.threads[stage].add(threading.get_ident())
        self.events.append((f"{stage} begins", block))
        time.sleep(self.order.seconds[("read", "make", "write").index(stage)])
        self.events.append((f"{stage} ends", block))

    def read(self, block: int) -> int:
        self._stage("read", block)
        return block

    def make(self, block: int, inputs: int) -> int:
        assert inputs == block
        trouble = self.order.trouble.get(block)
        if trouble and not (self.order.once and not self.order.first_time(f"block{block}")):
            if trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise_trouble(trouble)
        self.unwritten += 1
        self.most_unwritten = max(self.most_unwritten, self.unwritten)
        self._stage("make", block)
        return block

    def finish(self, made: int) -> int:
        return made

    def write(self, made: int) -> int:
        self._stage("write", made)
        count = write(self.store, made)
        self.unwritten -= 1
        return count


def write(store: Store, block: int) -> int:
    ids = np.array(store.block_ids(block))
    images = np.broadcast_to((ids % 256).astype(np.uint8)[:, None, None, None], (len(ids), 8, 8, 3))
    store.write_block(block, images=np.ascontiguousarray(images), class_ids=(ids % 10).astype(np.int32))
    return len(ids)


def raise_trouble(name: str) -> None:
    if name == "device lost":
        import torch

        raise torch.AcceleratorError(
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"
        )
    if name == "out of memory":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    raise RuntimeError(name)


def main(path: str, folder: str, workers: str, ray_address: str = "", images: str = "160") -> None:
    """Make or finish a store, a fifth of a second for each block of four; for tests that kill processes."""
    from dmkd.cli.display import PlainDisplay
    from dmkd.engine.engine import Engine, RunOptions
    from dmkd.engine.sharing import Todo
    from dmkd.stores import store_exists

    store = open_store(path) if store_exists(path) else fake_store(Path(path), num_images=int(images))
    try:
        run = RunOptions(workers=int(workers), ray_address=ray_address or None)
        with Engine(store, run, "cpu", PlainDisplay(), "test", {}) as engine:
            engine.run(FakeOrder(path, folder, seconds=(0.0, 0.2, 0.01)), Todo(store.missing_blocks), "test")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
