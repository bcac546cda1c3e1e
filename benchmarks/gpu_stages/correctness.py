"""Stage A, second half: whether the device gives what the CPU gives, and twice the same."""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_stages.stage import Stage, Unavailable, differing

from dmkd import digits
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.generators.load import load_generator
from dmkd.loading import Loader
from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.making.blocks import BlockWorker, WorkOrder
from dmkd.runtime.devices import make_deterministic
from dmkd.runtime.progress import Silent
from dmkd.stores import Store
from dmkd.stores.codecs import CODECS, parse_codec
from dmkd.views.render import render

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CLASSES, FEATURES = 1000, 64


def run(stage: Stage) -> None:
    for interpolation in INTERPOLATIONS:
        what = f"render, {interpolation}: device against CPU"
        stage.attempt(what, lambda i=interpolation: rendered(stage, i), "bytes that differ", needs=5, at_most=0)
    for codec in (text for known in CODECS.values() for text in (known.usual or (known.example,))):
        for autocast in (False, True):
            what = f"codec {codec}{' under autocast' if autocast else ''}: device against CPU"
            stage.attempt(what, lambda c=codec, a=autocast: decoded(stage, c, autocast=a), "relative error", needs=5)

    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    make_deterministic(stage.device, None)
    stage.attempt("digits, generated twice", lambda: digits_again(stage), needs=15)
    stage.attempt("digits, in another process", lambda: digits_elsewhere(stage), needs=90)
    with tempfile.TemporaryDirectory() as folder:
        store = None

        def make() -> None:
            nonlocal store
            store = digits_store(stage, Path(folder) / "digits.zarr")

        stage.attempt("a store of digits", make, needs=20)
        if store is not None:
            for name in store.labels:
                what = f"Loader.at against an epoch, labels {name}"
                stage.attempt(
                    what, lambda n=name: at_against_epoch(stage, store, n), "bytes that differ", needs=5, at_most=0
                )
            stage.attempt(
                "resident gpu against ram", lambda: resident(stage, store), "bytes that differ", needs=5, at_most=0
            )
            stage.attempt(
                "a block after memory ran out", lambda: out_of_memory(stage, store), "bytes that differ", 15, at_most=0
            )
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = flags


def rendered(stage: Stage, interpolation: str) -> int:
    count, size, small = (4, 48, 32) if stage.tiny else (128, 256, 224)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, size, size, 3), np.uint8))
    corners, sides = rng.random((count, 2)) * 0.3, 0.2 + rng.random((count, 2)) * 0.5
    views = np.concatenate([corners, sides, rng.integers(0, 2, (count, 1))], 1).astype(np.float32)
    options: dict[str, Any] = {"size": small, "interpolation": interpolation}
    return differing(render(images.to(stage.device), views, **options), render(images, views, **options))


def decoded(stage: Stage, text: str, *, autocast: bool) -> float:
    """The largest error, as a share of the largest logit."""
    rng = np.random.default_rng(0)
    features = rng.exponential(size=(256, FEATURES)).astype(np.float32)
    weight = rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
    bias = rng.normal(size=CLASSES).astype(np.float32)
    logits, codec = features @ weight.T + bias, parse_codec(text)
    coder = codec.bind(CLASSES, codec.fit(CLASSES, sample=logits, weight=weight, bias=bias))
    encoded = coder.encode((features if codec.input == "features" else logits)[:, None])
    arrays = {name: torch.from_numpy(rows[:, 0].copy()) for name, rows in encoded.items()}
    expected = LabelDecoder(coder, "cpu").decode(arrays, 4.0)
    there = {name: rows.to(stage.device) for name, rows in arrays.items()}
    device_type = torch.device(stage.device).type
    with torch.autocast(device_type, torch.bfloat16) if autocast else nullcontext():
        found = LabelDecoder(coder, stage.device).decode(there, 4.0)
    return ((found.cpu().float() - expected).abs().max() / expected.abs().max()).item()


def make_digits(device: str, compile: bool, order: list[int] | None = None) -> np.ndarray:
    """Images of the bundled digits, uint8 (n, 32, 32, 3), in the order given."""
    if compile:  # what this process compiles is its own
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(dir=os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
    make_deterministic(device, None)
    dtype = "bfloat16" if device.startswith("cuda") else "float32"
    generator = load_generator(str(digits.PIPELINE), device=device, dtype=dtype, compile=compile)
    ids = np.arange(16) if order is None else np.array(order)
    options: dict[str, Any] = {"sampler": "ddpm", "steps": 4, "guidance": 2.0, "guided_channels": 3}
    return generator.sample(ids % 10, ids, **options).cpu().numpy()


def digits_again(stage: Stage) -> None:
    first, second = (make_digits(stage.device, False) for _ in range(2))
    stage.figure("digits, generated twice", int((first != second).sum()), "bytes that differ", at_most=0)
    order = np.random.default_rng(0).permutation(16)
    permuted = make_digits(stage.device, False, order.tolist())
    stage.figure(
        "digits, in another order within the batch", int((permuted != first[order]).sum()), "bytes that differ"
    )


def digits_elsewhere(stage: Stage) -> None:
    """Two new processes, each of which compiles for itself; with ``tiny`` this process and a new one, and nothing compiled."""
    compile = not stage.tiny
    if compile:
        stage.needs_compiler()
    first = make_digits(stage.device, False) if stage.tiny else in_new_process(stage.device, compile)
    second = in_new_process(stage.device, compile)
    what = f"digits in two processes{', compiled' if compile else ''}"
    stage.figure(what, int((first != second).sum()), "bytes that differ", at_most=0)


def in_new_process(device: str, compile: bool) -> np.ndarray:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(make_digits, device, compile).result()


def digits_store(stage: Stage, path: Path) -> Store:
    """64 digits with two label sets, whose decoding needs constants on the device."""
    images = ImageOptions(generator="digits", images=64, steps=2, sub_batch=16, block_size=16)
    here = RunOptions(workers=0, device=stage.device)
    labels = LabelOptions(teachers=("digits-resnet",), views="rrc:2", codec="features", name="features")
    generate(str(path), images, labels, here, Silent())
    more = LabelOptions(teachers=("digits-resnet",), views="rrc:2", codec="klt:0.5", name="klt")
    return label(str(path), more, here, Silent())[0]


def at_against_epoch(stage: Stage, store: Store, name: str) -> int:
    loader = Loader(store, labels={name: 1.0}, batch_size=16, device=stage.device, resident=None)
    batch = next(loader.epoch(0))
    return differing_batches(batch, loader.at(batch.ids, 0))


def resident(stage: Stage, store: Store) -> int:
    if not stage.on_gpu:
        raise Unavailable("a store can be resident on a GPU only")
    options: dict[str, Any] = {"labels": dict.fromkeys(store.labels, 1.0), "batch_size": 16, "device": stage.device}
    pairs = zip(*(Loader(store, resident=where, **options).epoch(0) for where in ("gpu", "ram")), strict=True)
    return sum(differing_batches(*pair) for pair in pairs)


def differing_batches(a: Any, b: Any) -> int:
    pairs = ((a.images, b.images), (a.class_ids, b.class_ids), (a.pixels(), b.pixels()), (a.logits(4.0), b.logits(4.0)))
    return int((a.ids != b.ids).sum()) + sum(differing(*pair) for pair in pairs)


def out_of_memory(stage: Stage, store: Store) -> int:
    """A block whose making ran out of memory is made again, and is the block that the store holds."""
    order = WorkOrder(store.path, (), stage.device, store.recipe["cpu_threads"], str(digits.PIPELINE))
    worker = BlockWorker(order)
    filling = fill_memory(stage)
    try:
        worker.make(1, None)
    except (torch.OutOfMemoryError, RuntimeError):
        pass
    else:
        if stage.on_gpu:
            raise Unavailable("the block found room in a GPU that is full")
    del filling
    torch.cuda.empty_cache()
    made = worker.make(1, None)
    ids = np.array(store.block_ids(1))
    return int((made.arrays["images"] != store.images[ids]).sum())


def fill_memory(stage: Stage) -> list[torch.Tensor]:
    """All of a GPU's memory, down to pieces of 16 KiB; on a CPU only one allocation that must fail."""
    held, piece = [], 2**36 if stage.on_gpu else 2**60
    while piece >= (2**14 if stage.on_gpu else 2**60):
        try:
            held.append(torch.empty(piece, dtype=torch.uint8, device=stage.device))
        except (torch.OutOfMemoryError, RuntimeError):
            piece //= 2
    return held
