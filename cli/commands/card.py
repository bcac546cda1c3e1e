"""``dmkd card``"""

import json

import click

from ..completion import files
from ..options import existing_store, json_option, store_option


@click.command("card", short_help="Write the data set's card.")
@click.argument("path", shell_complete=files, required=False, metavar="[STORE]")
@store_option
@click.option(
    "--licence",
    metavar="TEXT",
    help="Licence to name, such as cc-by-4.0. Kept for later. Default: that of a known generator or of its model card, or "
    "unknown.",
)
@json_option
def command(path: str | None, store: str | None, licence: str | None, as_json: bool) -> None:
    """Rewrite a store's card and print it: what it is, how it was made, its views, labels and limits, how to read it.

    The card is Markdown, as Hugging Face wants a data set's README.md. It is kept in the store (generate, import and label
    write it when they finish), exports bring it along, and "> README.md" makes a file of it.

    \b
    Examples:
      dmkd card imnet.zarr
      dmkd card --store imnet.zarr --licence cc-by-nc-4.0
    """
    from dmkd.cards.dataset_card import write_card
    from dmkd.stores import open_store

    opened = open_store(existing_store(path or store))
    text = write_card(opened, licence)
    if as_json:
        click.echo(json.dumps({"store": opened.path, "licence": opened.card["licence"], "card": text}))
    else:
        click.echo(text, nl=False)
