"""What stored views are worth: students of the bundled digits, by view policy, label codec and number of images.

    python benchmarks/views_study.py [--seeds 5] [--steps 500] [--images 300 3000] [--quick] [--json]

All students of one number of images take the same number of optimiser steps on the same images. Seeds are for the student
and the order of its batches; images and views are drawn once. The 300 images are the first 300 of the 3000. Random views
of rrc:8 are the first 8 of rrc:32. Control ``mismatched``: the student sees rrc:8's views, the labels are those of the centre
view. Reported are mean and standard deviation (n - 1) over seeds of the top-1 accuracy on the 360 held-out digits, and of
T² KL(teacher ‖ student) on them: with so few digits (one is 0.28 points) the distance to the teacher says more.

Every student's result is appended to ``results.jsonl`` at once, and not trained again. Several processes may share a folder with
different ``--images``. ``--seeds 0`` makes images and labels only. On a shared machine: OMP_WAIT_POLICY=PASSIVE, taskset.
"""

import argparse
import itertools
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.evaluate import evaluate
from dmkd.classifiers.evaluation_data import evaluation_batches
from dmkd.classifiers.load import load_classifier
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.runtime.progress import Advance, Silent
from dmkd.stores import Store, open_store, parse_codec
from dmkd.train import train
from dmkd.training.losses import kd_loss
from dmkd.training.training_recipe import resolve_training

TEACHER = "digits-resnet"
DIGITS = ",scale=0.6:1,ratio=0.9:1.1,flip=0"  # as dmkd/digits/pipeline/defaults.json has it
CODEC_VIEWS = "rrc:8"
CODECS = {"uint8": "uint8", "features": "features", "klt": "klt:0.5", "topk": "topk:5"}
BLOCK_SIZE, SUB_BATCH = 128, 64  # what 3000 images get by default; with these the first 300 have the same pixels
MISMATCHED = f"{TEACHER}-mismatched"

# What is compared: title -> label set, view policy, codec. The centre view comes first: the store's first view set is the one
# that has a canonical view, so the others have random views only.
CONDITIONS: dict[str, tuple[str, str, str]] = {"center": (TEACHER, "center", "float16")}
for _number in (1, 8, 32):
    for _mix in ("", "+cutmix"):
        _policy = f"rrc:{_number}{_mix}"
        CONDITIONS[_policy] = (f"{TEACHER}-{_policy.replace(':', '').replace('+', '-')}", _policy, "float16")
for _name, _codec in CODECS.items():
    CONDITIONS[f"{CODEC_VIEWS} {_codec}"] = (f"{TEACHER}-rrc8-{_name}", CODEC_VIEWS, _codec)
CONDITIONS["mismatched"] = (MISMATCHED, CODEC_VIEWS, "float16")


class Stopwatch(Silent):
    """Records when each block was done: the CPU seconds an image takes once everything is loaded."""

    def __init__(self) -> None:
        self.times: list[tuple[float, int]] = []

    @contextmanager
    def task(self, *args: Any, **kwargs: Any) -> Iterator[Advance]:
        yield lambda count, note="", detail=None: self.times.append((time.process_time(), count))

    def cpu_seconds_per_image(self) -> float | None:
        images = sum(count for _, count in self.times[1:])
        return (self.times[-1][0] - self.times[0][0]) / images if images else None


def prepare(folder: Path, num_images: int, record: Callable[[dict[str, Any]], None]) -> Store:
    """The store with all its label sets; makes whatever is missing and records what it took."""
    path, here = str(folder / f"digits{num_images}.zarr"), RunOptions(workers=0, device="cpu")
    watch = Stopwatch()
    images = ImageOptions(generator="digits", images=num_images, seed=0, sub_batch=SUB_BATCH, block_size=BLOCK_SIZE)
    store, _ = generate(path, images, LabelOptions(teachers=("none",)), here, watch)
    if seconds := watch.cpu_seconds_per_image():
        record({"made": "images", "images": num_images, "cpu_seconds_per_image": seconds})
    for name, policy, codec in CONDITIONS.values():
        if name in store.labels and not store.labels[name].missing_blocks():
            continue
        if name == MISMATCHED:
            label_mismatched(store)
            continue
        views, watch = policy if policy == "center" else policy + DIGITS, Stopwatch()
        store, _ = label(path, LabelOptions((TEACHER,), views, codec=codec, name=name), here, watch)
        if seconds := watch.cpu_seconds_per_image():
            seconds /= store.labels[name].num_views
            record({"made": name, "images": num_images, "cpu_seconds_per_view": seconds})
    return open_store(path)


def label_mismatched(store: Store) -> None:
    """Write the labels of the centre view beside every random view, as a label set of its own."""
    center, random = store.labels[TEACHER], store.labels[CONDITIONS[CODEC_VIEWS][0]]
    store.add_label_set(
        MISMATCHED,
        teacher=center.teacher,
        source=center.source,
        view_set=random.view_set,
        codec=parse_codec("float16"),
        num_classes=center.num_classes,
    )
    for block in store.labels[MISMATCHED].missing_blocks():
        ids = np.array(store.block_ids(block))
        logits = np.repeat(center.logits(ids), random.num_views, axis=1)
        store.write_block(block, labels={MISMATCHED: (logits, center.quality[ids])})


def run_student(store: Store, title: str, seed: int, steps: int, out: Path) -> dict[str, Any]:
    """Train one student and measure it -> what is recorded."""
    batches = -(-store.num_images // min(store.num_images, 128))
    epochs = max(1, round(steps / batches))
    # The default schedule warms up for 2 of its 22 epochs: the same share here.
    options = {"labels": CONDITIONS[title][0], "seed": seed, "epochs": epochs, "warmup_epochs": round(epochs / 11)}
    _, recipe = resolve_training(store, {**options, "batch_size": min(store.num_images, 128)})
    start = time.perf_counter()
    summary = train(recipe, store, out, device="cpu")
    seconds = time.perf_counter() - start
    student, teacher = load_classifier(summary["student"]), load_classifier(TEACHER)
    logits = [torch.cat([c.logits(x) for x, _ in evaluation_batches("digits", c)]) for c in (student, teacher)]
    result = {
        "top1": evaluate(student, evaluation_batches("digits", student)).top1,
        "kl": kd_loss(logits[0], logits[1], recipe.temperature).item(),
        "train_loss": summary["loss"],
        "optimizer_steps": epochs * batches,
        "seconds": seconds,
    }
    shutil.rmtree(out)
    return result


def table(lines: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """Students' lines of one number of steps -> one row a condition and number of images."""
    rows = []
    for title in CONDITIONS:
        for images in sorted({line["images"] for line in lines}):
            key = {"views": title, "images": images, "steps": steps}
            found = [line for line in lines if key.items() <= line.items()]
            if found:
                row: dict[str, Any] = {**key, "seeds": len(found)}
                for value in ("top1", "kl"):
                    values = [line[value] for line in found]
                    row[value] = statistics.mean(values)
                    row[f"{value}_sd"] = statistics.stdev(values) if len(values) > 1 else None
                rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]], steps: int) -> None:
    print(f"\nStudents after {steps} steps, on 360 held-out real digits: mean ± standard deviation over seeds\n")
    print(f"{'views and codec':18}{'images':>7}{'seeds':>6}{'top-1, %':>16}{'T² KL to the teacher':>23}")
    for r in rows:
        top1 = f"{100 * r['top1']:.2f} ± " + (f"{100 * r['top1_sd']:.2f}" if r["seeds"] > 1 else "   ?")
        kl = f"{r['kl']:.3f} ± " + (f"{r['kl_sd']:.3f}" if r["seeds"] > 1 else "    ?")
        print(f"{r['views']:18}{r['images']:7}{r['seeds']:6}{top1:>16}{kl:>23}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("views-study"), help="folder of stores and results")
    parser.add_argument("--images", type=int, nargs="+", default=[300, 3000], help="images to learn from")
    parser.add_argument("--seeds", type=int, default=5, help="students a condition; 0: make the stores only")
    parser.add_argument("--steps", type=int, default=500, help="optimiser steps of each, rounded to whole epochs")
    parser.add_argument("--quick", action="store_true", help="one seed, 60 steps")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object, the rows and the timings")
    options = parser.parse_args()
    seeds, steps = (1, 60) if options.quick else (options.seeds, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"

    def record(line: dict[str, Any]) -> None:
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def recorded() -> list[dict[str, Any]]:
        return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    stores = {number: prepare(options.out, number, record) for number in options.images}
    # Seeds outermost: if stopped early, all conditions have about the same number of students.
    for seed, number, title in itertools.product(range(seeds), options.images, CONDITIONS):
        key = {"views": title, "images": number, "steps": steps, "seed": seed}
        if not any(key.items() <= line.items() for line in recorded()):
            out = options.out / "runs" / f"{CONDITIONS[title][0]}-{number}-{steps}-{seed}"
            record({**key, **run_student(stores[number], title, seed, steps, out)})

    students = [line for line in recorded() if "seed" in line and line["images"] in options.images]
    rows = table(students, steps)
    print_table(rows, steps)
    if options.json:
        print(json.dumps({"students": rows, "timings": [line for line in recorded() if "made" in line]}))


if __name__ == "__main__":
    main()
