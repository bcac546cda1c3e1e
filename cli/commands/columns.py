"""``dmkd columns``"""

import json
from pathlib import Path
from typing import Any

import click

from dmkd.stores.errors import UsageError

from ..completion import files
from ..help import MAIN, HeadedCommand, heading
from ..options import existing_store, json_option, store_option


@click.command("columns", cls=HeadedCommand, short_help="Numbers of your own for each image, to select by.")
@heading(MAIN)
@store_option
@click.option(
    "--add",
    metavar="NAME=FILE",
    shell_complete=files,
    help="Keep a number for each image: a .npy array of shape (N,), or a text file with a number per line, in the order of the "
    "image ids.",
)
@click.option("--description", default="", metavar="TEXT", help="What the numbers are, for people.")
@click.option(
    "--replace", is_flag=True, help="Other numbers under the same name take the place of those that are there."
)
@click.option("--remove", metavar="NAME", help="Delete a column.")
@json_option
def command(
    store: str | None, add: str | None, description: str, replace: bool, remove: str | None, as_json: bool
) -> None:
    """List a store's columns, or add or remove one. A column is a number for each image under a name of yours, such as a score.

    It is kept with the store, and bound to the pixels: an image that is made anew loses its number. --select of train-student,
    compare and export speaks of it like of the teacher's opinion.

    \b
    Examples:
      dmkd columns --store imnet.zarr
      dmkd columns --store imnet.zarr --add clip_score=scores.npy --description "cosine with the class name"
    """
    path = existing_store(store)
    if add is not None and remove is not None:
        raise UsageError("--add and --remove are two things to do: give one of them.")
    if add is None and (description or replace):
        raise UsageError("--description and --replace are of a column that is added: give --add NAME=FILE too.")

    from dmkd.stores import open_store

    from ..summary import column_rows, print_columns, store_facts

    opened = open_store(path)
    if add is not None:
        name, values = _read(add)
        opened.require_writable()
        opened.add_column(name, values, description, replace=replace)
    if remove is not None:
        opened.require_writable()
        opened.remove_column(remove)
    facts = store_facts(opened)
    if as_json:
        click.echo(json.dumps(facts["columns"]))
    elif column_rows(facts):
        print_columns(facts)
    else:
        click.echo(f"{path} has no columns.")


def _read(text: str) -> tuple[str, Any]:
    """``NAME=FILE`` -> the name and the numbers, (N,)."""
    import numpy as np

    name, equals, file = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--add {text!r}: write NAME=FILE, as in clip_score=scores.npy.")
    path = Path(file).expanduser()
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, np.float64, ndmin=1)
    except OSError as error:
        raise UsageError(
            f"--add {text}: {path} can't be read: {error.strerror or 'it is no file of numpy'}."
        ) from error
    except ValueError as error:
        raise UsageError(f"--add {text}: {path} holds something other than a number for each image.") from error
    return name, values
