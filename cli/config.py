"""``--config FILE`` of every command: options by their names, in a file. What the command line says wins."""

import json
from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import Any

import click

from dmkd.stores.errors import UsageError

from .completion import files

OPTION = "config"
HELP = (
    "TOML or JSON with options by their names, without the dashes; those given here win. A table named after a command, such as "
    "[train-student], is for that command alone. Paths are relative to the current folder."
)


def with_config(command: click.Command, commands: Collection[str]) -> click.Command:
    """The command with the option. ``commands``: the names that tables of a file may have."""
    if not any(parameter.name == OPTION for parameter in command.params):
        option = click.Option(
            [f"--{OPTION}"],
            metavar="FILE",
            is_eager=True,  # before the options that it sets
            expose_value=False,
            callback=_reader(commands),
            shell_complete=files,
            help=HELP,
        )
        command.params.append(option)
    return command


def _reader(commands: Collection[str]) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def read(context: click.Context, _: click.Parameter, path: str | None) -> None:
        if path is None or context.resilient_parsing:
            return
        from dmkd.recipes.option_file import read_option_file

        values = read_option_file(path, "The config")
        own = str(context.command.name)
        for name, value in values.items():
            if isinstance(value, dict) and name not in commands:
                raise UsageError(f"The config {path} has a table [{name}], and there is no command of this name.")
        tables = {name: value for name, value in values.items() if isinstance(value, dict)}
        options = {name: value for name, value in values.items() if name not in tables}
        context.default_map = _checked(context.command, {**options, **tables.get(own, {})}, path)

    return read


def _checked(command: click.Command, values: dict[str, Any], path: str) -> dict[str, Any]:
    """By the names that click knows the options by. Raises ``UsageError`` for what is no option of the command, and for values
    of another kind than theirs."""
    known = _known(command)
    found = {}
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(name, known, 1) or get_close_matches(name.replace("_", "-"), known, 1)
            meant = f" Did you mean {near[0]}?" if near else f" Its options are {', '.join(known)}."
            raise UsageError(f"The config {path} has {name!r}, which dmkd {command.name} has no option for.{meant}")
        option = known[name]
        several = option.multiple or option.nargs == -1
        listed = several and isinstance(value, list)
        for one in value if listed else [value]:
            if (wanted := _wanted(option, one)) is not None:
                or_list = " or a list of such" if several else ""
                raise UsageError(f"The config {path}: {name} must be {wanted}{or_list}, not {_shown(one)}.")
        found[str(option.name)] = value if listed or not several else [value]
    return found


def _known(command: click.Command) -> dict[str, click.Parameter]:
    """What a file may set: options by their names, and arguments by the words that the usage line has for them."""
    options = [one for one in command.params if isinstance(one, click.Option) and one.name not in (OPTION, "help")]
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    words = {"".join(filter(str.isalpha, one.human_readable_name)).lower(): one for one in arguments}
    return {**words, **{max(one.opts, key=len).removeprefix("--"): one for one in options}}


def _wanted(option: click.Parameter, value: Any) -> str | None:
    """What an option takes, if this is not it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(option, click.Option) and option.is_flag:
        return None if isinstance(value, bool) else "true or false"
    if isinstance(option.type, click.types.IntParamType):
        return None if is_number and isinstance(value, int) else "a whole number"
    if isinstance(option.type, click.types.FloatParamType):
        return None if is_number else "a number"
    return None if is_number or isinstance(value, str) else "a text"


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)
