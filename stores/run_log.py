"""The run log: who made which block, when, how fast, on what machine and with which versions.

Below ``runs/`` each command that made blocks has a group of attributes: what was asked for, versions, workers, start, end,
outcome, how many blocks were to be made, what failed. Its blocks are in groups ``part-0``, ``part-1`` ... below it, as rows
[block, worker, seconds made, seconds written, finished at (Unix time)], at most 512 a part, so that each is a small file that is
replaced whole. Provenance only: nothing reads it to decide what is done, a crash may lose its last half minute, and it may be
deleted.
"""

import os
import re
import socket
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import DmkdError, StoreWriteError

if TYPE_CHECKING:
    from .trees.tree import Tree

RUNS = "runs"
BLOCKS_A_PART = 512
# Between two times that blocks are saved: for whoever follows the run, often where that costs little, as in a folder.
SAVE_SECONDS, MOST_SAVE_SECONDS = 5.0, 30.0
SHARE_OF_TIME = 0.002  # that goes into saving
FAILURES_KEPT = 100
LONGEST_REASON = 300


class RunLog:
    """The log of one run, written only by its driver. A context manager: how it exits is recorded as the outcome.

    Nothing is written before the first worker, block or failure: a run that finds everything done leaves no trace.
    """

    def __init__(self, tree: "Tree", facts: Mapping[str, Any]) -> None:
        self._tree = tree
        self._facts = {**facts, "started": utc_now(), "ended": None, "outcome": "running"}
        self._workers: dict[str, Mapping[str, Any]] = {}
        self._planned = 0
        self._failures: deque[dict[str, Any]] = deque(maxlen=FAILURES_KEPT)
        self._failed = 0
        self._rows: list[list[Any]] = []  # of the part that is being filled
        self._part = 0
        self._node = ""
        self._due = 0.0

    @property
    def name(self) -> str:
        """Of its group below ``runs/``; empty before anything was written."""
        return self._node.removeprefix(f"{RUNS}/")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._workers and not self._rows and not self._failed:
            return
        self._facts |= {"ended": utc_now(), "outcome": outcome_of(error)}
        if error is None:
            self.save()
        else:
            with suppress(StoreWriteError):  # the disk may be what failed, and its own error is the one to raise
                self.save()

    def add_worker(self, facts: Mapping[str, Any]) -> str:
        """Record a worker that has started -> its name in this log: w0, w1 ..."""
        name = f"w{len(self._workers)}"
        self._workers[name] = dict(facts)
        self.save()
        return name

    def plan(self, blocks: int) -> None:
        """This many more blocks are to be made; fewer, if it is negative: others have made them."""
        self._planned += blocks

    def add_block(self, block: int, worker: str, seconds_made: float, seconds_written: float) -> None:
        """Record a block that was written. Saves the first one, and then from time to time."""
        self._rows.append([block, worker, round(seconds_made, 3), round(seconds_written, 3), round(time.time(), 1)])
        if len(self._rows) == BLOCKS_A_PART:
            self.save()
            self._rows, self._part = [], self._part + 1
        elif time.monotonic() >= self._due or (self._part == 0 and len(self._rows) == 1):
            self.save()

    def add_failure(self, reason: str, *, block: int | None, worker: str | None, left_out: bool = False) -> None:
        """Record an attempt at a block that failed, or a worker that died (``block`` None) or could not start (``worker`` None
        too). ``left_out``: the block is not tried again. The last hundred are kept, and the count of all."""
        first_line = next(iter(reason.splitlines()), "")[:LONGEST_REASON]
        facts = {
            "block": block,
            "worker": worker,
            "reason": first_line,
            "at": round(time.time(), 1),
            "left_out": left_out,
        }
        self._failures.append(facts)
        self._failed += 1
        if self._failed == 1 or time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Write what has been recorded. Raises ``StoreWriteError`` if the disk fails."""
        start = time.monotonic()
        try:
            self._save()
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreWriteError(f"Could not write the run log of {self._tree.path}: {reason}.") from error
        now = time.monotonic()
        self._due = now + min(max((now - start) / SHARE_OF_TIME, SAVE_SECONDS), MOST_SAVE_SECONDS)

    def _save(self) -> None:
        begun = bool(self._node)
        if not begun:
            node = f"{RUNS}/{_free_name(self._tree)}"
            self._tree.create_group(RUNS)
            self._tree.create_group(node, self._all_facts())
            self._node = node  # only now: what could not be written is begun again
        if self._rows:
            self._tree.create_group(f"{self._node}/part-{self._part}", {"blocks": self._rows})
        if begun:
            # Last, so that of a run that has ended all is there. Also where nothing but the time has changed: it is how another
            # machine sees that this run is alive.
            self._tree.set_attributes(self._all_facts(), self._node)

    def _all_facts(self) -> dict[str, Any]:
        return {
            **self._facts,
            "workers": self._workers,
            "planned": self._planned,
            "failures": {"count": self._failed, "last": list(self._failures)},
            "saved": utc_now(),
        }


def read_runs(tree: "Tree") -> list[dict[str, Any]]:
    """All runs, the oldest first: ``name``, what :class:`RunLog` was given, ``workers`` (name -> facts) and ``blocks``."""
    runs = []
    for name in tree.children(RUNS):
        node = f"{RUNS}/{name}"
        parts = sorted(tree.children(node), key=lambda part: int(part.removeprefix("part-")))
        blocks = [row for part in parts for row in tree.attributes(f"{node}/{part}").get("blocks", [])]
        runs.append({"name": name, **tree.attributes(node), "blocks": blocks})
    return runs


def run_summaries(tree: "Tree") -> list[dict[str, Any]]:
    """All runs in brief, the oldest first: ``name``, ``command``, ``started``, ``ended``, ``outcome``, ``workers``,
    ``hosts`` and ``hardware`` of these, ``blocks``, ``seconds`` from the start to the last block.

    Of each run only the first and the last part are read: all parts but the last have as many blocks as the first.
    """
    return tree.map(lambda name: _summary(tree, name), tree.names(RUNS))


def _summary(tree: "Tree", name: str) -> dict[str, Any]:
    node = f"{RUNS}/{name}"
    parts = [f"part-{n}" for n in sorted(int(p[5:]) for p in tree.names(node) if re.fullmatch(r"part-\d+", p))]
    facts = tree.attributes(node)
    ends = [tree.attributes(f"{node}/{part}").get("blocks", []) for part in dict.fromkeys([*parts[:1], *parts[-1:]])]
    blocks = len(ends[0]) * (len(parts) - 1) + len(ends[-1]) if ends else 0
    workers = facts.get("workers", {}).values()
    started = facts.get("started")
    seconds = ends[-1][-1][4] - datetime.fromisoformat(started).timestamp() if started and ends and ends[-1] else None
    return {
        "name": name,
        "command": facts.get("command"),
        "started": started,
        "ended": facts.get("ended"),
        "outcome": facts.get("outcome"),
        "workers": len(workers),
        "hosts": sorted({worker["host"] for worker in workers if worker.get("host")}),
        "hardware": sorted({worker["hardware"] for worker in workers if worker.get("hardware")}),
        "blocks": blocks,
        "seconds": None if seconds is None else round(max(seconds, 0.0), 1),
    }


def _free_name(tree: "Tree") -> str:
    """``<UTC time>-<host>-<process>``, which sorts by time; a second run in the same second gets a number."""
    host = "".join(c if c.isalnum() or c in ".-" else "-" for c in socket.gethostname())
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{host}-{os.getpid()}"
    taken = sum(other.startswith(name) for other in tree.children(RUNS))
    return f"{name}-{taken + 1}" if taken else name


def outcome_of(error: BaseException | None) -> str:
    """How a context was left, in the words of the log."""
    if error is None:
        return "done"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"failed: {error}" if isinstance(error, DmkdError) else f"failed: {type(error).__name__}: {error}"


def utc_now(timespec: str = "seconds") -> str:
    """ISO 8601."""
    return datetime.now(UTC).isoformat(timespec=timespec)
