"""How long work tells where it is; the command line draws it, a notebook may ignore it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Display(Protocol):
    """Where progress and notices go."""

    def task(self, description: str, total: int, done: int = 0, unit: str = "images"):  # type: ignore[no-untyped-def]
        """Context manager that gives ``advance(count, note="")`` for work of ``total`` units, ``done`` of them made."""

    def notice(self, text: str) -> None:
        """One line that the user should read."""


class Silent:
    """A display that shows nothing."""

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Callable[..., None]]:
        yield lambda count, note="": None

    def notice(self, text: str) -> None:
        pass
