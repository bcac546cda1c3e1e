"""A training run at the trackers that ``--log`` names. They never cost it: one that fails is told of, and left."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from dmkd.runtime.whole_files import write_file
from dmkd.stores.errors import StoreWriteError, first_line
from dmkd.training.run_folder import TRACKED
from dmkd.training.trackers import TRACKERS, Tracker

SUMMARISED = ("top1", "top5", "loss", "agreement", "images_per_second", "waiting_for_data", "updates", "parameters")


class TrackedRun:
    """A context: how it exits is the end of the runs. ``tracked.json`` in the run's folder keeps what each tool knows the run by,
    how many lines of its curves are there, and with how many it was finished: a resumed run goes on where it was."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        config: Mapping[str, Any],
        notice: Callable[[str], None],
        group: str | None = None,
    ) -> None:
        """``config``: all that the run was made by; JSON-able. ``group``: what it has in common with other runs."""
        self._folder, self._config, self._notice, self._group = folder, config, notice, group
        self._file = folder / TRACKED
        self._waiting = list(dict.fromkeys(names))
        self._running: dict[str, Tracker] = {}
        self._known: dict[str, Any] = {}
        self._summary: dict[str, float] | None = None

    def log(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """All lines of the curves so far: those that a tool has not had yet are sent. Begins the runs."""
        self._begin(len(lines))
        for name, tracker in list(self._running.items()):
            self._try(name, lambda tracker=tracker, known=self._known[name]: _send(tracker, known, lines))  # type: ignore[misc]
        if self._known:
            self._keep()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """What the run came to, as ``summary.json`` has it."""
        best = summary.get("best") or {}
        found = {name: summary.get(name) for name in SUMMARISED} | {
            f"best_{name}": best.get(name) for name in ("epoch", "top1")
        }
        self._summary = _numbers(found)

    def __enter__(self) -> "TrackedRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        summary = self._summary if error is None else None
        for name, tracker in list(self._running.items()):
            ended = self._try(name, lambda tracker=tracker: tracker.finish(summary))  # type: ignore[misc]
            if ended and summary is not None:
                self._known[name]["finished"] = self._known[name]["lines"]
        if self._running:
            self._keep()

    def _begin(self, epochs: int) -> None:
        """But for the runs that were finished with this number of epochs."""
        if not self._waiting:
            return
        with suppress(OSError, ValueError):
            self._known = json.loads(self._file.read_text()) | self._known
        names = [name for name in self._waiting if self._known.get(name, {}).get("finished") != epochs]
        self._waiting = [name for name in self._waiting if name not in names]
        for name in names:
            tracker = TRACKERS[name]()
            known = self._known.get(name, {"id": None, "lines": 0})

            def begin(tracker: Tracker = tracker, known: dict[str, Any] = known) -> None:
                known["id"] = tracker.begin(self._folder, self._config, known["id"], self._group)
                if (there := tracker.epochs_there()) is not None:
                    known["lines"] = there

            if self._try(name, begin):
                self._running[name], self._known[name] = tracker, known
        if self._running:
            self._keep()

    def _try(self, name: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # a tool's own, of whatever type
            self._running.pop(name, None)
            self._notice(
                f"{name} failed ({first_line(error)}): the run goes on without it, and the curves are in {self._folder}; a "
                "resumed run sends it what it has missed."
            )
            return False
        return True

    def _keep(self) -> None:
        try:
            write_file(self._file, json.dumps(self._known).encode())
        except StoreWriteError as error:  # the checkpoint's own failure ends the run, this one does not
            self._notice(str(error))


def _send(tracker: Tracker, known: dict[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    """The lines that the tool does not have yet, counted one by one."""
    known["lines"] = min(known["lines"], len(lines))
    for line in lines[known["lines"] :]:
        tracker.log(_numbers(line), line["epoch"])
        known["lines"] += 1


def _numbers(facts: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in facts.items() if isinstance(value, int | float)}
