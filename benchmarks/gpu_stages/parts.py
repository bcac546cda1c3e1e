"""Stage B, second half: the decoder, teachers, and how idle a block of few steps leaves the GPU."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from device_time import busy_seconds
from generation import SCALES, make_models, save_pipeline
from gpu_stages.stage import Stage

from dmkd.classifiers.students import create_student, save_student
from dmkd.engine.stages import BlockStages
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.making.blocks import WorkOrder
from dmkd.runtime.precision import tf32
from dmkd.runtime.progress import Silent

LAYOUTS = ("NCHW", "channels_last", "channels_last, compiled")
PRECISIONS = ("float32", "TF32, channels_last", "bfloat16, channels_last", "bfloat16, channels_last, compiled")
VIEWS_AT_ONCE = 192  # 576 in parts of one shape, which is compiled once


def run(stage: Stage) -> None:
    count = 2 if stage.tiny else 16
    for layout in LAYOUTS:
        stage.attempt(
            f"decoder, {count} images, {layout}", lambda how=layout: decoder(stage, count, how), "ms", needs=40
        )
    views = 4 if stage.tiny else 576
    teachers = {"test_resnet": 64} if stage.tiny else {"resnet18": 224, "deit3_large_patch16_224": 224}
    for name, size in teachers.items():
        for how in PRECISIONS:
            measure = lambda n=name, s=size, h=how: teacher(stage, n, s, views, h)  # noqa: E731
            stage.attempt(f"{name}, {views} views, {how}", measure, "ms", needs=40)
    stage.attempt("a block of 4 steps", lambda: idle(stage), needs=120)


def decoder(stage: Stage, count: int, how: str) -> float:
    scale = SCALES["tiny" if stage.tiny else "XL/2"]
    torch.manual_seed(0)
    with torch.device(stage.device):
        _, vae = make_models(scale)
    model: Any = vae.to(stage.device, torch.bfloat16).requires_grad_(False)
    if "channels_last" in how:
        model.to(memory_format=torch.channels_last)
    if "compiled" in how:
        with stage.compiler():
            model.decoder.compile(dynamic=False)
    size = scale.transformer["sample_size"]
    latents = stage.random(count, 4, size, size)
    with torch.no_grad():
        return 1000 * stage.seconds(lambda: model.decode(latents, return_dict=False))


def teacher(stage: Stage, name: str, size: int, views: int, how: str) -> float:
    import timm

    torch.manual_seed(0)
    model: Any = timm.create_model(name).eval().requires_grad_(False).to(stage.device)
    pixels = stage.random(views, 3, size, size, dtype=torch.float32)
    if "channels_last" in how:
        model, pixels = (x.to(memory_format=torch.channels_last) for x in (model, pixels))
    if "compiled" in how:
        with stage.compiler():
            model.compile(dynamic=False)
    device_type, half = torch.device(stage.device).type, "bfloat16" in how

    def label() -> None:
        for part in pixels.split(VIEWS_AT_ONCE):
            model(part)

    with tf32("TF32" in how), torch.inference_mode(), torch.autocast(device_type, torch.bfloat16, enabled=half):
        return 1000 * stage.seconds(label, repeats=5)


def idle(stage: Stage) -> None:
    """Three blocks of 64 images from ids to labels in the store, as the engine makes them: labels beside the next block."""
    scale, count = SCALES["tiny" if stage.tiny else "XL/2"], 8 if stage.tiny else 64
    with tempfile.TemporaryDirectory() as name:
        pipeline, labels, store_path = (Path(name) / part for part in ("pipeline", "teacher", "store.zarr"))
        save_pipeline(scale, pipeline)
        architecture, size = ("test_resnet", 32) if stage.tiny else ("resnet18", 224)
        preprocessing = {"input_size": size, "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
        preprocessing |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        classes = [f"class {i}" for i in range(1000)]
        save_student(labels, create_student(architecture, 1000, size), architecture, classes, preprocessing)
        images = ImageOptions(
            generator=str(pipeline),
            images=3 * count,
            steps=4,
            dtype="bfloat16",
            sub_batch=count,
            block_size=count,
            compile=stage.on_gpu,
        )
        here = RunOptions(workers=0, device=stage.device)
        store, names = generate(str(store_path), images, LabelOptions(teachers=(str(labels),)), here, Silent())
        order = WorkOrder(store.path, tuple(names), stage.device, store.recipe["cpu_threads"], str(pipeline))
        with BlockStages(order) as stages:
            stages.start()

            def blocks(numbers: range) -> None:
                for block in [stages.make(number, stages.read(number)) for number in numbers]:
                    block.result()

            blocks(range(1))  # chooses kernels, compiles
            if not stage.on_gpu:
                stage.figure("a block of 4 steps", stage.once(lambda: blocks(range(3))) / 3, "s")
                return
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
                wall = stage.once(lambda: blocks(range(3)))
        stage.figure("a block of 4 steps", wall / 3, "s")
        stage.figure("a block of 4 steps: GPU idle", 1 - busy_seconds(profiler.events()) / wall, "share of the time")
