"""``dmkd browse``"""

import json
import os
import sys
import webbrowser

import click

from ..completion import files, folders
from ..help import MAIN, HeadedCommand, heading
from ..options import endpoint_option, json_option


@click.command("browse", cls=HeadedCommand, short_help="Look through a store in the browser.")
@click.argument("paths", shell_complete=files, nargs=-1, metavar="[STORE]...")
@heading(MAIN)
@click.option(
    "--run",
    "runs",
    multiple=True,
    shell_complete=folders,
    metavar="FOLDER",
    help="A training run to follow, or a folder of such: the --out of train-student, compare or distil. May be repeated. Those "
    "in students/ here and beside the store are followed anyway.",
)
@click.option("--no-open", is_flag=True, help="Print the page's address, and open no browser.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Port of the page. Default: 8710, or the next that is free.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen at; 0.0.0.0: whoever reaches this machine and has the page's address can look.",
)
@endpoint_option
@json_option
def command(
    paths: tuple[str, ...], runs: tuple[str, ...], no_open: bool, port: int | None, host: str, as_json: bool
) -> None:
    """Look through stores: images, views and labels, filtered and sorted by what teachers think of them.

    Opens a page that this machine serves to itself; the page's address holds a secret, and nothing is loaded from elsewhere. It
    follows stores that are being written, and training runs. Several stores are shown side by side. Ctrl-C ends it.

    \b
    Examples:
      dmkd browse                               the only store in this folder
      dmkd browse imnet.zarr
      dmkd browse g1.zarr g2.zarr g4.zarr       the same noise, under more and more guidance
      dmkd browse s3://bucket/imnet.zarr
      dmkd browse imnet.zarr --run comparison   with the curves of dmkd compare --out comparison
      dmkd browse imnet.zarr --no-open          on another machine; then here: ssh -L 8710:localhost:8710 that-machine
    """
    from dmkd.browse import browse

    from ..options import existing_store

    def started(address: str) -> None:
        if as_json:
            click.echo(json.dumps({"address": address}))
        else:
            click.echo(f"{address}\nCtrl-C ends it.")
        sys.stdout.flush()
        if not no_open and _has_screen():
            webbrowser.open(address)

    try:
        stores = [existing_store(path) for path in paths or (None,)]
        browse(stores, runs=runs, host=host, port=port, started=started)
    except KeyboardInterrupt:  # how it is ended
        return


def _has_screen() -> bool:
    """Whether a browser would show: without one, a text browser might take the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
