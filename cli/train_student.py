"""``dmkd train-student``"""

import json
from pathlib import Path
from typing import Any

import click

from .options import device_option, find_store, json_option, store_option


@click.command("train-student", short_help="Train a student on a store alone.")
@store_option
@click.option(
    "--student", metavar="NAME", help="timm architecture. Default: resnet18, or a small one for small images."
)
@click.option("--preset", metavar="NAME", help="dm-kd or cutmix-t20. Default: what suits the store's image size.")
@click.option("--labels", metavar="NAMES", help="Label sets to learn from, a or a,b or a=2,b=1. Default: the only one.")
@click.option("--select", metavar="RULE", help='Images to use, such as "entropy<2.5 and agree". Default: all.')
@click.option("--loss", metavar="KIND", help="kl, dkd (decoupled), or hard: only the class asked for. Default: kl.")
@click.option("--temperature", type=float, metavar="T", help="Of the KL. Default: 10, as DM-KD.")
@click.option("--temperature-end", type=float, metavar="T", help="Let the temperature fall to this. Default: it stays.")
@click.option(
    "--hard-weight", type=float, metavar="W", help="Share of the class asked for in the loss, 0 to 1. Default: 0."
)
@click.option("--feature-weight", type=float, metavar="W", help="Of the features' squared error (codec features).")
@click.option("--epochs", type=int, metavar="N", help="Default: 100 for ImageNet-sized images.")
@click.option("--batch-size", type=int, metavar="N", help="Default: 256 for ImageNet-sized images.")
@click.option("--optimizer", metavar="NAME", help="sgd (momentum 0.9) or adamw.")
@click.option("--lr", type=float, metavar="X", help="Learning rate at the start.")
@click.option("--weight-decay", type=float, metavar="X")
@click.option("--schedule", metavar="NAME", help="step or cosine.")
@click.option("--warmup-epochs", type=int, metavar="N")
@click.option("--seed", type=int, metavar="N", help="Of the weights and of the order. Default: 0.")
@click.option(
    "--val",
    metavar="DATA",
    help="Real images to measure every epoch on: a folder of class folders, a store, or digits.",
)
@click.option("--out", metavar="FOLDER", help="Default: students/STORE-STUDENT-LABELS.")
@device_option
@json_option
def command(
    store: str | None,
    preset: str | None,
    val: str | None,
    out: str | None,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a student on a store's files alone: images, stored views and stored logits. No teacher runs.

    What is not said is chosen to fit the store and printed. Stopped at any moment, the same command goes on.

    \b
    Examples:
      dmkd train-student
      dmkd train-student --student resnet50 --labels resnet34 --val /data/imagenet/val
      dmkd train-student --optimizer adamw --schedule cosine --epochs 300 --temperature 20
      dmkd train-student --preset cutmix-t20 --labels resnet34,resnet18
      dmkd train-student --temperature 20 --temperature-end 2 --select "entropy<2.5 and agree"
      dmkd train-student --loss hard                                  the same images, without a teacher
    """
    from dmkd.devices import choose_device
    from dmkd.stores import open_store
    from dmkd.training_recipe import parse_labels, resolve_training

    from .display import make_display
    from .training import print_recipe, print_result, train_with_progress

    opened = open_store(find_store(store))
    preset, recipe = resolve_training(opened, options, preset)
    chosen = choose_device(device)
    stem = Path(opened.path.rstrip("/")).stem
    labels = "hard" if recipe.labels is None else "+".join(parse_labels(recipe.labels))
    folder = Path(out or f"students/{stem}-{recipe.student}-{labels}")
    display = make_display()
    if not as_json:
        print_recipe(preset, recipe, opened, folder)
    if val is None and opened.recipe.get("generator") == "digits":
        val = "digits"
    summary = train_with_progress(recipe, opened, folder, chosen, val, display)
    if as_json:
        click.echo(json.dumps(summary))
    else:
        print_result(summary)
