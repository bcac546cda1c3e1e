"""``dmkd inspect``"""

import json

import click

from ..completion import files
from ..options import json_option, store_option


@click.command("inspect", short_help="Show what is in a store.")
@click.argument("path", shell_complete=files, required=False, metavar="[STORE]")
@store_option
@click.option(
    "--all", "every_block", is_flag=True, help="Read what the teachers see in every block, not in a sample of them."
)
@click.option(
    "--dollars-per-gb",
    type=float,
    metavar="X",
    help="Price of 10^9 bytes that leave the bucket: what training from it would cost.",
)
@json_option
def command(
    path: str | None, store: str | None, every_block: bool, dollars_per_gb: float | None, as_json: bool
) -> None:
    """Show what is in a store: what made it, whether it is complete, how big it is, its views and labels, what the teachers
    see in its images, and the runs that made it.

    Takes a second or two however big the store is: of a large store a fixed sample of blocks is read, and the output says how
    many. To check every byte, use dmkd verify.

    \b
    Examples:
      dmkd inspect imnet.zarr
      dmkd inspect imnet.zarr --all         what the teachers see, from every block
      dmkd inspect s3://bucket/imnet.zarr --dollars-per-gb 0.09   what training from there moves and costs
      dmkd inspect imnet.zarr --json
    """
    from dmkd.stores import locations, open_store
    from dmkd.stores.packing import is_packed

    from ..options import existing_store
    from ..summary import print_everything, store_facts
    from ..traffic import traffic_of

    opened = open_store(existing_store(path or store))
    facts = store_facts(opened, every_block)
    if locations.scheme(opened.path) or dollars_per_gb is not None:
        facts["training"] = {**traffic_of(facts, dollars_per_gb), "packed": is_packed(opened)}
    if as_json:
        click.echo(json.dumps(facts))
    else:
        print_everything(facts)
