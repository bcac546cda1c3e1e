"""How work that takes long says how far it is; the command line draws it, a notebook may ignore it."""

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

WINDOW_SECONDS = 30.0
FEWEST_EVENTS = 3  # that a window holds, however long ago the first of them is
MOST_EVENTS = 256


class Advance(Protocol):
    """Reports progress of a task."""

    def __call__(self, count: int, note: str = "", detail: str | None = None) -> None:
        """``count`` more units are done. ``note`` belongs to this step; ``detail`` is a line about how the work is done (None:
        as it was)."""


class Display(Protocol):
    """Where progress and notices go."""

    def task(
        self, description: str, total: int, done: int = 0, unit: str = "images"
    ) -> AbstractContextManager[Advance]:
        """Work of ``total`` units, ``done`` of them made before: it is shown until the context is left."""

    def notice(self, text: str) -> None:
        """One line that the user should read. May be called from any thread."""


class Silent:
    """A display that shows nothing."""

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
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
