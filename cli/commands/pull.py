"""``dmkd pull``"""

import json

import click

from dmkd.stores.errors import UsageError
from dmkd.stores.locations import hub_path

from ..completion import files, words
from ..options import json_option


@click.command("pull", short_help="Copy a store from the Hugging Face hub.")
@click.argument("source", shell_complete=words("hf://datasets/"), metavar="HUB")
@click.argument("target", shell_complete=files, required=False, metavar="[STORE]")
@click.option(
    "--tag", metavar="NAME", help="The revision of this name, held to the store's tag of this name (`dmkd tag`)."
)
@json_option
def command(source: str, target: str | None, tag: str | None, as_json: bool) -> None:
    """Copy the store at HUB, hf://datasets/USER/NAME, to the folder STORE (NAME.zarr by default). @REVISION may follow NAME: a
    tag, a branch or a commit.

    Every file is compared with the hash by which the hub knows it. If interrupted, rerun the same command to resume: until all
    is there, the folder does not open.

    \b
    Examples:
      dmkd pull hf://datasets/me/imnet
      dmkd pull hf://datasets/me/imnet@main imnet-new.zarr
      dmkd pull hf://datasets/me/imnet imnet-v1.zarr --tag v1
    """
    place = hub_path(source)
    if place.kind != "dataset":
        raise UsageError(
            f"{source} is a model's repository, which is used where it is: `--teacher hf-hub:{place.name}`, `dmkd evaluate "
            f'hf-hub:{place.name}`, or timm.create_model("hf-hub:{place.name}"). A store is hf://datasets/USER/NAME.'
        )

    from dmkd.pull import pull_store

    from ..display import make_display
    from ..summary import print_store, store_facts

    name = place.name.rpartition("/")[2].removesuffix(".zarr")
    pulled = pull_store(source, target or f"{name}.zarr", make_display(), tag=tag)
    if as_json:
        click.echo(json.dumps(store_facts(pulled)))
    else:
        print_store(pulled)
