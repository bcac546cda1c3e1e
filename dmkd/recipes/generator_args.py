"""The arguments of a plug-in's factory: as a user writes them, as recipes hold them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from dmkd.stores.errors import UsageError

OPTION = "--generator-arg"


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """``["palette=cold", "size=3"]`` -> ``{"palette": "cold", "size": 3}``: values are JSON where they can be, else texts.

    Raises ``UsageError`` for what is not ``key=value`` and for a key that is given twice."""
    arguments: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{OPTION} {text!r} is not of the form key=value.")
        if key in arguments:
            raise UsageError(f"{OPTION} {key} is given twice.")
        arguments[key] = _value(value)
    return check_names(arguments)


def written_arguments(arguments: Mapping[str, Any]) -> list[str]:
    """What :func:`parse_arguments` reads as these."""
    return [f"{key}={_written(value)}" for key, value in arguments.items()]


def as_recorded(arguments: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The arguments as they come back from a recipe; None: there are none. Raises ``UsageError`` for what JSON can't hold."""
    if not arguments:
        return None
    try:
        return check_names(json.loads(json.dumps(dict(arguments), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise UsageError(f"The generator's arguments can't be recorded as JSON: {error}.") from error


def check_names(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same. Raises ``UsageError`` for a name that no argument has, or that is not the user's to give."""
    for key in arguments:
        if not key.isidentifier():
            raise UsageError(f"{OPTION} {key}=…: {key!r} is not the name of an argument.")
        if key == "device":
            raise UsageError(f"{OPTION} device=…: the device comes from --device.")
    return arguments


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _written(value: Any) -> str:
    return value if isinstance(value, str) and _value(value) == value else json.dumps(value, ensure_ascii=False)


def _refuse(constant: str) -> NoReturn:
    """NaN and infinities are no JSON."""
    raise ValueError(constant)
