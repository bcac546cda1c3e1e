"""What the block engine costs: over the bare loop, for each block, in the driver's memory; and what a second worker gains.

    python benchmarks/engine.py [--json] [--quick]

- overhead: `generate` with the bundled digits through the engine (stages, store, run log), over the same sampling and
  labelling in a plain loop that writes nothing. Same process, same models, taking turns; the median of the rounds.
- a block: workers that do nothing make 2,000 and 20,000 blocks (1.28 million images at 256x256 are 20,000), each in a
  process of its own: seconds, and the driver's peak memory, in-process and on Ray. And what writing a small block costs.
- two workers: a generator that sleeps, on one Ray actor and on two, counted once both work.

--quick takes under a minute on a quiet machine: fewer rounds, and 20,000 blocks in-process only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.engine.engine import Engine, RunOptions
from dmkd.engine.sharing import Todo
from dmkd.engine.stages import Order
from dmkd.runtime.progress import Silent
from dmkd.stores import Store, create_store, open_store


@dataclass(frozen=True)
class Given:
    """An order with a ready worker: only the blocks are timed, not the loading."""

    store_path: str
    worker: Any
    device: str = "cpu"
    reads: bool = False

    def for_actor(self) -> "Given":
        raise AssertionError("models stay in this process")

    def new_worker(self) -> Any:
        return self.worker

    def new_writer(self) -> Callable[[Any], int]:
        return self.worker.write


@dataclass(frozen=True)
class Sleeping:
    """An order whose blocks take ``seconds`` to make, hold nothing and are not written."""

    store_path: str
    images: int
    seconds: float = 0.0
    device: str = "cpu"
    reads: bool = False

    def for_actor(self) -> "Sleeping":
        return self

    def new_worker(self) -> "Sleeping":
        return self

    def new_writer(self) -> Callable[[int], int]:
        return self.write

    def facts(self) -> dict[str, Any]:
        return {"pid": os.getpid()}

    def read(self, block: int) -> None:
        pass

    def make(self, block: int, inputs: None) -> int:
        time.sleep(self.seconds)
        return block

    def write(self, made: int) -> int:
        return self.images


def run(store: Store, order: Order, blocks: range, workers: int = 0) -> float:
    """Seconds that the engine takes for these blocks, whatever the store holds."""
    start = time.perf_counter()
    with Engine(store, RunOptions(workers=workers), "cpu", Silent(), "benchmark", {}) as engine:
        engine.run(order, Todo(lambda: blocks), "benchmark")
    return time.perf_counter() - start


# Overhead over the bare loop


def overhead(folder: Path, rounds: int, blocks: int) -> dict[str, Any]:
    from dmkd.generate import ImageOptions, LabelOptions, generate
    from dmkd.generators.sources import parse_source
    from dmkd.making.blocks import WorkOrder
    from dmkd.runtime.devices import default_cpu_threads

    path, size = str(folder / "digits.zarr"), 64
    images = ImageOptions(generator="digits", images=blocks * size, block_size=size)
    store, labels = generate(path, images, LabelOptions(), RunOptions(workers=0, device="cpu"), Silent())
    order = WorkOrder(path, tuple(labels), "cpu", default_cpu_threads(), parse_source("digits").weights)
    worker = order.new_worker()

    def bare() -> None:
        for block in range(blocks):
            worker.make(block, None)

    def through_engine() -> None:
        run(store, Given(path, worker), range(blocks))

    pairs = [(timed(through_engine), timed(bare)) for _ in range(rounds)]
    ratios = [engine[0] / plain[0] for engine, plain in pairs]
    return {
        "overhead_ratio": statistics.median(ratios),
        "overhead_ratios": ratios,
        "overhead_cpu_ratio": statistics.median(engine[1] / plain[1] for engine, plain in pairs),
        "bare_ms_per_block": 1e3 * statistics.median(plain[0] for _, plain in pairs) / blocks,
    }


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and of this process's CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


# Cost of a block


def many_blocks(blocks: int, workers: int) -> dict[str, float]:
    """Make this many empty blocks, in a process of their own -> seconds and its peak memory, in MB."""
    command = [sys.executable, __file__, "--driver", str(blocks), "--workers", str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def drive(blocks: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = tiny_store(Path(folder), blocks, 1)
        if workers:
            import ray

            ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
        seconds = run(store, Sleeping(store.path, images=1), range(blocks), workers)
        peak = peak_mb()
    print(json.dumps({"blocks": blocks, "workers": workers, "seconds": seconds, "peak_mb": peak}))


def peak_mb() -> float:
    """This process's peak resident memory since it was executed; ``ru_maxrss`` would include its parent's."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def writing(folder: Path, blocks: int = 300) -> float:
    """Milliseconds to write a block of sixteen 8x8 images and their classes."""
    store = tiny_store(folder, blocks, 16)
    images, class_ids = np.ones((16, 8, 8, 3), np.uint8), np.zeros(16, np.int32)
    start = time.perf_counter()
    for block in range(blocks):
        store.write_block(block, images=images, class_ids=class_ids)
    return (time.perf_counter() - start) / blocks * 1e3


def tiny_store(folder: Path, blocks: int, block_size: int) -> Store:
    return create_store(
        str(folder / f"tiny{blocks}.zarr"),
        recipe={"generator": "nothing"},
        num_images=blocks * block_size,
        image_shape=(8, 8, 3),
        class_names=["0"],
        block_size=block_size,
    )


# Two workers


def two_workers(folder: Path, blocks: int, seconds: float) -> float:
    """Blocks a second of two actors over those of one, from when all of them work."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    rates = []
    for workers in (1, 2):
        (folder / str(workers)).mkdir()
        store = tiny_store(folder / str(workers), blocks, 1)
        run(store, Sleeping(store.path, images=1, seconds=seconds), range(blocks), workers)
        rows = open_store(store.path).runs()[0]["blocks"]
        both_work = max(min(row[4] for row in rows if row[1] == name) for name in {row[1] for row in rows})
        last = max(row[4] for row in rows)
        rates.append(sum(row[4] > both_work for row in rows) / (last - both_work))
    ray.shutdown()
    return rates[1] / rates[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--driver", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.driver:
        drive(arguments.driver, arguments.workers)
        return

    quick = arguments.quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = overhead(folder, rounds=3 if quick else 7, blocks=2 if quick else 6)
        result["write_ms"] = writing(folder)
        runs = [
            many_blocks(blocks, workers) for workers in ((0,) if quick else (0, 1, 2)) for blocks in (2_000, 20_000)
        ]
        result["two_worker_speedup"] = two_workers(folder, 40 if quick else 100, 0.2)
    last = {run["blocks"]: run for run in runs}  # those with the most workers
    result["ms_per_block"] = 1e3 * runs[1]["seconds"] / 20_000
    result |= {f"driver_rss_mb_{blocks}": last[blocks]["peak_mb"] for blocks in (2_000, 20_000)}
    result["driver_runs"] = runs
    if not arguments.json:
        print_table(result)
    print(json.dumps({key: rounded(value) for key, value in result.items()}))


def print_table(result: dict[str, Any]) -> None:
    ratios = ", ".join(f"{ratio:.3f}" for ratio in result["overhead_ratios"])
    print(f"engine / bare loop, digits      {result['overhead_ratio']:.3f}   (rounds: {ratios})")
    print(f"  the same in CPU time          {result['overhead_cpu_ratio']:.3f}")
    print(f"  a block in the bare loop      {result['bare_ms_per_block']:,.0f} ms")
    print(f"write a small block             {result['write_ms']:.2f} ms")
    print("empty blocks:")
    for each in result["driver_runs"]:
        where = f"{each['workers']} Ray actors" if each["workers"] else "in-process"
        print(
            f"  {each['blocks']:>6,} {where:<14}{each['seconds']:>8.1f} s {1e3 * each['seconds'] / each['blocks']:>7.2f} ms "
            f"a block, driver's peak {each['peak_mb']:,.0f} MB"
        )
    print(f"two workers / one               {result['two_worker_speedup']:.2f}")


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return {key: rounded(each) for key, each in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    main()
