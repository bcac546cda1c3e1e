"""Images a second of dmkd's loader and its peers: the same images, the same batches, two threads each.

    python benchmarks/loader.py                    # 4,096 images of 256x256; needs 4 GB of disk and 2 GB of memory
    python benchmarks/loader.py --size 32 --images 50000
    python benchmarks/loader.py --quick --json
    python benchmarks/loader.py --device cuda      # to the GPU

dmkd delivers more than the others: besides images and class ids also the view and the labels of one of ``--views`` stored
views (dmkd_hard: no labels). All give uint8 images (n, H, W, 3) in host memory, in a random order; nothing is rendered
and nothing trained. With ``--device cuda`` they are delivered to the GPU, which is waited for once, at an epoch's end: by dmkd
and the ``DataLoader`` peers, from pinned memory; the others stay in host memory, and are left out. dmkd does not keep the store
on the GPU meanwhile.

    limit         numpy's gather from one array in memory into one reused buffer: what memory allows
    ffcv_raw      FFCV, write_mode="raw", OrderOption.RANDOM, os_cache; ffcv_jpeg: its JPEG mode (benchmarks/install_ffcv.sh)
    webdataset    tars of JPEGs, shuffle buffer of 1,000, two workers
    imagefolder   torchvision's ImageFolder of JPEGs under a DataLoader, two workers
    zarr          blocks of the same store by zarr-python in a random order, two threads
    hdf5          images one by one by h5py from one contiguous dataset, under a DataLoader, two workers

Each peer is a process of its own; epochs of all peers take turns, so that a busy machine slows them all alike. Reported are the
median of the rounds and, separately, each peer's first epoch, including opening, compiling and checking checksums. The files
are in the page cache before each epoch. With ``--cold`` they are not: every round is then a first epoch, in a new process.
Memory is what the process takes beyond its libraries: private (``RssAnon``) and mapped files (``RssFile``, which is the system's
page cache). ``DataLoader`` workers are not counted. A peer that is not installed is null.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PEERS = ["limit", "dmkd", "dmkd_hard", "ffcv_raw", "ffcv_jpeg", "webdataset", "imagefolder", "zarr", "hdf5"]
# What each reads; all but the store and the bare array are made by the peer itself, before the measurement.
DATA = {
    "limit": "images.npy",
    "dmkd": "store.zarr",
    "dmkd_hard": "store.zarr",
    "ffcv_raw": "raw.beton",
    "ffcv_jpeg": "jpg.beton",
    "webdataset": "shards",
    "imagefolder": "jpegs",
    "zarr": "store.zarr",
    "hdf5": "images.h5",
}
TO_GPU = ["dmkd", "dmkd_hard", "imagefolder", "hdf5"]
THREADS = 2
CLASSES = 1000
FFCV_PYTHON = Path(__file__).resolve().parent.parent / "build" / "ffcv-venv" / "bin" / "python"
ROUNDS = {"full": 5, "quick": 2}
NOT_QUICK = {"dmkd_hard", "ffcv_jpeg"}

RunEpoch = Callable[[int], int]  # epoch -> images seen


# The data, made once: dmkd's store, and each peer's own format from the same pixels


def make_data(folder: Path, size: int, images: int, views: int, codec: str, image_codec: str = "raw") -> None:
    from dmkd.stores import create_store, open_store, parse_codec

    path = folder / "store.zarr"
    create_store(
        str(path),
        recipe={"generator": "benchmark"},
        num_images=images,
        image_shape=(size, size, 3),
        class_names=[str(i) for i in range(CLASSES)],
        image_codec=image_codec,
    )
    store = open_store(str(path))
    description = {"policy": "rrc", "size": size, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    store.add_view_set("rrc", views, ("top", "left", "height", "width", "flip"), description)
    teacher = {"name": "t", "architecture": "t"}
    store.add_label_set("t", teacher=teacher, source="t", view_set="rrc", codec=parse_codec(codec), num_classes=CLASSES)
    raw = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (images, size, size, 3))
    for block in range(store.num_blocks):
        ids = store.block_ids(block)
        rng = np.random.default_rng(block)
        raw[ids.start : ids.stop] = natural_images(rng, len(ids), size)
        store.write_block(
            block,
            images=raw[ids.start : ids.stop],
            class_ids=rng.integers(0, CLASSES, len(ids)).astype(np.int32),
            views={"rrc": np.tile(np.array([0, 0, 1, 1, 0], np.float32), (len(ids), views, 1))},
            labels={
                "t": (
                    rng.standard_normal((len(ids), views, CLASSES), np.float32),
                    np.zeros((len(ids), 3), np.float32),
                )
            },
        )
    raw.flush()


def natural_images(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """uint8 (n, S, S, 3) with detail at all scales, so that JPEGs take about the room and time of photographs."""
    pixels = np.zeros((count, size, size, 3), np.float32)
    for scale in (2, 4, 8, 16, 32):
        if scale < size:
            coarse = rng.normal(size=(count, size // scale, size // scale, 3)).astype(np.float32)
            pixels += scale**0.8 * np.repeat(np.repeat(coarse, scale, 1), scale, 2)
    pixels = 128 + pixels * (50 / pixels.std())
    return pixels.clip(0, 255).astype(np.uint8)


def make_jpegs(folder: Path) -> Path:
    from PIL import Image

    root = folder / "jpegs"
    if not root.exists():
        for i, pixels in enumerate(np.load(folder / "images.npy", mmap_mode="r")):
            name = root / f"{i % 10:03}" / f"{i:06}.jpg"
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(name, quality=90)
    return root


# The peers: each opens its data and returns a function that runs one epoch


def limit(folder: Path, batch: int, device: str) -> RunEpoch:
    from concurrent.futures import ThreadPoolExecutor

    images = np.load(folder / "images.npy")
    buffer = np.empty((batch, *images.shape[1:]), np.uint8)
    pool = ThreadPoolExecutor(THREADS)

    def gather(ids: np.ndarray, out: np.ndarray) -> None:
        np.take(images, ids, axis=0, out=out, mode="clip")

    def epoch(number: int) -> int:
        order = np.random.default_rng(number).permutation(len(images))
        for start in range(0, len(order), batch):
            ids = np.sort(order[start : start + batch])
            half = len(ids) // 2
            first = pool.submit(gather, ids[:half], buffer[:half])
            gather(ids[half:], buffer[half : len(ids)])
            first.result()
        return len(order)

    return epoch


def dmkd(folder: Path, batch: int, device: str, labels: str = "t") -> RunEpoch:
    import dmkd

    path = folder / "store.zarr"
    loader = dmkd.loader(path, labels, batch_size=batch, device=device, threads=THREADS, resident=None)
    return lambda number: sum(len(b.ids) for b in loader.epoch(number))


def dmkd_hard(folder: Path, batch: int, device: str) -> RunEpoch:
    return dmkd(folder, batch, device, labels="")


def ffcv_raw(folder: Path, batch: int, device: str) -> RunEpoch:
    return ffcv(folder, batch, "raw")


def ffcv_jpeg(folder: Path, batch: int, device: str) -> RunEpoch:
    return ffcv(folder, batch, "jpg")


def ffcv(folder: Path, batch: int, mode: str) -> RunEpoch:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor
    from ffcv.writer import DatasetWriter

    path = folder / f"{mode}.beton"
    if not path.exists():
        images = np.load(folder / "images.npy", mmap_mode="r")
        fields = {
            "image": RGBImageField(write_mode=mode, max_resolution=images.shape[1], jpeg_quality=90),
            "label": IntField(),
        }

        class Pairs:
            def __len__(self) -> int:
                return len(images)

            def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
                return np.array(images[index]), index % CLASSES

        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Pairs())
    loader = Loader(
        str(path),
        batch_size=batch,
        num_workers=THREADS,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={"image": [SimpleRGBImageDecoder(), ToTensor()], "label": [IntDecoder(), ToTensor()]},
    )
    return lambda number: sum(len(images) for images, _ in loader)


def webdataset(folder: Path, batch: int, device: str) -> RunEpoch:
    import torch
    import webdataset as wds

    pattern = folder / "shards" / "%04d.tar"
    if not pattern.parent.exists():
        pattern.parent.mkdir()
        with wds.ShardWriter(str(pattern), maxcount=256, verbose=0) as writer:
            for i, jpeg in enumerate(sorted(make_jpegs(folder).rglob("*.jpg"))):
                writer.write({"__key__": f"{i:06}", "jpg": jpeg.read_bytes(), "cls": i % CLASSES})
    shards = sorted(map(str, pattern.parent.glob("*.tar")))
    dataset = wds.WebDataset(shards, shardshuffle=len(shards), nodesplitter=wds.split_by_node)
    dataset = dataset.shuffle(1000).decode("rgb8").to_tuple("jpg", "cls").batched(batch)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=THREADS, persistent_workers=True)
    return lambda number: sum(len(images) for images, _ in loader)


def imagefolder(folder: Path, batch: int, device: str) -> RunEpoch:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import PILToTensor

    return _under_data_loader(ImageFolder(make_jpegs(folder), transform=PILToTensor()), batch, device)


class Hdf5Images:
    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count, self.file = path, count, None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        import h5py

        self.file = self.file or h5py.File(self.path, "r")
        return self.file["images"][index], index % CLASSES


def hdf5(folder: Path, batch: int, device: str) -> RunEpoch:
    import h5py

    path, images = folder / "images.h5", np.load(folder / "images.npy", mmap_mode="r")
    if not path.exists():
        with h5py.File(path, "w") as file:
            file["images"] = images
    return _under_data_loader(Hdf5Images(path, len(images)), batch, device)


def zarr(folder: Path, batch: int, device: str) -> RunEpoch:
    from concurrent.futures import ThreadPoolExecutor

    import zarr

    images = zarr.open_group(folder / "store.zarr", mode="r")["images"]
    count, block, pool = images.shape[0], images.chunks[0], ThreadPoolExecutor(THREADS)

    def epoch(number: int) -> int:
        starts = np.random.default_rng(number).permutation(range(0, count, block))
        together = max(1, batch // block)
        for first in range(0, len(starts), together):
            np.concatenate(list(pool.map(lambda s: images[s : s + block], starts[first : first + together])))
        return count

    return epoch


def _under_data_loader(dataset: Any, batch: int, device: str) -> RunEpoch:
    import torch

    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=batch,
        shuffle=True,
        num_workers=THREADS,
        persistent_workers=True,
        pin_memory=device.startswith("cuda"),
    )
    return lambda number: sum(len(images.to(device, non_blocking=True)) for images, _ in loader)


def open_peer(name: str, folder: Path, batch: int, device: str) -> RunEpoch:
    return globals()[name](folder, batch, device)


# A peer's process: reads epoch numbers, answers with seconds and memory


def resident() -> dict[str, float]:
    """MB of private memory and of mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[field].split()[0]) / 1000 for key, field in (("private", "RssAnon"), ("mapped", "RssFile"))}


def serve(name: str, folder: Path, batch: int, device: str) -> None:
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    run = None
    before = resident()
    for line in sys.stdin:
        start = time.perf_counter()
        if line.strip() == "prepare":
            open_peer(name, folder, batch, device)
            answer: dict[str, Any] = {}
        else:
            run = run or open_peer(name, folder, batch, device)
            images = run(int(line))
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            after = resident()
            answer = {
                "rate": images / (time.perf_counter() - start),
                "images": images,
                "memory": {key: round(after[key] - before[key]) for key in after},
            }
        print(json.dumps(answer), file=answers, flush=True)


class Peer:
    """One peer, in its own process on two threads; ``ask`` is None once it has failed."""

    def __init__(self, name: str, folder: Path, batch: int, device: str) -> None:
        python = FFCV_PYTHON if name.startswith("ffcv_") else Path(sys.executable)
        self.name, self.process = name, None
        if not python.exists():
            return
        command = [str(python), __file__, "--serve", name, "--data", str(folder), "--batch", str(batch)]
        command += ["--device", device]
        limits = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": str(THREADS), "PYTHONPATH": os.getcwd()}
        self.log = (folder / f"{name}.log").open("w")
        self.process = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=self.log, text=True, env={**os.environ, **limits}
        )

    def ask(self, message: str) -> dict[str, Any] | None:
        if self.process is None:
            return None
        try:
            self.process.stdin.write(f"{message}\n")
            self.process.stdin.flush()
            if line := self.process.stdout.readline():
                return json.loads(line)
        except BrokenPipeError:
            pass
        last = Path(self.log.name).read_text().strip().splitlines()[-1:]
        print(f"{self.name}: left out ({last[0] if last else 'no reason given'})", file=sys.stderr)
        self.process = None
        return None

    def end(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


def files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def forget(path: Path) -> None:
    """Drop the data from the page cache, for a cold start."""
    for file in files_of(path):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remember(path: Path) -> None:
    """Read the data into the page cache, from which a busy system may have dropped them."""
    for file in files_of(path):
        with file.open("rb", buffering=0) as opened:
            while opened.read(2**24):
                pass


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    rounds = options.rounds or ROUNDS["quick" if options.quick else "full"]
    asked = options.only.split(",") if options.only else [n for n in PEERS if not (options.quick and n in NOT_QUICK)]
    wanted = [name for name in (TO_GPU if options.device.startswith("cuda") else PEERS) if name in asked]
    for name in wanted:
        if DATA[name] not in ("images.npy", "store.zarr"):
            preparing = Peer(name, folder, options.batch, options.device)
            preparing.ask("prepare")
            preparing.end()
    os.sync()  # the new data are on the disk, and writing them does not disturb the first epoch
    rates: dict[str, list[float]] = {name: [] for name in wanted}
    memory: dict[str, dict[str, float]] = {}
    peers = {name: Peer(name, folder, options.batch, options.device) for name in wanted if not options.cold}
    for epoch in range(rounds + (not options.cold)):
        for name in wanted[epoch % len(wanted) :] + wanted[: epoch % len(wanted)]:
            if options.cold:
                forget(folder / DATA[name])
                peer = Peer(
                    name, folder, options.batch, options.device
                )  # what one process has mapped stays in the cache
            else:
                remember(folder / DATA[name])
                peer = peers[name]
            if answer := peer.ask(str(epoch)):
                assert answer["images"] == options.images, (name, answer)
                rates[name].append(answer["rate"])
                memory[name] = answer["memory"]
            if options.cold:
                peer.end()
    for peer in peers.values():
        peer.end()

    def aggregated(value: Callable[[list[float]], float]) -> dict[str, int | None]:
        whole = rounds + (not options.cold)
        return {name: round(value(found)) if len(found) == whole else None for name, found in rates.items()}

    return {
        "images_per_second": aggregated(lambda found: statistics.median(found if options.cold else found[1:])),
        "first_epoch": aggregated(lambda found: found[0]),
        "memory_mb": {name: memory.get(name) for name in wanted},
        "images": options.images,
        "size": options.size,
        "batch": options.batch,
        "threads": THREADS,
        "device": options.device,
        "rounds": rounds,
        "cold": options.cold,
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    yield f"{'':12} {'images/s':>10} {'first epoch':>12} {'private MB':>11} {'mapped MB':>10}"
    for name, rate in result["images_per_second"].items():
        memory = result["memory_mb"][name] or {}
        cells = (rate, result["first_epoch"][name], memory.get("private"), memory.get("mapped"))
        texts = ["-" if cell is None else f"{cell:,}" for cell in cells]
        yield f"{name:12} {texts[0]:>10} {texts[1]:>12} {texts[2]:>11} {texts[3]:>10}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--images", type=int, help="default 4096, or 1024 with --quick")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--views", type=int, help="stored views an image in dmkd's store; default 50, or 4 with --quick"
    )
    parser.add_argument("--device", default="cpu", help="where the images are delivered")
    parser.add_argument("--codec", default="uint8", help="of the labels in dmkd's store")
    parser.add_argument("--rounds", type=int, help="epochs of each, after the first")
    parser.add_argument("--only", help="peers, comma-separated")
    parser.add_argument("--cold", action="store_true", help="first epochs only, each in a new process, from the disk")
    parser.add_argument("--quick", action="store_true", help="1,024 images, two rounds, fewer peers: a quick look")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--data", type=Path, help="keep the data in this folder; default: a temporary one, deleted")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.data, options.batch, options.device)
        return
    options.images = options.images or (1024 if options.quick else 4096)
    options.views = options.views or (4 if options.quick else 50)
    folder = options.data or Path(tempfile.mkdtemp(prefix="dmkd-loader-"))
    try:
        if not (folder / "images.npy").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make_data(folder, options.size, options.images, options.views, options.codec)
        result = measure(folder, options)
    finally:
        if options.data is None:
            shutil.rmtree(folder)
    if not options.json:
        print("\n".join(table(result)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
