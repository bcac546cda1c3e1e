"""``dmkd train-student``"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..completion import files, folders
from ..help import MAIN, RUN, HeadedCommand, heading
from ..options import device_option, existing_store, find_store, json_option, stores_option
from ..training_options import execution_options, take_execution, training_options

if TYPE_CHECKING:
    from dmkd.runtime.progress import Display
    from dmkd.stores import Store


@click.command("train-student", cls=HeadedCommand, short_help="Train a student on a store alone.")
@heading(MAIN)
@stores_option
@click.option(
    "--student",
    metavar="NAME",
    help="timm architecture, or wrn_16_2, cifar_resnet20, ... Default: resnet18; digits: a small one.",
)
@click.option(
    "--labels",
    metavar="NAMES",
    help="Label sets to learn from, a or a,b or a=2,b=1; of several stores of each, as in one.zarr:a,two.zarr:b, where "
    "two.zarr: is its class ids alone. Default: the only one; of a store without labels, beside others, its class ids.",
)
@click.option(
    "--views",
    "view_set",
    metavar="NAME",
    help="Without labels: a view set of the store, rrc (a new random crop of each image in each epoch; "
    "rrc,scale=0.5:1,flip=0), pad (moved by up to 4 pixels), or whole. Default: the store's first, else rrc.",
)
@click.option(
    "--tag",
    metavar="NAME",
    help="Learn from what the store, or each of several, held when it was tagged (dmkd tag), and from nothing else. Default: all "
    "that it holds.",
)
@training_options
@heading(MAIN)
@click.option(
    "--seed", type=int, metavar="N", help="Seed of the initial weights and of the order of images. Default: 0."
)
@click.option(
    "--val",
    shell_complete=files,
    metavar="DATA",
    help="Real images to measure the student on: a folder of class folders, WebDataset tars, a store, or digits.",
)
@click.option(
    "--out",
    shell_complete=folders,
    metavar="FOLDER",
    help="Folder of the run. Default: students/STORE-STUDENT-LABELS.",
)
@execution_options
@heading(RUN)
@click.option(
    "--workers", type=int, default=1, show_default=True, metavar="N", help="Processes on this machine, one per GPU."
)
@click.option(
    "--sync-bn",
    is_flag=True,
    default=None,
    help="Share batch-norm statistics between workers (GPUs only). Default: each worker has its own.",
)
@device_option
@json_option
def command(
    stores: tuple[str, ...],
    tag: str | None,
    student_args: tuple[str, ...],
    preset: str | None,
    val: str | None,
    out: str | None,
    workers: int,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a student on a store's files alone: images, stored views and stored logits. No teacher runs.

    Options that are left out are chosen to fit the store, and printed. If interrupted, rerun the same command to resume. To
    train a finished run for longer, rerun it with more --epochs (or --updates).

    The folder holds student (the last epoch's), best (chosen on the --val images, so its accuracy on them is optimistic), the
    curves and summary.json.

    \b
    Examples:
      dmkd train-student
      dmkd train-student --student resnet50 --labels resnet34.tv_in1k --val /data/imagenet/val --workers 8
      dmkd train-student --optimizer adamw --schedule cosine --epochs 300 --temperature 20
      dmkd train-student --preset cutmix-t20 --labels resnet34.tv_in1k,resnet18.tv_in1k
      dmkd train-student --temperature 20 --temperature-end 2 --select "entropy<2.5 and agree"
      dmkd train-student --student wrn_16_2 --loss dkd --dkd-beta 8 --temperature 4
      dmkd train-student --student vit_small_patch16_224 --student-arg drop_path_rate=0.1 --ema 0.9999 --clip-grad 1
      dmkd train-student --loss hard                                  the same images, without a teacher
      dmkd train-student --loss hard --views rrc,scale=0.5:1 --size 64
      dmkd train-student --tag v1                                     what the tag covers, and the summary cites it
      dmkd train-student --store generated.zarr --store photos.zarr --labels resnet34.tv_in1k,photos.zarr:
      dmkd train-student --store generated.zarr=3 --store photos.zarr --val photos-test.zarr
    """
    from dmkd.digits import GENERATORS
    from dmkd.formats.find import check_data
    from dmkd.recipes.label_choice import parse_labels
    from dmkd.recipes.store_choice import parse_store
    from dmkd.runtime.devices import choose_device
    from dmkd.runtime.progress import Silent
    from dmkd.training.training_recipe import (
        parse_student_args,
        preset_notice,
        refuse_unused,
        resolve_mixture,
        resolve_training,
    )

    from ..display import make_display
    from ..training_progress import check_workers, leads, print_recipe, print_result, train_with_progress

    named = [parse_store(text) for text in stores or [find_store(None)]]
    paths = [existing_store(path) for path, _ in named]
    if val is not None:
        check_data(val)
    execution = take_execution(options)
    options["student_args"] = parse_student_args(student_args) or None
    display = make_display() if leads() else Silent()
    opened, *others = _opened(paths, tag, options["labels"], display)
    if others:
        name, recipe = resolve_mixture([opened, *others], [weight for _, weight in named], options, preset)
    else:
        name, recipe = resolve_training(opened, options, preset)
    chosen = choose_device(device)
    check_workers(workers, chosen)
    refuse_unused(options, [recipe])
    ingredients = recipe.ingredients(opened)
    stem = "+".join(Path(one.store.path.rstrip("/")).stem for one in ingredients)
    labels = "+".join(dict.fromkeys(name for one in ingredients for name in parse_labels(one.labels))) or recipe.loss
    folder = Path(out or f"students/{stem}-{recipe.student}-{labels}")
    if not as_json and leads():
        print_recipe(name, recipe, opened, folder)
    if leads() and (sentence := preset_notice(preset, opened, recipe)):
        display.notice(sentence)
    if val is None and opened.recipe.get("generator") in GENERATORS:
        val = "digits"
    summary = train_with_progress(recipe, opened, folder, chosen, val, display, execution=execution, workers=workers)
    if not leads():
        return
    if as_json:
        click.echo(json.dumps(summary))
    else:
        print_result(summary)


def _opened(paths: list[str], tag: str | None, labels: str | None, display: "Display") -> "list[Store]":
    """The stores, or what they held when they were given this tag."""
    from dmkd.recipes.label_choice import parse_labels
    from dmkd.recipes.store_choice import labels_of_each
    from dmkd.stores import open_store
    from dmkd.stores.tagged_store import open_tagged
    from dmkd.stores.tags import read_tag

    stores: list[Store] = [open_store(path) for path in paths]
    if tag is None:
        return stores
    of_each = labels_of_each(labels, stores) if stores[1:] else [labels]
    tagged: list[Store] = []
    for store, of_it in zip(stores, of_each, strict=True):
        with display.task(f"compare with tag {tag}", read_tag(store, tag).num_blocks, unit="blocks") as advance:
            tagged.append(open_tagged(store.path, tag, parse_labels(of_it), advance))
    return tagged
