"""``dmkd pack``"""

import json
import time

import click

from ..completion import files
from ..options import endpoint_option, existing_store, json_option


@click.command("pack", short_help="Put a store's many files into few large ones.")
@click.argument("store", shell_complete=files)
@click.argument("copy", required=False, shell_complete=files)
@endpoint_option
@json_option
def command(store: str, copy: str | None, as_json: bool) -> None:
    """Put the blocks of STORE, a file each, into shards of about 1 GB: in place, or into COPY, in a folder or a bucket.

    A packed store is used as before: read at the same speed, labelled, grown, verified, exported. New blocks of its arrays are
    put into shards at the end of the command that made them; new label sets are files until the next `dmkd pack`. If
    interrupted, rerun the same command to resume; until then other readers of Zarr may miss blocks, dmkd does not.

    \b
    Examples:
      dmkd pack imnet.zarr
      dmkd pack imnet.zarr s3://bucket/imnet.zarr
    """
    store = existing_store(store)

    from dmkd.stores import open_store
    from dmkd.stores.pack_copy import chunks_to_copy, pack_copy
    from dmkd.stores.packing import chunks_to_pack, count_files, pack

    from ..display import make_display

    opened = open_store(store)
    before, start = count_files(opened), time.monotonic()
    if copy is None:
        with make_display().task("pack", chunks_to_pack(opened), unit="chunks") as advance:
            pack(opened, advance)
    else:
        with make_display().task("pack", chunks_to_copy(opened), unit="chunks") as advance:
            opened = pack_copy(opened, copy, advance)
    facts = {"path": opened.path, "files_before": before, "files": count_files(opened)}
    if as_json:
        click.echo(json.dumps({**facts, "seconds": round(time.monotonic() - start, 1)}))
    else:
        click.echo(f"{opened.path}: {facts['files']:,} files (before: {before:,}).")
