"""Help that can be scanned: options under headings. A heading stands among a command's decorators, above its options."""

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

MAIN = "Main options"
LABELS = "Labels"
STORED_IMAGES = "How images are stored"
RUN = "Where and how it runs"
OTHERS = "Other options"

_HEADING = "dmkd_heading"


def heading(text: str) -> Decorator:
    """The options below, down to the next heading, stand under ``text`` in the help of a :class:`HeadedCommand`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in getattr(function, "__click_params__", ()):
            if not hasattr(option, _HEADING):
                setattr(option, _HEADING, text)
        return function

    return decorate


def under(text: str, option: Decorator) -> Decorator:
    """This option stands under ``text``, whatever heading it comes below."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = option(function)
        setattr(function.__click_params__[-1], _HEADING, text)  # type: ignore[attr-defined]  # click's own note
        return function

    return decorate


def grouped(command: click.Command, context: click.Context) -> dict[str, list[tuple[click.Option, tuple[str, str]]]]:
    """A command's options by heading, each with its usage and its text, in the order in which headings first stand in the
    code. Options without a heading come last, under :data:`OTHERS`.
    """
    groups: dict[str, list[tuple[click.Option, tuple[str, str]]]] = {}
    for option in command.get_params(context):
        record = option.get_help_record(context)
        if record is not None and isinstance(option, click.Option):
            groups.setdefault(getattr(option, _HEADING, OTHERS), []).append((option, record))
    groups[OTHERS] = groups.pop(OTHERS)  # there is always --help
    return groups


class HeadedCommand(click.Command):
    """A command whose help groups its options by heading."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for text, options in grouped(self, context).items():
            with formatter.section(text):
                formatter.write_dl([record for _, record in options])
