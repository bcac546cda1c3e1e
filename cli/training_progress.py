"""What a training run looks like; shared by ``train-student`` and ``demo``."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.loading.ingredient import Ingredient
from dmkd.runtime.progress import Advance, Display
from dmkd.stores import Store, UsageError
from dmkd.training.loss_table import HARD, HARD_LABELS, LOSSES
from dmkd.training.training_recipe import TrainingRecipe
from dmkd.views.shown import shown_views

from .display import percent, print_facts

if TYPE_CHECKING:
    from dmkd.training.execution import Execution


def train_with_progress(
    recipe: TrainingRecipe,
    store: Store,
    out: Path,
    device: str,
    val: str | None,
    display: Display,
    name: str = "train",
    execution: "Execution | None" = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Train with a bar that counts images over all epochs -> the summary (empty in a process that does not lead).

    More than one worker: processes of this machine, unless this is one of several already.
    """
    from dmkd.training.sources import count_images
    from dmkd.training.team import in_team, launch

    if workers == 1 or in_team():
        return _train_here(recipe, store, out, device, val, display, name, execution)
    count_images(recipe, store, workers)  # refuses what can't be before any process is started
    return launch(workers, _train_as_worker, recipe, store, out, device, val, name, execution)


def check_workers(workers: int, device: str) -> None:
    """Refuse a number of workers that can't be."""
    import torch

    from dmkd.training.team import in_team

    if workers < 1:
        raise UsageError(f"--workers must be at least 1, not {workers}.")
    if workers > 1 and in_team():
        raise UsageError("--workers starts processes, and torchrun has started them already: leave it out.")
    if workers > 1 and device.startswith("cuda") and workers > torch.cuda.device_count():
        raise UsageError(
            f"--workers {workers}: this machine has {torch.cuda.device_count()} GPUs, and each worker needs one."
        )


def _train_as_worker(
    recipe: TrainingRecipe,
    store: Store,
    out: Path,
    device: str,
    val: str | None,
    name: str,
    execution: "Execution | None",
) -> dict[str, Any]:
    from .display import make_display

    return _train_here(recipe, store, out, device, val, make_display(), name, execution)


def leads() -> bool:
    """Whether this process is the one that reports and writes, of those that torchrun or `--workers` started."""
    return int(os.environ.get("RANK", 0)) == 0


def _train_here(
    recipe: TrainingRecipe,
    store: Store,
    out: Path,
    device: str,
    val: str | None,
    display: Display,
    name: str,
    execution: "Execution | None",
) -> dict[str, Any]:
    from dmkd.train import Progress, train
    from dmkd.training.run_length import run_length
    from dmkd.training.sources import count_images

    if not leads():
        return train(recipe, store, out, device=device, evaluate_on=val, execution=execution)
    num_images = count_images(recipe, store)
    there = sum(one.store.num_images for one in recipe.ingredients(store))
    if left_out := there - num_images:
        why = "not made or not labelled yet" if recipe.labels else "not made yet"
        why = f"not selected, {why}" if recipe.select else why
        display.notice(f"{left_out:,} of {there:,} images are {why} and are left out.")
    seen, last_top1 = 0, ""
    advance: Advance
    with ExitStack() as until_done:

        def begin(images: int) -> None:
            nonlocal seen, advance
            seen = images
            length = run_length(recipe, num_images)
            total = length.images_seen(length.updates, num_images)
            task = display.task(f"{name} {recipe.student}", total, seen)
            advance = until_done.enter_context(task)

        def report(progress: Progress) -> None:
            nonlocal seen, last_top1
            if progress.evaluation:
                last_top1 = f"  top-1 {percent(progress.evaluation.top1)}"
            note = f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}{last_top1}"
            advance(progress.images - seen, note)
            seen = progress.images

        return train(
            recipe,
            store,
            out,
            device=device,
            evaluate_on=val,
            execution=execution,
            begin=begin,
            report=report,
            notice=display.notice,
        )


def print_recipe(preset: str, recipe: TrainingRecipe, store: Store, out: Path) -> None:
    views = shown_views(store, recipe.view_set)
    size = recipe.size or views.attributes["size"]
    shown = f"{recipe.view_set} at {size} x {size} pixels"
    if recipe.size:
        shown += f" ({'stored for' if recipe.view_set in store.views else 'drawn for'} {views.attributes['size']})"
    if views.num_views is None:
        shown += ", a new one of each image in each epoch"
    entry = LOSSES[recipe.loss]
    loss = entry.words
    if entry.from_labels and entry.tempered:
        falling = f" falling to {recipe.temperature_end:g}" if recipe.temperature_end else ""
        loss += f" at T={recipe.temperature:g}{falling}"
    if entry.options:
        loss += f" ({', '.join(f'{word} {value:g}' for word, value in recipe.own_options.items())})"
    if recipe.is_anchored:
        end = "" if recipe.hard_weight_end is None else f" to {recipe.hard_weight_end:.0%}"
        loss += f", {recipe.hard_weight:.0%}{end} {LOSSES[HARD_LABELS[recipe.hard_labels]].words}"
    if recipe.feature_weight:
        loss += f", features' squared error x {recipe.feature_weight:g}"
    if entry.from_labels and not all(one.labels for one in recipe.ingredients(store)):
        loss += f"; without labels {LOSSES[HARD].words}"
    length = _length(recipe.updates, recipe.epochs)
    if recipe.warmup_updates or recipe.warmup_epochs:
        length += f" ({_length(recipe.warmup_updates, recipe.warmup_epochs)} of warm-up)"
    extras = f", gradient norm at most {recipe.clip_grad:g}" if recipe.clip_grad else ""
    extras += f", weights averaged with decay {recipe.ema:g}" if recipe.ema else ""
    ingredients = recipe.ingredients(store)
    learnt = [("labels", recipe.labels or "class ids only"), ("views", shown)]
    if recipe.beside:
        learnt = [
            (one.store.path, _learnt(one, share)) for one, share in zip(ingredients, _shares(recipe), strict=True)
        ]
        learnt.append(("views", f"at {size} x {size} pixels"))
    print_facts(
        f"Training {recipe.student} on {' and '.join(one.store.path for one in ingredients)} (preset {preset})",
        [
            *learnt,
            ("loss", loss),
            ("optimiser", f"{recipe.optimizer}, lr {recipe.lr:g}, weight decay {recipe.weight_decay:g}{extras}"),
            ("schedule", f"{recipe.schedule}, {length}, batch {recipe.batch_size}, seed {recipe.seed}"),
            *([("tag", "{name}, sha256 {sha256}".format(**store.held_to))] if store.held_to else []),
            ("out", str(out)),
        ],
    )


def _shares(recipe: TrainingRecipe) -> list[str]:
    """Of each store's images in a batch."""
    if recipe.weights is None:
        return ["each once an epoch"] * (1 + len(recipe.beside))
    return [f"{weight / sum(recipe.weights):.1%} of each batch" for weight in recipe.weights]


def _learnt(one: Ingredient, share: str) -> str:
    return f"{share}, {one.labels or 'class ids only'}, views {one.view_set}"


def _length(updates: int | None, epochs: int | None) -> str:
    number, unit = (updates, "update") if updates else (epochs or 0, "epoch")
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def print_result(summary: dict[str, Any]) -> None:
    lines = [
        ("student", f"{summary['student']} ({summary['parameters']:,} parameters, {summary['updates']:,} updates)"),
        ("loss", f"{summary['loss']:.4f}"),
        ("agreement", f"{percent(summary['agreement'])} with its labels, on the training views"),
        (
            "rate",
            f"{summary['images_per_second']:,.0f} images/s, {summary['waiting_for_data']:.1%} of the time waiting for data",
        ),
    ]
    if summary["top1"] is not None:
        accuracy = f"top-1 {percent(summary['top1'])}, top-5 {percent(summary['top5'])}"
        lines.insert(1, (f"on {summary['evaluated_on']}", accuracy))
        best = summary["best"]
        lines.insert(
            2, ("best", f"top-1 {percent(best['top1'])} after epoch {best['epoch']}, chosen on it: {best['student']}")
        )
    print_facts("Done", lines)
