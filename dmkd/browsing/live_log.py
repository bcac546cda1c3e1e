"""The run logs of a store, followed: what is new is read, what can't change any more is kept. They may be a stranger's: what does
not fit is left out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from dmkd.browsing.plain import number, text, unix_time
from dmkd.stores import DmkdError, Store
from dmkd.stores.at_work import is_at_work
from dmkd.stores.locations import scheme
from dmkd.stores.run_log import RUNS

MOST_RUNS = 100  # the newest
SECONDS, SECONDS_IN_BUCKET = 1.0, 20.0  # between two looks
FORGOTTEN_SECONDS = 86400.0  # after which a run that is silent is not looked at again

ROWS = np.dtype([("block", np.int64), ("worker", np.int32), ("seconds", np.float64), ("at", np.float64)])


@dataclass
class Run:
    """One run's log. ``rows``: the blocks it finished, as ROWS, in order: ``worker`` is a place among ``workers``, ``seconds``
    how long it was made and written, ``at`` when it was there (Unix time)."""

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)  # the attributes of its log
    at_work: bool = False
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, ROWS))
    workers: dict[str, int] = field(default_factory=dict)  # those that finished blocks, and their places
    over: bool = False  # nothing will change
    full: dict[str, np.ndarray] = field(default_factory=dict)  # parts that are not written any more


class RunLogs:
    """Of one store. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._runs: dict[str, Run] = {}
        self._looked = -np.inf
        self.problem: str | None = None  # why the logs could not be read the last time

    def read(self, store: Store) -> list[Run]:
        """The newest runs, the newest first, as they were a moment ago; in a bucket up to twenty seconds. Never raises."""
        with self._lock:
            if time.monotonic() - self._looked > (SECONDS_IN_BUCKET if scheme(store.path) else SECONDS):
                try:
                    self._update(store)
                    self.problem = None
                except DmkdError as error:
                    self.problem = str(error)
                except OSError as error:
                    self.problem = f"The run log of {store.path} can't be read: {error.strerror or error}."
                self._looked = time.monotonic()
            return sorted(self._runs.values(), key=lambda run: run.name, reverse=True)

    def _update(self, store: Store) -> None:
        tree = store.chunks.tree
        names = sorted(tree.names(RUNS))[-MOST_RUNS:]
        before = {name: run for name, run in self._runs.items() if run.over}
        todo = [name for name in names if name not in before]
        read = tree.map(lambda name: self._read(store, name), todo)
        found = before | {name: run for name, run in zip(todo, read, strict=True) if run is not None}
        self._runs = {name: found[name] for name in names if name in found}

    def _read(self, store: Store, name: str) -> Run | None:
        """A run as it is now; None if there is nothing to be read."""
        tree, node = store.chunks.tree, f"{RUNS}/{name}"
        try:
            facts = tree.attributes(node)  # first: once it says that the run has ended, all parts are there
            if not facts:
                return None
            parts = sorted(
                (int(part[5:]), part) for part in tree.names(node) if part.startswith("part-") and part[5:].isdecimal()
            )
            known = self._runs.get(name, Run(name))
            full, workers, found = dict(known.full), dict(known.workers), [np.empty(0, ROWS)]
            for _, part in parts:
                rows = full.get(part)
                if rows is None:
                    rows = _rows(tree.attributes(f"{node}/{part}").get("blocks"), workers)
                    if part != parts[-1][1]:
                        full[part] = rows
                found.append(rows)
        except (KeyError, ValueError, TypeError, AttributeError):  # just begun, or damaged
            return self._runs.get(name)
        at_work = _is_at_work(facts)
        silent = time.time() - (unix_time(facts.get("saved")) or 0.0)
        over = not at_work and (facts.get("outcome") != "running" or silent > FORGOTTEN_SECONDS)
        return Run(name, facts, at_work, np.concatenate(found), workers, over, full)


def _is_at_work(facts: Mapping[str, Any]) -> bool:
    try:
        return is_at_work(facts)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return False


def _rows(blocks: Any, workers: dict[str, int]) -> np.ndarray:
    """A part's rows as ROWS; what is not of their form is left out. Adds names to ``workers``."""
    rows = []
    for row in blocks if isinstance(blocks, list) else ():
        if not isinstance(row, list) or len(row) < 5 or type(row[0]) is not int or not 0 <= row[0] < 2**53:
            continue
        made, written, at = (number(value) for value in row[2:5])
        if made is None or written is None or at is None or not 0 <= at < 1e11 or not 0 <= made + written < 1e9:
            continue
        worker = workers.setdefault(text(row[1]), len(workers))
        rows.append((row[0], worker, made + written, at))
    return np.array(rows, ROWS)
