"""Which runs are at work on a store just now, as far as their logs and this machine's processes say."""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .run_log import RUNS

if TYPE_CHECKING:
    from .trees.tree import Tree

SILENT_SECONDS = (
    600.0  # after which a run on another machine counts as over: a log is saved every half minute or more often
)


@dataclass(frozen=True)
class RunAtWork:
    """A run that has not ended."""

    name: str  # that of its log: sorts by the time of its first worker
    command: str
    host: str
    pid: int
    started: str  # ISO 8601

    def __str__(self) -> str:
        return f"dmkd {self.command} (process {self.pid} on {self.host}, since {self.started})"


class RunsAtWork:
    """The runs that are at work on the store in ``tree``."""

    def __init__(self, tree: "Tree") -> None:
        self._tree = tree
        self._over: set[str] = set()  # a run that is over stays so

    def besides(self, own: str) -> list[RunAtWork]:
        """The runs of other processes, the oldest first; ``own`` is the name of this one's log, or "". One listing, and a look at
        each log that has not ended."""
        names = [name for name in self._tree.names(RUNS) if name != own and name not in self._over]
        runs = self._tree.map(self._look, names)
        self._over.update(name for name, run in zip(names, runs, strict=True) if run is None)
        return [run for run in runs if isinstance(run, RunAtWork)]

    def _look(self, name: str) -> RunAtWork | bool | None:
        """A run; None if it is over, False if its log has just been begun."""
        try:
            facts = self._tree.attributes(f"{RUNS}/{name}")
        except KeyError:
            return False
        if not facts:
            return False
        return _run(name, facts)


def _run(name: str, facts: dict[str, Any]) -> RunAtWork | None:
    driver = _driver(facts)
    if not is_at_work(facts) or (driver["host"], driver["pid"]) == (socket.gethostname(), os.getpid()):
        return None
    return RunAtWork(name, str(facts.get("command")), driver["host"], driver["pid"], facts["started"])


def is_at_work(facts: Mapping[str, Any]) -> bool:
    """Whether a run has not ended, by the attributes of its log: ``outcome``, ``driver`` (``host``, ``pid``), ``started`` and
    ``saved`` (ISO 8601). Of this machine's processes the system knows; of others what they wrote and when."""
    driver = _driver(facts)
    host, pid, started = driver.get("host"), driver.get("pid"), facts.get("started")
    if facts.get("outcome") != "running" or not (host and pid and started):
        return False
    if host == socket.gethostname():
        return _is_process(pid, datetime.fromisoformat(started).timestamp())
    return time.time() - datetime.fromisoformat(facts.get("saved", started)).timestamp() < SILENT_SECONDS


def _driver(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    return facts.get("driver") or next(iter(facts.get("workers", {}).values()), {})


def _is_process(pid: int, since: float) -> bool:
    """Whether process ``pid`` is alive and already was at ``since`` (Unix time), so far as the system knows: pids are reused."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True  # no Linux
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] not in "ZX" and time.time() - age < since + 1.0  # zombie, dead
