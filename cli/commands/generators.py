"""``dmkd generators``"""

import json

import click

from ..options import json_option


@click.command("generators", short_help="What can make images.")
@json_option
def command(as_json: bool) -> None:
    """List what --generator takes, a line each; generators that installed packages have registered among them.

    \b
    Examples:
      dmkd generators
    """
    from dmkd.generators.sources import KINDS

    found = [line for kind in KINDS for line in kind.listed()]
    if as_json:
        click.echo(json.dumps([{"generator": name, "what": what} for name, what in found]))
        return
    width = max(len(name) for name, _ in found)
    for name, what in found:
        click.echo(f"{name:<{width}}  {what}")
