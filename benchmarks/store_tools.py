"""`dmkd inspect` on a store of 20,000 blocks, and `dmkd convert` from Zarr to HDF5 and back against `cp`.

    python benchmarks/store_tools.py [--json] [--quick]

- inspect: seconds of the command, how many of them go to starting Python and imports, and its peak memory. As many
  blocks as 1.28 million images of 256x256 make; the images are tiny, since inspect reads only a sample.
- convert: MB/s of a store of 256x256 images with 50 views of 1000-class labels, alternating with `cp -r` and `sync`; and
  whether every chunk is the same after a round trip.

--quick: 2,000 blocks, 256 images.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.stores import Store, create_store, parse_codec

DMKD = [sys.executable, "-m", "dmkd.cli.main"]
CLASSES = 1000


def make_store(path: Path, images: int, size: int, block_size: int, views: int, classes: int) -> Store:
    """Random contents, complete."""
    store = create_store(
        str(path),
        recipe={"generator": "benchmark"},
        num_images=images,
        image_shape=(size, size, 3),
        class_names=[str(i) for i in range(classes)],
        block_size=block_size,
    )
    description = {"policy": "rrc", "size": size, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    store.add_view_set("rrc", views, ("top", "left", "height", "width", "flip"), description)
    teacher = {"name": "t", "architecture": "t"}
    codec = parse_codec("float16")
    store.add_label_set("t", teacher=teacher, source="t", view_set="rrc", codec=codec, num_classes=classes)
    rng = np.random.default_rng(0)
    quality = np.zeros((block_size, 3), np.float32)
    for block in range(store.num_blocks):
        n = len(store.block_ids(block))
        store.write_block(
            block,
            images=rng.integers(0, 256, (n, size, size, 3), np.uint8),
            class_ids=rng.integers(0, classes, n).astype(np.int32),
            views={"rrc": np.tile(np.array([0, 0, 1, 1, 0], np.float32), (n, views, 1))},
            labels={"t": (rng.standard_normal((n, views, classes), np.float32), quality[:n])},
        )
    return store


def run(command: Sequence[str]) -> tuple[float, float]:
    """Seconds, and peak memory in MB, of a command."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000


def inspecting(folder: Path, blocks: int) -> dict[str, Any]:
    store = make_store(folder / "many.zarr", 4 * blocks, 4, 4, 1, 10)
    imports = [sys.executable, "-c", "import dmkd.cli.main, dmkd.cli.commands.inspect, dmkd.stores, zarr, rich.table"]
    runs = [(run(imports)[0], *run([*DMKD, "inspect", store.path])) for _ in range(5)]
    importing, whole, memory = (sorted(values)[2] for values in zip(*runs, strict=True))
    return {"blocks": store.num_blocks, "seconds": whole, "of_which_imports": importing, "peak_mb": memory}


def hashes(path: Path) -> dict[str, str]:
    chunks = sorted(file for file in path.rglob("c.*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in chunks}


def converting(folder: Path, images: int) -> dict[str, Any]:
    make_store(folder / "images.zarr", images, 256, 64, 50, CLASSES)
    source, file, back, copy = (folder / name for name in ("images.zarr", "images.h5", "back.zarr", "copy.zarr"))
    megabytes = sum(f.stat().st_size for f in source.rglob("*") if f.is_file()) / 1e6
    seconds: dict[str, list[float]] = {"to_hdf5": [], "to_zarr": [], "cp": []}
    for _ in range(3):
        for target in (file, back, copy):
            if target.exists():
                shutil.rmtree(target) if target.is_dir() else target.unlink()
        os.sync()
        seconds["cp"].append(run(["sh", "-c", f"cp -r {source} {copy} && sync"])[0])
        seconds["to_hdf5"].append(run([*DMKD, "convert", str(source), str(file)])[0])
        seconds["to_zarr"].append(run([*DMKD, "convert", str(file), str(back)])[0])
    rates = {name: megabytes / sorted(each)[1] for name, each in seconds.items()}
    equal = hashes(source) == hashes(back)
    return {"megabytes": megabytes, "mb_per_second": rates, "chunks": len(hashes(source)), "equal": equal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only the last line, as JSON")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inspected = inspecting(Path(folder), 2000 if options.quick else 20_000)
        converted = converting(Path(folder), 256 if options.quick else 2048)
    if not options.json:
        print(
            f"inspect, {inspected['blocks']:,} blocks: {inspected['seconds']:.2f} s, {inspected['of_which_imports']:.2f} s "
            f"of them imports, peak {inspected['peak_mb']:.0f} MB"
        )
        rates = "  ".join(f"{name} {rate:.0f} MB/s" for name, rate in converted["mb_per_second"].items())
        print(
            f"convert, {converted['megabytes']:,.0f} MB: {rates}; {converted['chunks']} chunks, "
            f"{'all equal' if converted['equal'] else 'NOT equal'} after the round trip"
        )
    print(json.dumps({"inspect": inspected, "convert": converted}))


if __name__ == "__main__":
    main()
