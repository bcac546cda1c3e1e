"""Ctrl-C and SIGTERM while blocks are made: the first is a wish, the second an order."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM: an interruption like Ctrl-C, with an exit code of its own."""


class Interrupts:
    """Inside this context the first signal calls ``finish``; if that says no, or at the second, ``KeyboardInterrupt`` is raised
    (after SIGTERM ``Terminated``).

    ``finish() -> bool`` runs between two instructions of the main thread: it may set a flag and no more. It returns whether
    there is anything to finish. Outside the main thread, where Python delivers no signals, nothing is changed.
    """

    def __init__(self, finish: Callable[[], bool]) -> None:
        self._finish = finish
        self._before: dict[int, Any] = {}
        self._signal = 0  # the last one that came

    @property
    def interrupted(self) -> bool:
        """Whether a signal has come."""
        return bool(self._signal)

    def raise_if_interrupted(self) -> None:
        """Raise ``KeyboardInterrupt``, or ``Terminated``, if a signal has come."""
        if self._signal:
            raise Terminated if self._signal == signal.SIGTERM else KeyboardInterrupt

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self._signal = not self._signal, number
        if not (first and self._finish()):
            self.raise_if_interrupted()
