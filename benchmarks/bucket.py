"""Training from a bucket: images a second in the first epoch and the second, of dmkd's loader and of its peers.

    python benchmarks/bucket.py                 # 4,096 images of 256x256; needs 5 GB of disk
    python benchmarks/bucket.py --quick --json

A local S3 server, OpenStack Swift in a process of its own (tests/swift_server.py; moto where Swift can't run), serves all of
them on the same cores as they run on, so each also pays for what is served to it. All give uint8 images (n, H, W, 3) in batches
of 256, shuffled, and have two workers; the three below read the very same JPEG files of quality 90:

    dmkd          a packed store, with a cache folder: labels (float16, 1000 classes, one of the stored views) come along
    litdata       LitData's StreamingDataset and StreamingDataLoader, whose own cache folder is kept between the epochs
    webdataset    tars, shuffle buffer of 1,000, by presigned URLs through curl: nothing is kept, so that its figure is of
                  the second epoch, when its workers are up

and besides

    no_cache      dmkd without a cache folder
    dmkd_raw      a packed store of raw pixels, with a cache folder
    mapped        the store of raw pixels on the local disk, second epoch: what the second from a bucket should come to

dmkd gets as much memory as the raw pixels take, half of which is for what is held whole and a quarter for the window: images
are not held in memory, and about as many are mixed as in WebDataset's buffer.

Each measurement is a process with an empty cache that runs two epochs; the clock starts once libraries are imported. Peers
take turns; reported are the medians of the rounds. Before each, another process takes 3 GB of memory and ends: a virtual
machine that has given pages back to its host pays for their return, which would be counted as part of a first epoch.
``plain_read_mb_per_second``: the bytes of the packed raw store's images by obstore, 16 threads, 8 MB a request;
``raw_first_of_plain_read``: dmkd_raw's MB/s in its first epoch over that. ``requests``: of dmkd's loader, those for chunks and
indices, and the megabytes that came, of each epoch.

A peer that is not installed is null: pip install webdataset litdata boto3. (litdata pins older versions of what dmkd uses; into
a folder of its own, then: pip install --no-deps --target DIR litdata lightning_utilities tifffile, and PYTHONPATH=DIR.)
"""

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from loader import CLASSES, files_of, make_data
from pack import counted_requests, s3_server

SIZE, BATCH, THREADS, QUALITY = 256, 256, 2, 90
FILES_A_SHARD = 128  # of LitData's chunks and WebDataset's tars
IMAGE_BYTES = SIZE * SIZE * 3
PLAIN_READ_BYTES, PLAIN_READ_THREADS = 8 * 10**6, 16
BUCKET = "bench"
WARM_BYTES = 3 * 10**9

RunEpoch = Callable[[int], int]  # epoch -> images seen


# The data, made once and put into the bucket


def make_all(folder: Path, images: int, views: int, peers: list[str]) -> None:
    from dmkd.stores import open_store
    from dmkd.stores.packing import pack

    for name, codec in (("raw", "raw"), ("jpeg", f"jpeg:{QUALITY}")):
        (folder / name).mkdir()
        make_data(folder / name, SIZE, images, views, "float16", codec)
        if name == "raw":
            make_jpegs(folder / "jpegs", np.load(folder / "raw/images.npy", mmap_mode="r"))
        (folder / name / "images.npy").unlink()
        pack(open_store(str(folder / name / "store.zarr")))
        upload(folder / name / "store.zarr", f"{name}.zarr")
    for peer, make in (("litdata", make_litdata), ("webdataset", make_tars)):
        if peer in peers:
            make(folder / "jpegs", folder / peer)
            upload(folder / peer, peer)
    os.sync()


def make_jpegs(folder: Path, images: np.ndarray) -> None:
    from dmkd.stores.image_chunks import JpegCodec

    folder.mkdir()
    for number, pixels in enumerate(images):
        (folder / f"{number:06}.jpg").write_bytes(JpegCodec(QUALITY).encode_image(np.array(pixels)))


def make_litdata(jpegs: Path, folder: Path) -> None:
    import litdata

    inputs = list(enumerate(map(str, sorted(jpegs.iterdir()))))
    litdata.optimize(
        litdata_sample, inputs, str(folder), chunk_size=FILES_A_SHARD, num_workers=1, verbose=False, start_method="fork"
    )


def litdata_sample(numbered: tuple[int, str]) -> dict[str, Any]:
    from PIL import Image

    number, file = numbered
    return {"image": Image.open(file), "class": number % CLASSES}


def make_tars(jpegs: Path, folder: Path) -> None:
    import webdataset as wds

    folder.mkdir()
    with wds.ShardWriter(str(folder / "%04d.tar"), maxcount=FILES_A_SHARD, verbose=0) as writer:
        for number, jpeg in enumerate(sorted(jpegs.iterdir())):
            writer.write({"__key__": f"{number:06}", "jpg": jpeg.read_bytes(), "cls": number % CLASSES})


def upload(folder: Path, name: str) -> None:
    import obstore

    for file in files_of(folder):
        with file.open("rb") as opened:
            obstore.put(bucket(), f"{name}/{file.relative_to(folder)}", opened, chunk_size=32 * 2**20)


def bucket() -> Any:
    from obstore.store import from_url

    return from_url(f"s3://{BUCKET}", client_options={"allow_http": True, "timeout": "300s"})


def s3_client() -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """An S3 server with an empty bucket, which this process's environment then leads to -> its name."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from swift_server import SwiftServer, SwiftUnavailable

    try:
        swift = SwiftServer(folder)
        swift.start()
    except SwiftUnavailable as error:
        print(f"moto instead of Swift: {error}", file=sys.stderr)
        with s3_server():
            yield "moto"
        return
    try:
        os.environ |= swift.environment
        swift.make_bucket(BUCKET)
        yield "Swift"
    finally:
        swift.stop()


# The peers: each opens its data and returns a function that runs one epoch


def dmkd(path: str, cached: bool, folder: Path, cache: Path, images: int) -> RunEpoch:
    import dmkd

    loader = dmkd.loader(
        path.format(folder=folder),
        "t",
        batch_size=BATCH,
        device="cpu",
        threads=THREADS,
        memory=images * IMAGE_BYTES,
        cache=cache if cached else None,
    )
    return lambda epoch: sum(len(batch) for batch in loader.epoch(epoch))


def litdata(folder: Path, cache: Path, images: int) -> RunEpoch:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    # LitData reads chunks by obstore, which refuses plain HTTP unless told, and passes no option on.
    getattr(downloader, "_OBSTORE_CLIENT_OPTIONS", {})["allow_http"] = True
    dataset = StreamingDataset(
        f"s3://{BUCKET}/litdata",
        cache_dir=str(cache),
        shuffle=True,
        drop_last=False,
        storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
        transform=channels_last,
    )
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=THREADS, persistent_workers=True)
    return lambda epoch: sum(len(channels_last_shape(batch["image"])) for batch in loader)


def channels_last(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "image": sample["image"].permute(1, 2, 0)}


def channels_last_shape(images: Any) -> Any:
    assert images.shape[1:] == (SIZE, SIZE, 3), images.shape
    return images


def webdataset(folder: Path, cache: Path, images: int) -> RunEpoch:
    import torch
    import webdataset as wds

    client = s3_client()
    keys = [each["Key"] for each in client.list_objects_v2(Bucket=BUCKET, Prefix="webdataset/")["Contents"]]
    sign = partial(client.generate_presigned_url, "get_object")
    shards = [f"pipe:curl -s '{sign(Params={'Bucket': BUCKET, 'Key': key})}'" for key in keys]
    dataset = wds.WebDataset(shards, shardshuffle=len(shards), nodesplitter=wds.split_by_node)
    dataset = dataset.shuffle(1000).decode("rgb8").to_tuple("jpg", "cls").batched(BATCH)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=THREADS, persistent_workers=True)
    return lambda epoch: sum(len(channels_last_shape(pixels)) for pixels, _ in loader)


PEERS: dict[str, Callable[[Path, Path, int], RunEpoch]] = {
    "dmkd": partial(dmkd, f"s3://{BUCKET}/jpeg.zarr", True),
    "litdata": litdata,
    "webdataset": webdataset,
    "no_cache": partial(dmkd, f"s3://{BUCKET}/jpeg.zarr", False),
    "dmkd_raw": partial(dmkd, f"s3://{BUCKET}/raw.zarr", True),
    "mapped": partial(dmkd, "{folder}/raw/store.zarr", False),
}
IMPORTS = {"litdata": ["litdata"], "webdataset": ["webdataset", "boto3"]}
OURS = ["dmkd.loading.api", "zarr", "obstore", "simplejpeg"]


def two_epochs(peer: str, folder: Path, images: int) -> dict[str, Any]:
    """In a process of its own: images a second, requests and megabytes of the first epoch, with opening, and of the second."""
    import torch

    torch.set_num_threads(1)
    for module in IMPORTS.get(peer, OURS):
        importlib.import_module(module)
    rates, requests, megabytes = [], [], []
    with tempfile.TemporaryDirectory(dir=folder, prefix="cache-") as cache:
        run = None
        for epoch in range(2):
            with counted_requests() as counts:
                start = time.perf_counter()
                run = run or PEERS[peer](folder, Path(cache), images)
                seen = run(epoch)
                rates.append(images / (time.perf_counter() - start))
            assert seen == images, (peer, seen)
            requests.append(counts["requests"])
            megabytes.append(round(counts["bytes"] / 1e6, 1))
    return {"rates": rates, "requests": requests, "megabytes": megabytes}


def plain_read() -> float:
    """MB/s of reading the packed raw store's images."""
    import obstore

    store = bucket()
    shards = obstore.list_with_delimiter(store, "raw.zarr/images/")["objects"]
    starts = [
        (shard["path"], start, min(start + PLAIN_READ_BYTES, shard["size"]))
        for shard in shards
        for start in range(0, shard["size"], PLAIN_READ_BYTES)
    ]
    begin = time.perf_counter()
    with ThreadPoolExecutor(PLAIN_READ_THREADS) as pool:
        lengths = pool.map(lambda one: len(obstore.get_range(store, one[0], start=one[1], end=one[2])), starts)
        return sum(lengths) / 1e6 / (time.perf_counter() - begin)


# The measurement


def measured(peer: str, folder: Path, images: int) -> dict[str, Any] | None:
    command = [sys.executable, __file__, "--run", peer, "--data", str(folder), "--images", str(images)]
    subprocess.run([sys.executable, "-c", f"bytearray(b'x') * {WARM_BYTES}"], check=True)
    limits = {"OMP_NUM_THREADS": "1", "LITDATA_DISABLE_VERSION_CHECK": "1"}
    found = subprocess.run(command, env={**os.environ, **limits}, stdout=-1, stderr=-1, text=True, check=False)
    if found.returncode:
        errors = [line for line in found.stderr.splitlines() if "Error" in line] or ["no reason given"]
        print(f"{peer}: left out ({errors[-1].strip()})", file=sys.stderr)
        return None
    return json.loads(found.stdout.splitlines()[-1])


def installed(peer: str) -> bool:
    return all(importlib.util.find_spec(module) for module in IMPORTS.get(peer, OURS))


def measure(folder: Path, images: int, views: int, rounds: int) -> dict[str, Any]:
    peers = [peer for peer in PEERS if installed(peer)]
    with server(folder / "server") as name:
        make_all(folder, images, views, peers)
        found: dict[str, list[dict[str, Any] | None]] = {peer: [] for peer in PEERS}
        plain = []
        for number in range(rounds):
            turn = number % len(peers)
            for peer in peers[turn:] + peers[:turn]:
                found[peer].append(measured(peer, folder, images))
            plain.append(plain_read())

    def rate(peer: str, epoch: int) -> int | None:
        rates = [one["rates"][epoch] for one in found[peer] if one]
        return round(statistics.median(rates)) if rates else None

    def facts(what: str) -> dict[str, list[float]]:
        ours = ("dmkd", "no_cache", "dmkd_raw")
        return {peer: found[peer][-1][what] for peer in ours if found[peer][-1]}  # type: ignore[index]

    raw_bytes = sum(file.stat().st_size for file in files_of(folder / "raw/store.zarr"))
    raw_first = rate("dmkd_raw", 0)
    return {
        "images_per_second": {
            "dmkd_first": rate("dmkd", 0),
            "dmkd_second": rate("dmkd", 1),
            "litdata_first": rate("litdata", 0),
            "litdata_second": rate("litdata", 1),
            "webdataset": rate("webdataset", 1),
            "mapped": rate("mapped", 1),
        },
        "dmkd_raw_first": raw_first,
        "dmkd_raw_second": rate("dmkd_raw", 1),
        "no_cache_first": rate("no_cache", 0),
        "no_cache_second": rate("no_cache", 1),
        "webdataset_first": rate("webdataset", 0),
        "plain_read_mb_per_second": round(statistics.median(plain)),
        "raw_first_of_plain_read": raw_first
        and round(raw_first * raw_bytes / images / 1e6 / statistics.median(plain), 2),
        "requests": facts("requests"),
        "megabytes": facts("megabytes"),
        "server": name,
        "images": images,
        "rounds": rounds,
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    rates = {**result["images_per_second"], **result}
    yield f"{'images/s':12}{'first epoch':>12}{'second':>10}{'requests':>16}{'MB':>18}"
    for peer in PEERS:
        first, second = (rates.get(f"{peer}_{epoch}") for epoch in ("first", "second"))
        cells = [first, second or rates.get(peer)]
        texts = ["-" if cell is None else f"{cell:,}" for cell in cells]
        asked = [" + ".join(map(str, result[what].get(peer, []))) for what in ("requests", "megabytes")]
        yield f"{peer:12}{texts[0]:>12}{texts[1]:>10}{asked[0]:>16}{asked[1]:>18}"
    yield (
        f"plain read {result['plain_read_mb_per_second']} MB/s; dmkd_raw's first epoch is "
        f"{result['raw_first_of_plain_read']} of it; by {result['server']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="default 4096, or 512 with --quick")
    parser.add_argument("--views", type=int, default=4, help="stored views an image")
    parser.add_argument("--rounds", type=int, help="default 3, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="512 images, one round")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(two_epochs(options.run, options.data, options.images)))
        return
    images = options.images or (512 if options.quick else 4096)
    folder = Path(tempfile.mkdtemp(prefix="dmkd-bucket-"))
    try:
        result = measure(folder, images, options.views, options.rounds or (1 if options.quick else 3))
    finally:
        shutil.rmtree(folder)
    if not options.json:
        print("\n".join(table(result)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
