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

    listed = [
        {"teacher": teacher, "what": what, "not_installed": absent_library(kind)}
        for kind in KINDS
        for teacher, what in kind.listed()
    ]
    if as_json:
        click.echo(json.dumps(listed))
        return
    missing = {one["teacher"]: f" ({one['not_installed']} is not installed)" for one in listed if one["not_installed"]}
    print_facts("Teachers", [(one["teacher"], f"{one['what']}{missing.get(one['teacher'], '')}") for one in listed])
