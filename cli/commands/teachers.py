"""``dmkd teachers``"""

import json

import click

from ..help import HeadedCommand
from ..options import json_option


@click.command("teachers", cls=HeadedCommand, short_help="List what --teacher takes.")
@json_option
def command(as_json: bool) -> None:
    """List the kinds of teachers there are, each by an example, and those that installed packages have registered. Nothing is
    loaded.

    \b
    Examples:
      dmkd teachers
      dmkd teachers --json
    """
    from dmkd.classifiers.sources import KINDS, absent_library

    from ..display import print_facts

    found = [(*line, absent_library(kind)) for kind in KINDS for line in kind.listed()]
    if as_json:
        click.echo(json.dumps([dict(zip(("teacher", "what", "not_installed"), line, strict=True)) for line in found]))
        return
    facts = [(name, f"{what} ({absent} is not installed)" if absent else what) for name, what, absent in found]
    print_facts("Teachers", facts)
