"""``dmkd import``"""

import json
from typing import Any

import click

from ..completion import classifiers, files
from ..help import MAIN, RUN, STORED_IMAGES, HeadedCommand, heading
from ..options import device_option, find_store, image_codec_option, json_option, label_options, store_option


@click.command("import", cls=HeadedCommand, short_help="Make a store of images that exist already.")
@click.argument("source", shell_complete=files)
@heading(MAIN)
@store_option
@click.option(
    "--size", type=int, metavar="PIXELS", help="Height and width of the store's images. Default: theirs, if all agree."
)
@click.option(
    "--class-names", shell_complete=files, metavar="FILE", help="Text file, one class name a line, class 0 first."
)
@click.option(
    "--classes", type=int, metavar="N", help="Number of classes. Default: the folders, or the largest id + 1."
)
@click.option("--skip-broken", is_flag=True, help="Decode every file first, and leave out those that can't be.")
@click.option("--seed", type=int, metavar="N", help="Seed of the order of images, and of their views. Default: 0.")
@click.option(
    "--teacher",
    "teachers",
    shell_complete=classifiers,
    multiple=True,
    metavar="NAME",
    help="Label when the images are in, as dmkd label does; may be repeated. Default: images only.",
)
@heading(STORED_IMAGES)
@click.option(
    "--block-size",
    type=int,
    metavar="N",
    help="Images in a block, the unit of work. Default: 256, fewer if they are large (64 at 256x256).",
)
@image_codec_option
@label_options
@heading(RUN)
@click.option("--workers", type=int, metavar="N", help="Decoding threads. Default: one per core.")
@device_option
@json_option
def command(
    source: str,
    store: str | None,
    teachers: tuple[str, ...],
    views: str | None,
    view_seed: int | None,
    codec: str | None,
    teacher_precision: str | None,
    teacher_prompt: tuple[str, ...],
    device: str | None,
    as_json: bool,
    **import_options: Any,
) -> None:
    """Make a store from labelled images that already exist; label and train-student then work on it as on any other.

    SOURCE is a folder with one subfolder of images per class; or files named class_<id>_seed_<n>_num_<k>.png, as DM-KD's
    authors released theirs; or WebDataset tar files: one, a folder of them, or a pattern such as
    'shards-{000..009}.tar'. The layout is recognised; folders called by ImageNet's WordNet ids get its classes' names.

    An image of the store's size is kept bit for bit; of others the shorter edge is resized (Pillow's bicubic) and the centre
    cut out. Images are shuffled, their classes evenly mixed. If interrupted, rerun the same command to resume; a source
    whose files have changed since is refused.

    \b
    Examples:
      dmkd import ./imagenet/train --store real.zarr --size 256
      dmkd import ./dm-kd-images --store dmkd.zarr --classes 1000 --teacher resnet18.tv_in1k
      dmkd import 'shards-{000..009}.tar' --store web.zarr --class-names imagenet.txt
      dmkd import ./photos --store photos.zarr --size 224 --skip-broken
    """
    from dmkd.import_images import ImportOptions, import_images
    from dmkd.making.asked import LabelOptions, check_labels
    from dmkd.stores import UsageError

    from ..display import make_display
    from ..summary import print_store, store_facts

    if not teachers and not (views is view_seed is teacher_precision is None):
        raise UsageError(
            "--views, --view-seed and --teacher-precision are for labels: give a --teacher too, or say them to dmkd label."
        )
    asked = LabelOptions(
        teachers, views, view_seed, codec, teacher_precision=teacher_precision, teacher_prompts=teacher_prompt or None
    )
    check_labels(asked)
    labels, run = None, None
    if teachers:
        from dmkd.engine.engine import RunOptions

        labels, run = asked, RunOptions(device=device)
    made = import_images(find_store(store), source, ImportOptions(**import_options), make_display(), labels, run)
    if as_json:
        click.echo(json.dumps(store_facts(made)))
    else:
        print_store(made)
