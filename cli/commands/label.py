"""``dmkd label``"""

import json

import click

from ..completion import classifiers
from ..help import MAIN, HeadedCommand, heading
from ..options import existing_store, json_option, label_options, run_options, store_option


@click.command("label", cls=HeadedCommand, short_help="Add a teacher's labels.")
@heading(MAIN)
@store_option
@click.option(
    "--teacher",
    "teachers",
    shell_complete=classifiers,
    multiple=True,
    metavar="NAME",
    help="timm model, folder, ARCHITECTURE=FILE of weights, or what else dmkd teachers lists; may be repeated. Default: finish "
    "what was begun.",
)
@click.option("--name", metavar="NAME", help="Name of the label set. Default: the teacher's, or that of its file.")
@label_options
@run_options
@json_option
def command(
    store: str | None,
    teachers: tuple[str, ...],
    name: str | None,
    views: str | None,
    view_seed: int | None,
    codec: str | None,
    teacher_precision: str | None,
    teacher_prompt: tuple[str, ...],
    workers: int | None,
    device: str | None,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Add a teacher's labels to the images of a store. If interrupted, rerun the same command to resume.

    While dmkd generate is still making images, they are labelled as they come. A later teacher looks at the
    views that the first one saw, so that their labels can be compared and averaged.

    \b
    Examples:
      dmkd label --teacher resnet34.tv_in1k
      dmkd label --store imnet.zarr --teacher resnet18.tv_in1k --teacher convnext_tiny
      dmkd label --teacher resnet18=./my_weights.safetensors --name mine
      dmkd label --store pets.zarr --teacher clip:openai/clip-vit-base-patch32
      dmkd label                                              finish what was begun
    """
    from dmkd.making.asked import LabelOptions, check_labels

    path = existing_store(store)
    options = LabelOptions(teachers or None, views, view_seed, codec, name, teacher_precision, teacher_prompt or None)
    check_labels(options)

    from dmkd.generate import RunOptions, label

    from ..display import make_display
    from ..summary import print_store, store_facts

    labelled, _ = label(path, options, RunOptions(workers, device, ray_address), make_display())
    if as_json:
        click.echo(json.dumps(store_facts(labelled)))
    else:
        print_store(labelled)
