"""Every command of dmkd as a page in Markdown, made from the command itself."""

import inspect
from html import escape

import click

from dmkd.cli.help import OTHERS, grouped
from dmkd.cli.main import COMMANDS, main


def pages() -> dict[str, str]:
    """Name -> what the command does, its examples, and its options under the headings of its help, each with an anchor."""
    return {name: _page(f"dmkd {name}", _command(name)) for name in COMMANDS}


def listed() -> str:
    """All commands with what they do, in the order of a first use."""
    return "".join(f"- `dmkd {name}`: {_command(name).get_short_help_str(200)}\n" for name in COMMANDS)


def _command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def _page(title: str, command: click.Command) -> str:
    context = click.Context(command, info_name=title)
    lines = [f"# {title}", "", "```text", command.get_usage(context).removeprefix("Usage: "), "```", ""]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        heading, newline, shown = paragraph.removeprefix("\b\n").partition("\n")
        if paragraph.startswith("\b\n"):  # as it stands: examples
            lines += [f"**{heading}**", "", "```text", inspect.cleandoc(newline + shown), "```", ""]
        else:
            lines += [escape(paragraph, quote=False), ""]
    for heading, options in grouped(command, context).items():
        lines += ["## " + ("Options" if heading == OTHERS and len(grouped(command, context)) == 1 else heading), ""]
        for option, (usage, text) in options:
            anchor = max(option.opts, key=len)
            lines += [f'<a id="{anchor}"></a>`{usage}`', f":   {escape(text, quote=False)}", ""]
    return "\n".join(lines)
