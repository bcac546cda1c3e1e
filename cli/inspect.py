"""``dmkd inspect``"""

import json

import click

from .options import json_option, store_option


@click.command("inspect", short_help="Show what is in a store.")
@click.argument("path", required=False)
@store_option
@json_option
def command(path: str | None, store: str | None, as_json: bool) -> None:
    """Show what is in a store: what made it, whether it is complete, which labels it has.

    \b
    Examples:
      dmkd inspect imnet.zarr
      dmkd inspect imnet.zarr --json
    """
    from dmkd.stores import open_store

    from .options import find_store
    from .summary import print_store, store_facts

    opened = open_store(find_store(path or store))
    if as_json:
        click.echo(json.dumps(store_facts(opened)))
    else:
        print_store(opened)
