"""Images a second of two stores mixed, beside one store of as many images.

    python benchmarks/mixture.py [--images 60000] [--size 32] [--batch 256] [--rounds 7] [--quick] [--json]

The stores are as ``loader.py`` makes them: natural-looking images, labels of two stored views of 1,000 classes. Epochs of one
store, of its two halves by their images, and of the halves one to three take turns. Reported are medians, also of the images a
second of CPU time, which a busy machine does not lower; and how far a part of any batch was from its share, in images. Two
threads in all; everything is in memory.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from loader import make_data

import dmkd

THREADS = 2


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    paths = {}
    for name, images in (("one", options.images), ("left", options.images // 2), ("right", options.images // 2)):
        (folder / name).mkdir()
        make_data(folder / name, options.size, images, views=2, codec="float16")
        paths[name] = str(folder / name / "store.zarr")
    same: dict[str, Any] = {"batch_size": options.batch, "device": "cpu", "threads": THREADS}
    loaders = {
        "one": dmkd.loader(paths["one"], **same),
        "by_images": dmkd.loader([paths["left"], paths["right"]], **same),
        "one_to_three": dmkd.loader([paths["left"], (paths["right"], 3)], **same),
    }
    rates: dict[str, list[list[float]]] = {name: [] for name in loaders}  # images a second, and a second of CPU time
    off = 0.0
    for epoch in range(options.rounds + 2):
        for name, loader in loaders.items():
            start, cpu, seen = time.perf_counter(), time.process_time(), 0
            for batch in loader.epoch(epoch):
                seen += len(batch)
                if name == "one_to_three":
                    off = max(off, abs(len(batch.parts[0]) - len(batch) / 4))
            rates[name].append([seen / (time.perf_counter() - start), seen / (time.process_time() - cpu)])
    measured = {name: np.array(of_epochs[2:]) for name, of_epochs in rates.items()}  # checksums come first
    ratios = {name: np.median(rate / measured["one"], axis=0) for name, rate in measured.items()}
    return {
        "images_per_second": {name: round(float(np.median(rate[:, 0]))) for name, rate in measured.items()},
        "ratio": {name: round(float(ratio[0]), 3) for name, ratio in ratios.items()},
        "cpu_ratio": {name: round(float(ratio[1]), 3) for name, ratio in ratios.items()},
        "images_off_share": round(off, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="8,000 images, 3 rounds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds = 8_000, 3
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    if options.json:
        print(json.dumps(result))
        return
    for name, rate in result["images_per_second"].items():
        print(
            f"{name:<14}{rate:>12,} images/s   {result['ratio'][name]:.3f}   of CPU time {result['cpu_ratio'][name]:.3f}"
        )
    print(f"A store's part of a batch was {result['images_off_share']} images from its share at most.")


if __name__ == "__main__":
    main()
