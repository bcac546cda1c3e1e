"""`dmkd pack` on a store of 20,480 small blocks: files, bytes, and what reading it costs before and after.

    python benchmarks/pack.py [--json] [--quick]

- files, megabytes and inodes of the store, loose and packed; seconds that packing takes, beside `cp -r` of the same store.
- images/s of the loader (96x96, mapped, batch 256, two threads, labels included) from both, epochs taking turns, the files in
  the page cache; ``loader_ratio`` is packed over loose, the median of the pairs.
- seconds of `dmkd inspect` and of `dmkd verify` on both.
- requests to a bucket (moto's S3 server, in this process) to open, inspect, read 100 random images, and load one epoch, of a
  twentieth of the store, loose and packed; megabytes that came.

--quick: 1,024 blocks.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from store_tools import DMKD, make_store

SIZE, BLOCK_SIZE, VIEWS, CLASSES = 96, 2, 4, 100
BATCH = 256
ROUNDS = 7


def files_of(path: Path) -> dict[str, float]:
    files = [file for file in path.rglob("*") if file.is_file()]
    folders = sum(one.is_dir() for one in path.rglob("*"))
    size = sum(file.stat().st_size for file in files)
    return {"files": len(files), "folders": folders, "mb": round(size / 1e6, 1)}


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return round(time.perf_counter() - start, 2)


def loader_rates(paths: dict[str, Path]) -> dict[str, Any]:
    """Images a second of each store, epoch about."""
    import dmkd

    loaders = {
        name: dmkd.loader(str(path), "t", batch_size=BATCH, device="cpu", threads=2) for name, path in paths.items()
    }
    assert all(set(one.places.values()) >= {"mapped"} for one in loaders.values())
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for epoch in range(ROUNDS + 1):
        for name in sorted(loaders, reverse=bool(epoch % 2)):
            start = time.perf_counter()
            images = sum(len(batch) for batch in loaders[name].epoch(epoch))
            if epoch:  # the first reads and proves
                rates[name].append(images / (time.perf_counter() - start))
    pairs = [packed / loose for packed, loose in zip(rates["packed"], rates["loose"], strict=True)]
    return {
        "images_per_second": {name: int(statistics.median(values)) for name, values in rates.items()},
        "loader_ratio": round(statistics.median(pairs), 3),
        "pairs": [round(pair, 3) for pair in pairs],
    }


# Buckets


@contextmanager
def counted_requests() -> Iterator[Counter[str]]:
    """What obstore asks of a bucket within this context: by kind, and the bytes that came of chunks."""
    import obstore

    counts: Counter[str] = Counter()
    originals = {name: getattr(obstore, name) for name in dir(obstore) if callable(getattr(obstore, name))}

    def counting(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts["requests"] += 1
            counts[name.removesuffix("_async")] += 1
            found = original(*args, **kwargs)
            if name in ("get", "get_range"):
                counts["bytes"] += len(found) if name == "get_range" else found.meta["size"]
            return found

        return call

    for name, original in originals.items():
        if name.removesuffix("_async") in (
            "get",
            "get_range",
            "get_ranges",
            "head",
            "list",
            "list_with_delimiter",
            "put",
        ):
            setattr(obstore, name, counting(name, original))
    try:
        yield counts
    finally:
        for name, original in originals.items():
            setattr(obstore, name, original)


@contextmanager
def s3_server() -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "dmkd",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="bench")
    try:
        yield "s3://bench"
    finally:
        server.stop()


def bucket_requests(folder: Path, blocks: int) -> dict[str, Any]:
    import dmkd
    from dmkd.stores import open_store
    from dmkd.stores.convert import convert
    from dmkd.stores.packing import pack
    from dmkd.stores.showing.facts import store_facts

    small = make_store(folder / "small.zarr", blocks * BLOCK_SIZE, SIZE, BLOCK_SIZE, VIEWS, CLASSES)
    found: dict[str, Any] = {"blocks": blocks}
    with s3_server() as bucket:
        path = f"{bucket}/small.zarr"
        convert(small, path)
        ids = np.random.default_rng(0).integers(0, small.num_images, 100)
        for name in ("loose", "packed"):
            if name == "packed":
                pack(open_store(path))
            counts: dict[str, int] = {}
            with counted_requests() as requests:
                store = open_store(path)
                counts["open"] = requests["requests"]
                store_facts(store)
                counts["inspect"] = requests["requests"]
            with counted_requests() as requests:
                open_store(path).images[ids]
                counts["100 images"] = requests["requests"]
            with counted_requests() as requests:
                for _ in dmkd.loader(path, "t", batch_size=BATCH, device="cpu", threads=2).epoch(0):
                    pass
                counts["an epoch"] = requests["requests"]
            found[name] = counts
    return found


def measure(folder: Path, blocks: int) -> dict[str, Any]:
    from dmkd.stores import open_store
    from dmkd.stores.packing import pack

    loose, packed = folder / "loose.zarr", folder / "packed.zarr"
    make_store(loose, blocks * BLOCK_SIZE, SIZE, BLOCK_SIZE, VIEWS, CLASSES)
    copying = timed(["cp", "-r", str(loose), str(packed)])
    os.sync()
    start = time.perf_counter()
    pack(open_store(packed))
    packing = round(time.perf_counter() - start, 2)
    paths = {"loose": loose, "packed": packed}
    result: dict[str, Any] = {"blocks": blocks, **{name: files_of(path) for name, path in paths.items()}}
    result |= {"files_loose": result["loose"]["files"], "files_packed": result["packed"]["files"]}
    result["seconds"] = {"pack": packing, "cp -r": copying}
    for name, path in paths.items():
        result["seconds"] |= {f"inspect {name}": timed([*DMKD, "inspect", str(path)])}
        result["seconds"] |= {f"verify {name}": timed([*DMKD, "verify", str(path)])}
    return {**result, **loader_rates(paths), "bucket": bucket_requests(folder, max(64, blocks // 20))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--quick", action="store_true", help="1,024 blocks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dmkd-pack-") as folder:
        result = measure(Path(folder), 1024 if options.quick else 20_480)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['blocks']:,} blocks of {BLOCK_SIZE} images of {SIZE}x{SIZE}, {VIEWS} views of {CLASSES} classes\n")
    print(f"{'':10}{'files':>10}{'folders':>9}{'MB':>10}{'images/s':>11}{'inspect, s':>12}{'verify, s':>11}")
    for name in ("loose", "packed"):
        there, seconds = result[name], result["seconds"]
        print(
            f"{name:10}{there['files']:>10,}{there['folders']:>9}{there['mb']:>10,.1f}{result['images_per_second'][name]:>11,}"
            f"{seconds[f'inspect {name}']:>12}{seconds[f'verify {name}']:>11}"
        )
    print(f"\nloader, packed over loose: {result['loader_ratio']}   packing: {result['seconds']['pack']} s", end="")
    print(f"   cp -r: {result['seconds']['cp -r']} s")
    print(f"\nrequests to a bucket, {result['bucket']['blocks']:,} blocks")
    for name in ("loose", "packed"):
        print(f"{name:10}", "  ".join(f"{what}: {count:,}" for what, count in result["bucket"][name].items()))


if __name__ == "__main__":
    main()
