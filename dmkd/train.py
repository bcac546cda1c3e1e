"""SPINE 2: batches -> views -> student -> loss -> step -> evaluate -> checkpoint, in that order."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd.classifiers import load_classifier
from dmkd.devices import default_cpu_threads, make_deterministic
from dmkd.evaluate import Evaluation, evaluate
from dmkd.evaluation_data import evaluation_batches
from dmkd.loading import open_loader
from dmkd.objective import Objective
from dmkd.stores import DmkdError, Store
from dmkd.stores.identity import refuse_mismatch
from dmkd.students import IMAGENET_MEAN, IMAGENET_STD, create_student, save_student
from dmkd.training_recipe import TrainingRecipe
from dmkd.versions import hardware, library_versions

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
STUDENT = "student"


@dataclass
class Progress:
    """What is told after every step: ``epoch`` of ``epochs``, ``images`` of ``total_images`` seen in all epochs."""

    epoch: int
    epochs: int
    images: int
    total_images: int
    loss: float
    evaluation: Evaluation | None = None


def train(
    recipe: TrainingRecipe,
    store: Store,
    out: Path,
    *,
    device: str,
    evaluate_on: str | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Train a student on a store's files alone and write ``out``: the student, curves and ``summary.json`` (returned).

    Stopped at any moment and called again with the same arguments, it goes on after the last whole epoch; on a CPU the
    weights are then the same to the bit as those of an uninterrupted run. ``evaluate_on``: labelled images on which
    every epoch is measured (a folder, a store or ``digits``); nothing is chosen by it, the last epoch is the student.
    Raises ``MismatchError`` if ``out`` holds a run of another recipe or store.
    """
    cpu_threads = default_cpu_threads() if device == "cpu" else None
    make_deterministic(device, cpu_threads)
    loader = open_loader(recipe, store, device)
    description: dict[str, Any] = {
        "training": recipe.to_json(),
        "store": {"identity": store.identity, "images": loader.num_images},
        "labels": {name: label_set.identity for name, label_set in loader.label_sets.items()},
        "cpu_threads": cpu_threads,
    }
    preprocessing = preprocessing_of(loader.view_set.attributes)

    torch.manual_seed(recipe.seed)
    model = create_student(recipe.student, store.num_classes, preprocessing["input_size"]).to(device)
    objective = Objective(recipe, loader, model, preprocessing)
    optimizer, scheduler = _optimizer(recipe, objective, updates_per_epoch=len(loader))
    out.mkdir(parents=True, exist_ok=True)
    state = _load_checkpoint(out, description)
    if state:
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
    lines: list[dict[str, Any]] = state["metrics"] if state else []
    curves = _Curves(out, lines)

    evaluation = None
    for epoch in range(len(lines), recipe.epochs):
        model.train()
        start, sums = time.perf_counter(), {"loss": 0.0, "agreement": 0.0}
        for step, batch in enumerate(loader.epoch(epoch)):
            scheduler.step_update(epoch * len(loader) + step)
            loss, measured = objective(batch, progress=(epoch * len(loader) + step) / (recipe.epochs * len(loader)))
            if not torch.isfinite(loss):
                raise DmkdError(
                    f"The loss became {loss.item()} in epoch {epoch + 1}, step {step + 1}: "
                    f"lower --lr (now {recipe.lr}); delete {out} to start again."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for key, value in {"loss": loss.item(), **measured}.items():
                sums[key] += value * len(batch.ids)
            seen = epoch * loader.num_images + (step + 1) * loader.num_images // len(loader)
            report(Progress(epoch + 1, recipe.epochs, seen, recipe.epochs * loader.num_images, loss.item()))
        line = {
            "epoch": epoch + 1,
            **{key: value / loader.num_images for key, value in sums.items()},
            "lr": optimizer.param_groups[0]["lr"],
            "images_per_second": loader.num_images / (time.perf_counter() - start),
        }
        if evaluate_on:
            save_student(out / STUDENT, model, recipe.student, store.class_names, preprocessing)
            evaluation = evaluate_folder(out / STUDENT, evaluate_on, device, store.class_names)
            line |= {"top1": evaluation.top1, "top5": evaluation.top5}
        lines.append(line)
        curves.add(line)
        _save_checkpoint(out, description, objective, optimizer, lines)
        total = recipe.epochs * loader.num_images
        report(Progress(epoch + 1, recipe.epochs, (epoch + 1) * loader.num_images, total, line["loss"], evaluation))
    curves.close()

    save_student(out / STUDENT, model, recipe.student, store.class_names, preprocessing)
    last = lines[-1]
    summary = {
        **description,
        "store": {**description["store"], "path": store.path, "recipe": store.recipe},
        "student": str(out / STUDENT),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": last["loss"],
        "agreement": last["agreement"],
        "evaluated_on": evaluate_on,
        "top1": last.get("top1"),
        "top5": last.get("top5"),
        "images_per_second": float(np.median([line["images_per_second"] for line in lines])),
        "versions": library_versions(),
        "hardware": hardware(),
    }
    _write_atomically(out / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def evaluate_folder(
    folder: Path, data: str, device: str, class_names: list[str] | None = None, workers: int = 0
) -> Evaluation:
    """Evaluate a saved classifier: a student is measured as it was written, not as it was in memory."""
    classifier = load_classifier(str(folder), device=device)
    return evaluate(classifier, evaluation_batches(data, classifier, class_names, workers))


def preprocessing_of(view_attributes: dict[str, Any]) -> dict[str, Any]:
    """How a student that learns from a view set is fed: its size, its interpolation, its canonical view."""
    return {
        "input_size": view_attributes["size"],
        "interpolation": view_attributes["interpolation"],
        "crop_pct": view_attributes["crop_pct"],
        "crop_mode": view_attributes["crop_mode"],
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }


def _optimizer(recipe: TrainingRecipe, objective: torch.nn.Module, updates_per_epoch: int) -> tuple[Any, Any]:
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    optimizer = create_optimizer_v2(
        objective,
        # timm's "sgd" is Nesterov's; DM-KD's is plain momentum, with weight decay on all parameters.
        opt={"sgd": "momentum", "adamw": "adamw"}[recipe.optimizer],
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        filter_bias_and_bn=recipe.optimizer == "adamw",
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched={"step": "multistep", "cosine": "cosine"}[recipe.schedule],
        num_epochs=recipe.epochs,
        decay_milestones=[round(share * recipe.epochs) for share in recipe.milestones],
        decay_rate=0.1,
        warmup_epochs=recipe.warmup_epochs,
        warmup_lr=recipe.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    return optimizer, scheduler


class _Curves:
    """metrics.jsonl and TensorBoard's event file, both rewritten from the checkpoint's lines on resume."""

    def __init__(self, out: Path, lines: list[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in out.glob("events.out.tfevents.*"):
            old.unlink()
        self.board = SummaryWriter(out)
        self.file = (out / METRICS).open("w")
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for key, value in line.items():
            if key != "epoch":
                self.board.add_scalar(key, value, line["epoch"])

    def close(self) -> None:
        self.file.close()
        self.board.close()


def _load_checkpoint(out: Path, description: dict[str, Any]) -> dict[str, Any] | None:
    path = out / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        stored = json.loads(state["description"])
    except Exception as error:
        raise DmkdError(f"{path} can't be read ({type(error).__name__}): delete {out} to start again.") from error
    refuse_mismatch(f"The run in {out}", stored, description, "Choose another --out, or delete it to start again.")
    return state


def _save_checkpoint(
    out: Path, description: dict[str, Any], objective: torch.nn.Module, optimizer: Any, lines: list[dict[str, Any]]
) -> None:
    temporary = out / f"{CHECKPOINT}.{os.getpid()}.tmp"
    torch.save(
        {
            "description": json.dumps(description),
            "objective": objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "metrics": lines,
        },
        temporary,
    )
    os.replace(temporary, out / CHECKPOINT)


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
