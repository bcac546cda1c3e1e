"""How long work tells where it is; the command line draws it, a notebook may ignore it."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

WINDOW_SECONDS = 30.0
FEWEST_EVENTS = 3  # a window reaches back at least so far, however long one takes
MOST_EVENTS = 256


class Display(Protocol):
    """Where progress and notices go."""

    def task(self, description: str, total: int, done: int = 0, unit: str = "images"):  # type: ignore[no-untyped-def]
        """Context manager that gives ``advance(count, note="", detail=None)`` for work of ``total`` units, ``done`` of
        them made. ``note`` belongs to this step; ``detail`` is a line about how the work is done (None: as it was)."""

    def notice(self, text: str) -> None:
        """One line that the user should read. May be called from any thread."""


class Silent:
    """A display that shows nothing."""

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Callable[..., None]]:
        yield lambda count, note="", detail=None: None

    def notice(self, text: str) -> None:
        pass


class Rate:
    """Units a second over the last half minute, or over the last two events where they are rarer than that."""

    def __init__(self, now: float) -> None:
        self._events = deque([(now, 0)], MOST_EVENTS)

    def add(self, count: int, now: float) -> None:
        """``count`` units were finished just now."""
        self._events.append((now, count))
        while len(self._events) > FEWEST_EVENTS and self._events[1][0] < now - WINDOW_SECONDS:
            self._events.popleft()

    @property
    def per_second(self) -> float:
        """0 before the first event."""
        first, last = self._events[0][0], self._events[-1][0]
        counts = sum(count for _, count in self._events) - self._events[0][1]
        return counts / (last - first) if last > first else 0.0
