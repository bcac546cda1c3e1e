"""``dmkd generators``"""

import json

import click

from ..help import HeadedCommand
from ..options import json_option


@click.command("generators", cls=HeadedCommand, short_help="List what --generator takes.")
@json_option
def command(as_json: bool) -> None:
    """List the kinds of generators there are, each by an example, and those that installed packages have registered. Nothing is
    loaded.

    \b
    Examples:
      dmkd generators
      dmkd generators --json
    """
    from dmkd.generators.sources import KINDS

    from ..display import print_facts

    found = [line for kind in KINDS for line in kind.listed()]
    if as_json:
        click.echo(json.dumps([{"generator": name, "what": what} for name, what in found]))
        return
    print_facts("Generators", found)
