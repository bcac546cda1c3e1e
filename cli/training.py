"""What a training run looks like; shared by ``train-student`` and ``demo``."""

from pathlib import Path
from typing import Any

from dmkd.progress import Display
from dmkd.stores import Store
from dmkd.training_recipe import TrainingRecipe

from .display import percent, print_facts


def train_with_progress(
    recipe: TrainingRecipe, store: Store, out: Path, device: str, val: str | None, display: Display, name: str = "train"
) -> dict[str, Any]:
    """Train with a bar that counts images over all epochs -> the summary."""
    from dmkd.loading import open_loader
    from dmkd.train import Progress, train

    loader = open_loader(recipe, store, device)
    if left_out := store.num_images - loader.num_images:
        why = "not selected, not made or not labelled yet" if recipe.select else "not made or not labelled yet"
        display.notice(f"{left_out:,} of {store.num_images:,} images are {why} and are left out.")
    total, seen, last_top1 = recipe.epochs * loader.num_images, 0, ""
    with display.task(f"{name} {recipe.student}", total) as advance:

        def report(progress: Progress) -> None:
            nonlocal seen, last_top1
            if progress.evaluation:
                last_top1 = f"  top-1 {percent(progress.evaluation.top1)}"
            note = f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}{last_top1}"
            advance(progress.images - seen, note)
            seen = progress.images

        return train(recipe, store, out, device=device, evaluate_on=val, report=report)


def print_recipe(preset: str, recipe: TrainingRecipe, store: Store, out: Path) -> None:
    labels = (
        f"{recipe.labels}, views {recipe.view_set}" if recipe.labels else f"class ids only, views {recipe.view_set}"
    )
    falling = f" falling to {recipe.temperature_end:g}" if recipe.temperature_end else ""
    kind = {"kl": "KL", "dkd": "decoupled KL"}.get(recipe.loss)
    loss = f"{kind} at T={recipe.temperature:g}{falling}" if kind else "cross-entropy with the class asked for"
    if recipe.hard_weight and kind:
        loss += f", {recipe.hard_weight:.0%} cross-entropy with the class asked for"
    if recipe.feature_weight:
        loss += f", features' squared error x {recipe.feature_weight:g}"
    print_facts(
        f"Training {recipe.student} on {store.path} (preset {preset})",
        [
            ("labels", labels),
            ("loss", loss),
            ("optimiser", f"{recipe.optimizer}, lr {recipe.lr:g}, weight decay {recipe.weight_decay:g}"),
            ("schedule", f"{recipe.schedule}, {recipe.epochs} epochs, batch {recipe.batch_size}, seed {recipe.seed}"),
            ("out", str(out)),
        ],
    )


def print_result(summary: dict[str, Any]) -> None:
    lines = [
        ("student", f"{summary['student']} ({summary['parameters']:,} parameters)"),
        ("loss", f"{summary['loss']:.4f}"),
        ("agreement", f"{percent(summary['agreement'])} with its labels, on the training views"),
        ("rate", f"{summary['images_per_second']:,.0f} images/s"),
    ]
    if summary["top1"] is not None:
        accuracy = f"top-1 {percent(summary['top1'])}, top-5 {percent(summary['top5'])}"
        lines.insert(1, (f"on {summary['evaluated_on']}", accuracy))
    print_facts("Done", lines)
