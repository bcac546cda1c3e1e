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


class HeadedCommand(click.Command):
    """A command whose help groups its options by heading, in the order in which headings first stand in the code.

    Options without a heading come last, under :data:`OTHERS`.
    """

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(context):
            record = option.get_help_record(context)
            if record is not None and isinstance(option, click.Option):
                groups.setdefault(getattr(option, _HEADING, OTHERS), []).append(record)
        groups[OTHERS] = groups.pop(OTHERS)  # there is always --help
        for text, records in groups.items():
            with formatter.section(text):
                formatter.write_dl(records)
