"""Stage D: whether the loader feeds the GPU, and what the trainer's step costs beside the bare model's."""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_stages.ladder import new, sampling
from gpu_stages.stage import Stage, Unavailable
from training_step import CLASSES, Steps, choose_kernels_as_the_trainer_does, make_store

from dmkd.classifiers.students import create_student
from dmkd.loading import Loader
from dmkd.runtime.precision import computing_in
from dmkd.stores import Store
from dmkd.training.execution import Execution

SHARED_MEMORY, NEEDED = Path("/dev/shm"), 3 * 2**30


def run(stage: Stage) -> None:
    images, size, view_size = (48, 40, 32) if stage.tiny else (8192, 256, 224)
    batches = (8,) if stage.tiny else (256, 1024)
    flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    choose_kernels_as_the_trainer_does(stage.device)
    in_memory = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > NEEDED
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if in_memory else None) as folder:
        store = make_store(Path(folder) / "s.zarr", images, size, view_size)
        for batch in batches:
            options = argparse.Namespace(
                student="test_resnet" if stage.tiny else "resnet18", batch=batch, size=view_size, device=stage.device
            )
            for place in (None, "gpu"):
                what = f"loader, {'kept on the GPU' if place else 'from memory'}, batches of {batch}"
                stage.attempt(what, lambda p=place, b=batch: loading(stage, store, b, p), "images/s", needs=20)
            stage.attempt(f"training, batches of {batch}", lambda o=options: training(stage, store, o), needs=90)
        uneven = argparse.Namespace(**{**vars(options), "batch": batches[0] - 1})
        stage.attempt(
            "--compile, uneven batches", lambda: compilations(stage, store, uneven), "compilations", 90, at_most=2
        )
        stage.attempt(
            "waiting in a training step", lambda: waits_of_step(stage, store, options), "waits", 20, at_most=0
        )
    stage.attempt("waiting in denoise", lambda: waits_of_denoise(stage), "waits", 20, at_most=0)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = flags


def loading(stage: Stage, store: Store, batch: int, resident: str | None) -> float:
    """Images and labels a second on the device, over three epochs after one."""
    if resident == "gpu" and not stage.on_gpu:
        raise Unavailable("there is no GPU")
    loader = Loader(store, labels={"teacher": 1.0}, batch_size=batch, device=stage.device, resident=resident)

    def epochs(numbers: range) -> None:
        for number in numbers:
            for _ in loader.epoch(number):
                pass

    epochs(range(1))  # proves the checksums
    return 3 * loader.num_images / stage.once(lambda: epochs(range(1, 4)))


def training(stage: Stage, store: Store, options: argparse.Namespace) -> None:
    """The bare model, and the trainer with stored labels, with class ids alone, and with a store that the GPU does not keep: in
    turns, so that ratios hold on a busy machine."""
    execution, window = Execution(), 2 if stage.tiny else 8
    streaming = Loader(store, labels={"teacher": 1.0}, batch_size=options.batch, device=stage.device, resident=None)
    ways: dict[str, Any] = {
        "stored labels": Steps("stored", store, options, execution, window),
        "class ids alone": Steps("hard", store, options, execution, window),
        "stored labels, from memory": Steps("stored", store, options, execution, window, streaming),
    }
    bare, seconds = bare_step(stage, options, execution), []
    turns, warm_up = (2, 1) if stage.tiny else (10, 2)
    for _ in range(warm_up + turns):
        seconds.append(stage.once(lambda: [bare() for _ in range(window)]) / window / options.batch)
        for way in ways.values():
            way.take()
    what, rest = f"training in batches of {options.batch}", slice(warm_up, None)
    stage.figure(f"{what}: model alone", 1 / statistics.median(seconds[rest]), "images/s")
    for name, way in ways.items():
        stage.figure(f"{what}: {name}", 1 / statistics.median(way.seconds[rest]), "images/s")
        share = statistics.median(a / b for a, b in zip(seconds[rest], way.seconds[rest], strict=True))
        stage.figure(f"{what}: {name} over model alone", share, "ratio")
    stored, hard = (ways[name].seconds[rest] for name in ("stored labels", "class ids alone"))
    ratio = statistics.median(b / a for a, b in zip(stored, hard, strict=True))
    stage.figure(f"{what}: stored labels over class ids alone", ratio, "ratio")


def bare_step(stage: Stage, options: argparse.Namespace, execution: Execution) -> Callable[[], None]:
    """Forward, backward and plain SGD on one batch that stays on the device, in the trainer's precision and layout."""
    layout, precision = execution.layout(stage.device), execution.precision(stage.device)
    model = create_student(options.student, CLASSES, options.size).to(stage.device).to(memory_format=layout).train()
    pixels = stage.random(options.batch, 3, options.size, options.size, dtype=torch.float32).to(memory_format=layout)
    classes = torch.randint(CLASSES, (options.batch,), device=stage.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with computing_in(precision, torch.device(stage.device)):
            loss = torch.nn.functional.cross_entropy(model(pixels), classes)
            loss.backward()
        optimizer.step()

    return step


def compilations(stage: Stage, store: Store, options: argparse.Namespace) -> int:
    """Graphs that are compiled in two epochs, whose batches are of two sizes."""
    from torch._dynamo.utils import counters

    counters.clear()
    with stage.compiler():
        steps = Steps("stored", store, options, Execution(compile=True))
        for _ in range(2 * -(-store.num_images // options.batch)):
            steps.step()
    return counters["stats"]["unique_graphs"]


def waits_of_step(stage: Stage, store: Store, options: argparse.Namespace) -> int:
    steps = Steps("stored", store, options, Execution())
    return waits(stage, lambda: [steps.step() for _ in range(3)])


def waits_of_denoise(stage: Stage) -> int:
    sample = sampling(stage, new(stage), 2 if stage.tiny else 16)
    return waits(stage, lambda: sample(4))


def waits(stage: Stage, call: Callable[[], object]) -> int:
    """0; or the error that names the first line where the CPU waits for the GPU."""
    call()  # chooses kernels
    if not stage.on_gpu:
        raise Unavailable("there is no GPU to wait for")
    torch.cuda.synchronize(stage.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0
