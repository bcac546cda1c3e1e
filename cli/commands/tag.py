"""``dmkd tag``"""

import json

import click

from ..completion import files
from ..options import endpoint_option, existing_store, json_option


@click.command("tag", short_help="Name what a store holds now, to be cited.")
@click.argument("path", shell_complete=files, metavar="STORE")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--replace", is_flag=True, help="Make a tag again that is of something else.")
@endpoint_option
@json_option
def command(path: str, name: str | None, replace: bool, as_json: bool) -> None:
    """Give what STORE holds now a name, or list the tags that it has.

    A tag is a list of checksums: of every block of images, class ids, views, labels and columns, of constants and identities. The
    sha256 of that list is what a paper cites: it is the same for every copy of the store, in whatever format, packed or not.
    verify --tag compares a store with it, and train-student --tag reads what it covers and nothing else.

    Everything is read and proved to be sound first. A store that is unfinished can be tagged: images and labels that come later
    are not covered by the tag, and do not change it.

    \b
    Examples:
      dmkd tag imnet.zarr v1
      dmkd tag imnet.zarr                  the tags that there are
      dmkd tag s3://bucket/imnet.zarr v1
    """
    path = existing_store(path)

    from dmkd.cards.dataset_card import write_card
    from dmkd.stores import open_store
    from dmkd.stores.tags import read_tags, write_tag

    from ..display import make_display, print_facts

    store = open_store(path)
    before = read_tags(store)
    if name is None:
        shown = before
    else:
        store.require_writable()
        with make_display().task(f"tag {name}", store.num_blocks, unit="blocks") as advance:
            tag = write_tag(store, name, advance, replace=replace)
        shown = {name: tag}
        if store.card and before.get(name) != tag:
            write_card(store)
    if as_json:
        facts = {name: {"sha256": tag.sha256, "created": tag.created, **tag.manifest} for name, tag in shown.items()}
        click.echo(json.dumps(facts))
        return
    if not shown:
        click.echo(f"{path} has no tags.")
    for tag in shown.values():
        missing = tag.num_images - tag.images_made
        of = f" of {tag.num_images:,}: {missing:,} were not made yet" if missing else ""
        lines = [
            ("sha256", tag.sha256),
            ("images", f"{tag.images_made:,}{of}"),
            ("label sets", ", ".join(tag.manifest["label_sets"]) or "none"),
            ("made", f"{tag.created}{', unchanged' if name and before.get(name) == tag else ''}"),
        ]
        print_facts(f"Tag {tag.name} of {path}", lines)
