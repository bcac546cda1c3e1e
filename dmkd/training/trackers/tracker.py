"""What a tracker is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from dmkd.stores.errors import UsageError

PROJECT = "dmkd"  # where the tool's own environment names none

Numbers = Mapping[str, float]


class Tracker(ABC):
    """One run at one tool. Its package is imported when a run begins. Whatever its methods raise is the tool's, and ends no
    training."""

    name: ClassVar[str]  # what --log calls it: that of the package, and of the extra that brings it
    help: ClassVar[str]

    @classmethod
    def check(cls) -> None:
        """Raise ``UsageError`` for what would fail later, in one sentence that says what to do. Asks nobody, and no network."""
        if find_spec(cls.name) is None:
            raise UsageError(f"--log {cls.name} needs its package: pip install 'dmkd[{cls.name}]'.")

    @abstractmethod
    def begin(self, folder: Path, config: Mapping[str, Any], known: str | None, group: str | None) -> str:
        """Begin a run called as ``folder``, the run's own, or go on with the one that is ``known`` -> what it is known by.
        ``config``: all that the run was made by, nested, JSON-able. ``group``: what it has in common with other runs."""

    def epochs_there(self) -> int | None:
        """Epochs that the run which was begun has already, as the tool itself says: a process that was killed may have sent more
        than was kept, or less. None: it can't be asked."""
        return None

    @abstractmethod
    def log(self, line: Numbers, epoch: int) -> None:
        """The numbers of an epoch."""

    @abstractmethod
    def finish(self, summary: Numbers | None) -> None:
        """End the run: with its results, or with None where it was interrupted or failed."""


def flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found
