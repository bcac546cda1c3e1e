"""What a training step costs with stored labels, with the teacher run online, and without distillation.

    python benchmarks/training_step.py [--json] [--quick] [--device cuda] [--student resnet18] [--teacher resnet34]

The trainer's own step (loader, views, student, loss, optimiser) on random images of 1000 classes, with random weights: neither
changes the timing. The three take turns, so that other load affects them all alike; reported are medians. "online" draws the
same views and runs the teacher for its logits instead of reading them.

On a CPU each step is timed. On a GPU a turn is a window of steps, timed by CUDA events and waited for at its end: as in
training the CPU runs ahead of the GPU. Defaults there are ImageNet's 224 pixels and batches of 256.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.students import create_student, preprocessing_of
from dmkd.loading import Batch, Loader
from dmkd.runtime.precision import set_tf32
from dmkd.stores import Store, create_store, parse_codec
from dmkd.training.execution import Execution
from dmkd.training.losses import kd_loss
from dmkd.training.objective import Objective
from dmkd.training.optimisation import Optimisation
from dmkd.training.run_length import run_length
from dmkd.training.sources import open_loader
from dmkd.training.team import Team
from dmkd.training.training_recipe import resolve_training
from dmkd.views.render import normalise

CLASSES, VIEWS = 1000, 8


def make_store(path: Path, num_images: int, size: int, view_size: int | None = None) -> Store:
    """Random images, random resized crops to ``view_size`` (None: the images'), random logits: read and decoded as real ones."""
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(CLASSES)]
    store = create_store(
        str(path), recipe={"generator": "none"}, num_images=num_images, image_shape=(size, size, 3), class_names=names
    )
    components = ("top", "left", "height", "width", "flip")
    description = {"size": view_size or size, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    store.add_view_set("rrc", VIEWS, components, description)
    store.add_label_set(
        "teacher", teacher={"name": "t"}, source="t", view_set="rrc", codec=parse_codec("float16"), num_classes=CLASSES
    )
    for block in range(store.num_blocks):
        ids = np.array(store.block_ids(block))
        corners = rng.random((len(ids), VIEWS, 2), np.float32) * 0.3
        sides = 0.4 + rng.random((len(ids), VIEWS, 2), np.float32) * 0.3
        flips = rng.integers(0, 2, (len(ids), VIEWS, 1)).astype(np.float32)
        logits = rng.normal(size=(len(ids), VIEWS, CLASSES)).astype(np.float32)
        store.write_block(
            block,
            images=rng.integers(0, 256, (len(ids), size, size, 3), np.uint8),
            class_ids=rng.integers(0, CLASSES, len(ids)).astype(np.int32),
            views={"rrc": np.concatenate([corners, sides, flips], 2)},
            labels={"teacher": (logits, np.zeros((len(ids), 3), np.float32))},
        )
    return store


class OnlineObjective(Objective):
    """KL to a teacher that runs alongside the student, in the same precision, on the same pixels."""

    def set_teacher(self, teacher: torch.nn.Module) -> None:
        self.__dict__["teacher"] = teacher.eval().requires_grad_(False)  # not trained

    def forward(self, batch: Batch, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        feeding = self.preprocessing
        pixels = batch.pixels(size=feeding["input_size"], interpolation=feeding["interpolation"])
        images = normalise(pixels, feeding["mean"], feeding["std"]).contiguous(memory_format=self.layout)
        logits = self.model.forward_head(self.body(images))
        with torch.no_grad():
            said = self.teacher(images)
        return kd_loss(logits, said, self.recipe.temperature), (logits.argmax(1) == said.argmax(1)).sum()


class Steps:
    """One way to train, in turns of ``window`` steps: seconds an image, one number a turn.

    ``loader`` None: the trainer's own.
    """

    def __init__(
        self,
        way: str,
        store: Store,
        options: argparse.Namespace,
        execution: Execution,
        window: int = 1,
        loader: Loader | None = None,
    ) -> None:
        given = {"student": options.student, "batch_size": options.batch, "epochs": 1000, "lr": 0.01}
        _, recipe = resolve_training(store, {**given, "loss": "kl" if way == "stored" else "hard"}, "dm-kd")
        team = Team(options.device)
        loader = loader or open_loader(recipe, store, team.device)
        preprocessing = preprocessing_of(loader.view_set.attributes)
        layout = execution.layout(team.device)
        model = create_student(recipe.student, CLASSES, options.size).to(team.device).to(memory_format=layout)
        kind = OnlineObjective if way == "online" else Objective
        objective = kind(recipe, loader.decoder, model, preprocessing, layout, execution.compile)
        if isinstance(objective, OnlineObjective):
            teacher = create_student(options.teacher, CLASSES, options.size).to(team.device).to(memory_format=layout)
            objective.set_teacher(teacher)
        length = run_length(recipe, loader.num_images)
        self.optimisation = Optimisation(recipe, objective, team, execution.precision(team.device), length)
        self.batches, self.number, self.window = endless(loader), 0, window
        self.on_gpu = torch.device(team.device).type == "cuda"
        self.seconds: list[float] = []
        objective.train()

    def step(self) -> tuple[torch.Tensor, int]:
        """One step: sums on the device, which is not waited for, and the number of images."""
        batch = next(self.batches)
        self.number += 1
        return self.optimisation.step([(batch, True)], self.number - 1, len(batch))

    def take(self) -> None:
        """One turn."""
        if self.on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            images = sum(self.step()[1] for _ in range(self.window))
            end.record()
            end.synchronize()
            seconds = start.elapsed_time(end) / 1000
        else:
            begun, images = time.perf_counter(), 0
            for _ in range(self.window):
                sums, count = self.step()
                sums.tolist()  # the step is done
                images += count
            seconds = time.perf_counter() - begun
        self.seconds.append(seconds / images)


def endless(loader: Loader) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def choose_kernels_as_the_trainer_does(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
        set_tf32(False)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    turns, warm_up = (8, 2) if options.quick else (40, 5)
    window = 1
    if torch.device(options.device).type == "cuda":
        turns, window = turns // 4, 8
    choose_kernels_as_the_trainer_does(options.device)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "s.zarr", 16 * options.batch, options.size)
        ways = {way: Steps(way, store, options, Execution(), window) for way in ("stored", "online", "hard")}
        for number in range(warm_up + turns):
            order = list(ways.values())
            for way in order[number % 3 :] + order[: number % 3]:
                way.take()
    seconds = {name: way.seconds[warm_up:] for name, way in ways.items()}
    rates = {name: 1 / statistics.median(each) for name, each in seconds.items()}

    def ratio(way: str) -> float:
        """Rate with stored labels over that of ``way``, turn by turn, each pair measured within moments."""
        return statistics.median(b / a for a, b in zip(seconds["stored"], seconds[way], strict=True))

    return {"images_per_second": rates, "stored_over_online": ratio("online"), "stored_over_hard": ratio("hard")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only the last line, as JSON")
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps")
    parser.add_argument("--device", help="default: cuda if there is a GPU")
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--teacher", default="resnet34")
    parser.add_argument("--size", type=int, help="pixels; default: 224 on a GPU, 64 without one")
    parser.add_argument("--batch", type=int, help="default: 256 on a GPU, 32 without one")
    options = parser.parse_args()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = torch.device(options.device).type == "cuda"
    options.size = options.size or (224 if on_gpu else 64)
    options.batch = options.batch or (256 if on_gpu else 32)
    result = measure(options)
    if not options.json:
        print(f"{options.student}, teacher {options.teacher}, {options.size}x{options.size}, batch {options.batch}")
        for name, rate in result["images_per_second"].items():
            print(f"  {name:<8}{rate:10.1f} images/s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
