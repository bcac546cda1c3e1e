"""Options that several commands share, and which store is meant when none is named."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dmkd.stores.errors import NotAStoreError, UsageError
from dmkd.stores.locations import scheme, set_endpoint
from dmkd.stores.trees.tree import stores_in

from .completion import DEVICES, IMAGE_CODECS, VIEWS, ListingOption, files, words
from .help import LABELS, OTHERS, RUN, heading, under


def _use_endpoint(context: click.Context, parameter: click.Parameter, url: str | None) -> None:
    set_endpoint(url)


endpoint_option = under(
    OTHERS,
    click.option(
        "--endpoint-url",
        metavar="URL",
        expose_value=False,
        callback=_use_endpoint,
        help="S3 server for s3:// paths, if it is not Amazon's. Default: $AWS_ENDPOINT_URL.",
    ),
)


def store_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which store."""
    named = click.option(
        "--store",
        shell_complete=files,
        metavar="PATH",
        help="The store: a folder, an HDF5 file (.h5, .hdf5), or s3://BUCKET/NAME (gs://, az://); to be read, also "
        "hf://datasets/USER/NAME. Default: $DMKD_STORE, or the only store in the current folder.",
    )
    return named(endpoint_option(function))


def stores_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which store, or which stores, as ``stores``."""
    named = click.option(
        "--store",
        "stores",
        multiple=True,
        shell_complete=files,
        metavar="PATH",
        help="The store: a folder, an HDF5 file (.h5, .hdf5), or s3://BUCKET/NAME (gs://, az://). Default: $DMKD_STORE, or the "
        "only store in the current folder. Give several to learn from them together, each image once an epoch; or with their "
        "shares of each batch: --store a.zarr --store b.zarr=3 for a quarter and three.",
    )
    return named(endpoint_option(function))


json_option = under(
    OTHERS, click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead of a table.")
)

device_option = click.option(
    "--device",
    shell_complete=words(*DEVICES),
    metavar="DEVICE",
    help="cpu, cuda, cuda:1 or mps (an Apple GPU). Default: the NVIDIA or AMD GPU if there is one.",
)


image_codec_option = click.option(
    "--image-codec",
    shell_complete=words(*IMAGE_CODECS),
    metavar="CODEC",
    help="How pixels are written: raw, webp (lossless, half the bytes), or jpeg:95 (a sixth; labels are of what it "
    "decodes to). Default: raw.",
)


teacher_prompt_option = click.option(
    "--teacher-prompt",
    multiple=True,
    metavar="TEXT",
    help="For teachers made of class names, such as clip:ID: {} is the class name; may be repeated, a class is their mean; "
    '@FILE: one a line; imagenet: the 80 of CLIP\'s authors. Default: as the labels there are, else "a photo of a {}.".',
)


def without(*options: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Leave these options (``--size``) of those below out: another one, above, is called so."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        params: list[click.Parameter] = function.__click_params__  # type: ignore[attr-defined]  # click's own note
        params[:] = [param for param in params if not {*param.opts} & {*options}]
        return function

    return decorate


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where blocks are made."""
    for option in (
        click.option("--ray-address", metavar="ADDRESS", help="Ray cluster to work on, such as auto. Default: none."),
        device_option,
        click.option(
            "--workers",
            type=int,
            metavar="N",
            help="Ray actors, one a GPU; 0: this process. Default: one for each GPU if there are several, else 0.",
        ),
        heading(RUN),
    ):
        function = option(function)
    return function


def codec_examples() -> list[str]:
    """Label codecs as users may write them."""
    from dmkd.stores.codecs import CODECS

    return [codec.example for codec in CODECS.values()]


def _codec_list() -> str:
    from dmkd.stores.codecs import CODECS

    return ", ".join(f"{codec.example} ({codec.help})" for codec in CODECS.values())


def _precisions() -> Sequence[str]:
    from dmkd.recipes.dtypes import CLASSIFIER_PRECISIONS

    return CLASSIFIER_PRECISIONS


def label_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which views and how they are labelled."""
    for option in (
        click.option(
            "--codec",
            cls=ListingOption,
            shell_complete=words(later=codec_examples),
            metavar="CODEC",
            listing=_codec_list,
            help="How logits are written: {}. Default: float16.",
        ),
        click.option(
            "--teacher-precision",
            cls=ListingOption,
            listing=lambda: ", ".join(_precisions()),
            shell_complete=words(later=_precisions),
            metavar="TYPE",
            help="What teachers compute in: {}; part of a label set. Default: that of the labels there are; of new ones tf32 on "
            "a GPU, else float32.",
        ),
        teacher_prompt_option,
        click.option("--view-seed", type=int, metavar="N", help="Seed of the views. Default: the store's seed."),
        click.option(
            "--views",
            shell_complete=words(*VIEWS),
            metavar="POLICY",
            help="Views of each image, after the teacher's own: center, rrc:8 (random resized crops), "
            "rrc:8,scale=0.5:1,flip=0, pad:8 (moved by up to 4 pixels, into black); size=32 renders them at 32 x 32 pixels. "
            "Default: the store's; for a new store rrc:8, at the size that the first teacher takes.",
        ),
        heading(LABELS),
    ):
        function = option(function)
    return function


def find_store(store: str | None) -> str:
    """The store that is meant. Raises ``UsageError`` if none is named and there is not just one here."""
    if store or (store := os.environ.get("DMKD_STORE")):
        return store
    here = stores_in(Path())
    if len(here) == 1:
        return str(here[0])
    if not here:
        raise UsageError(
            "No store is named and this folder has none: add --store PATH, as in --store imnet.zarr, or set DMKD_STORE."
        )
    names = ", ".join(str(path) for path in here)
    raise UsageError(f"There are several stores in this folder ({names}): choose one with --store PATH.")


def existing_store(store: str | None) -> str:
    """As :func:`find_store`, for a store that is to be opened. Raises ``NotAStoreError`` at once if nothing is there."""
    path = find_store(store)
    if scheme(path) is None and not Path(path).exists():
        raise NotAStoreError(f"There is no store at {path}.")
    return path


def check_plot_file(path: Path) -> None:
    """Refuse before the work what could not be drawn after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("--plot needs matplotlib: pip install 'dmkd[plot]'.") from error
    if path.suffix.lower() not in (".png", ".svg", ".pdf") or not path.resolve().parent.is_dir():
        raise UsageError(f"--plot {path}: give a .png, .svg or .pdf file in a folder that exists.")
