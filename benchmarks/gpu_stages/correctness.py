"""Stage A, second half: whether the device gives what the CPU gives, and twice the same."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_stages import digits_again
from gpu_stages.stage import Stage, Unavailable, differing

from dmkd import digits
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.loading import Loader
from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.making.blocks import BlockWorker, WorkOrder
from dmkd.runtime.devices import make_deterministic
from dmkd.runtime.progress import Silent
from dmkd.stores import Store
from dmkd.stores.codecs import CODECS, parse_codec
from dmkd.views.render import render

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
FEATURES = 64


def run(stage: Stage) -> None:
    for interpolation in INTERPOLATIONS:
        what = f"render, {interpolation}: device against CPU"
        stage.attempt(what, lambda i=interpolation: rendered(stage, i), "bytes that differ", needs=5, at_most=0)
    for known in CODECS.values():
        for codec in (known.example,) if stage.tiny else known.usual or (known.example,):
            stage.attempt(f"codec {codec}", lambda c=codec: decoded(stage, c), needs=5)

    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    make_deterministic(stage.device, None)
    stage.attempt("digits, made twice", lambda: digits_twice(stage), needs=15)
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


def decoded(stage: Stage, text: str) -> None:
    """The largest error, as a share of the largest logit."""
    rng, classes = np.random.default_rng(0), 100 if stage.tiny else 1000
    features = rng.exponential(size=(256, FEATURES)).astype(np.float32)
    weight = rng.normal(size=(classes, FEATURES)).astype(np.float32)
    bias = rng.normal(size=classes).astype(np.float32)
    logits, codec = features @ weight.T + bias, parse_codec(text)
    coder = codec.bind(classes, codec.fit(classes, sample=logits, weight=weight, bias=bias))
    encoded = coder.encode((features if codec.input == "features" else logits)[:, None])
    arrays = {name: torch.from_numpy(rows[:, 0].copy()) for name, rows in encoded.items()}
    expected = LabelDecoder(coder, "cpu").decode(arrays, 4.0)
    decoder, there = LabelDecoder(coder, stage.device), {name: rows.to(stage.device) for name, rows in arrays.items()}
    for autocast in (False, True):
        with torch.autocast(torch.device(stage.device).type, torch.bfloat16, enabled=autocast):
            found = decoder.decode(there, 4.0).cpu().float()
        error = ((found - expected).abs().max() / expected.abs().max()).item()
        what = f"codec {text}{' under autocast' if autocast else ''}: device against CPU"
        stage.figure(what, error, "relative error", at_most=1e-5)


def digits_twice(stage: Stage) -> None:
    generator, ids = digits_again.load(stage.device), np.arange(digits_again.COUNT)
    first, second = (digits_again.sample(generator, ids) for _ in range(2))
    stage.figure("digits, made twice", int((first != second).sum()), "bytes that differ", at_most=0)
    order = np.random.default_rng(0).permutation(ids)
    permuted = digits_again.sample(generator, order)
    stage.figure(
        "digits, in another order within the batch", int((permuted != first[order]).sum()), "bytes that differ"
    )


def digits_elsewhere(stage: Stage) -> None:
    """Two new processes, each of which compiles for itself; with ``tiny`` this process and a new one, and nothing compiled."""
    if stage.tiny:
        first = digits_again.sample(digits_again.load(stage.device), np.arange(digits_again.COUNT))
    else:
        with stage.compiler():
            first = digits_again.in_new_process(stage.device, True)
    second = digits_again.in_new_process(stage.device, not stage.tiny)
    what = f"digits in two processes{'' if stage.tiny else ', compiled'}"
    stage.figure(what, int((first != second).sum()), "bytes that differ", at_most=0)


def digits_store(stage: Stage, path: Path) -> Store:
    """64 digits with two label sets, whose decoding needs constants on the device."""
    images = ImageOptions(generator="digits", images=64, steps=2, sub_batch=16, block_size=16, compile=False)
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
        worker.finish(worker.make(1, None))
    except (torch.OutOfMemoryError, RuntimeError):
        pass
    else:
        if stage.on_gpu:
            raise Unavailable("the block found room in a GPU that is full")
    del filling
    torch.cuda.empty_cache()
    made = worker.finish(worker.make(1, None))
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
