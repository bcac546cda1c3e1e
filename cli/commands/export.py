"""``dmkd export``"""

import json
from typing import Any

import click

from ..completion import files, folders
from ..help import MAIN, RUN, HeadedCommand, heading
from ..options import existing_store, json_option, store_option


@click.command("export", cls=HeadedCommand, short_help="Write images and labels as other tools read them.")
@click.argument("path", shell_complete=files, required=False, metavar="[STORE]")
@heading(MAIN)
@store_option
@click.option(
    "--to",
    "folder",
    shell_complete=folders,
    required=True,
    metavar="FOLDER",
    help="Local folder: new, or of an export to resume.",
)
@click.option(
    "--format",
    type=click.Choice(["imagefolder", "webdataset", "parquet"]),
    required=True,
    help="One folder per class (torchvision, timm); tar shards; or Parquet for Hugging Face datasets.",
)
@heading("Images")
@click.option("--jpeg", type=int, metavar="QUALITY", help="JPEG quality, 1 to 100. Default: PNG, which is lossless.")
@heading("Logits")
@click.option(
    "--labels",
    metavar="NAMES",
    help="Label sets whose logits are written, with commas, or none. Default: all. An image folder has no room for them.",
)
@click.option(
    "--views",
    type=click.Choice(["first", "all"]),
    default="first",
    help="Logits of the first view of each image (of the first view set: what the teacher evaluates on) or of all. "
    "Default: first.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    help="Type of the logits. Default: float16.",
)
@click.option(
    "--columns",
    metavar="NAMES",
    help="Columns of numbers (`dmkd columns`) that are written, with commas, or none. Default: all.",
)
@heading("Images")
@click.option(
    "--select",
    metavar="RULE",
    help='Only images of which this holds in the eyes of the first label set\'s teacher, such as "entropy < 2.5 and agree".',
)
@click.option("--images", type=int, metavar="N", help="Only the first N images, before --select. Default: all.")
@heading(RUN)
@click.option(
    "--shard-images",
    type=int,
    metavar="N",
    help="Image ids per shard. Default: whole blocks, up to 256 MB of raw pixels and 8192 images.",
)
@click.option("--workers", type=int, metavar="N", help="Encoding threads. Default: one per core.")
@json_option
def command(path: str | None, store: str | None, folder: str, as_json: bool, **options: Any) -> None:
    """Write a store's images, and the logits of its teachers, as the files that other tools read.

    Files are named by image id and appear whole or not at all; if interrupted, rerun the same command to resume. Blocks that
    are missing are left out, and added by the same command when they are there. The folder gets the store's card.

    \b
    Examples:
      dmkd export imnet.zarr --to ./imnet --format imagefolder
      dmkd export imnet.zarr --to ./imnet-jpeg --format imagefolder --jpeg 95 --select "entropy < 2.5 and agree"
      dmkd export imnet.zarr --to ./shards --format webdataset --labels resnet34.tv_in1k,resnet18.tv_in1k --views all
      dmkd export --store imnet.zarr --to ./hub --format parquet --images 10000
    """
    from dmkd.export import ExportOptions, export_store
    from dmkd.stores import open_store

    from ..display import make_display

    exported = export_store(open_store(existing_store(path or store)), folder, ExportOptions(**options), make_display())
    if as_json:
        click.echo(json.dumps(exported.to_json()))
    else:
        missing = f", {exported.missing:,} still missing in the store" if exported.missing else ""
        click.echo(
            f"{exported.folder}: {exported.images:,} images as {exported.format}, {exported.written:,} of them written now"
            f"{missing}."
        )
