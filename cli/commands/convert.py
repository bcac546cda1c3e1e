"""``dmkd convert``"""

import json

import click

from ..completion import files
from ..options import endpoint_option, existing_store, json_option


@click.command("convert", short_help="Copy a store to HDF5, Zarr or a bucket.")
@click.argument("source", shell_complete=files)
@click.argument("target", shell_complete=files)
@endpoint_option
@json_option
def command(source: str, target: str, as_json: bool) -> None:
    """Copy the store SOURCE to TARGET: one HDF5 file if it ends in .h5 or .hdf5, else a Zarr store, in a folder or a bucket.

    Pixels, labels, views and attributes of the copy are equal bit for bit, and the run log is copied too. If interrupted,
    rerun the same command to resume. The source is not changed.

    \b
    Examples:
      dmkd convert imnet.zarr imnet.h5
      dmkd convert imnet.h5 imnet.zarr
      dmkd convert imnet.zarr s3://bucket/imnet.zarr
    """
    source = existing_store(source)

    from dmkd.stores import open_store
    from dmkd.stores.convert import convert

    from ..display import make_display
    from ..summary import print_store, store_facts

    store = open_store(source)
    with make_display().task("convert", store.num_images) as advance:
        made = convert(store, target, advance)
    if as_json:
        click.echo(json.dumps(store_facts(made)))
    else:
        print_store(made)
