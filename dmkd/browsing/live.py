"""What the runs on a store are at: how far, how fast, what failed. From their logs alone, so later and on other machines too."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from dmkd.browsing.live_log import Run, RunLogs
from dmkd.browsing.live_rates import Done, edges_of
from dmkd.browsing.plain import number, text, unix_time
from dmkd.stores import Store
from dmkd.stores.run_log import FAILURES_KEPT

MOST_CURVES = 16
MOST_WORKERS = 64  # in a table
NEWEST_BLOCKS, NEWEST_OF_BLOCK = 6, 4


class LiveRuns:
    """Of one store."""

    def __init__(self) -> None:
        self._logs = RunLogs()

    def facts(self, store: Store, opened: Collection[str]) -> dict[str, Any]:
        """JSON-able: ``runs``, the newest first, and a ``problem`` with reading them, or None. Times are Unix times, rates images
        a second; None is what is not known. ``detail`` is there of runs at work, of the newest and of those in ``opened``."""
        runs = self._logs.read(store)
        done = {run.name: _done(store, run) for run in runs}
        found = []
        for run in runs:
            brief = _brief(run, done[run.name]) | {"eta": _seconds_left(store, run, runs, done)}
            if run.at_work or run.name in opened or run is runs[0]:
                brief["detail"] = _detail(store, run)
            found.append(brief)
        return {"runs": found, "problem": self._logs.problem}


def _done(store: Store, run: Run, worker: int | None = None) -> Done:
    """What the run has finished, or the worker in this place of it."""
    rows = run.rows if worker is None else run.rows[run.rows["worker"] == worker]
    images = np.clip(store.num_images - rows["block"].astype(np.float64) * store.block_size, 0, store.block_size)
    return Done.of(images, rows["seconds"], rows["at"])


def _brief(run: Run, done: Done) -> dict[str, Any]:
    facts, failures = run.facts, _dict(run.facts, "failures")
    outcome, _, reason = text(facts.get("outcome")).partition(": ")
    listed = [worker for worker in _dict(facts, "workers").values() if isinstance(worker, Mapping)]
    return {
        "name": run.name,
        "command": text(facts.get("command") or "?"),
        "started": unix_time(facts.get("started")),
        "saved": unix_time(facts.get("saved")),
        "ended": unix_time(facts.get("ended")),
        "state": ("running" if run.at_work else "stopped") if outcome == "running" else outcome,
        "reason": reason,
        "hosts": sorted({text(worker["host"]) for worker in listed if worker.get("host")})[:MOST_WORKERS],
        "hardware": sorted({text(worker["hardware"]) for worker in listed if worker.get("hardware")})[:MOST_WORKERS],
        "workers": len(listed),
        "blocks": len(run.rows),
        "planned": _planned(run),
        "images": int(done.images.sum()),
        "lately": done.lately,
        "overall": done.overall,
        "last": float(done.at[-1]) if len(done.at) else None,
        "failures": int(number(failures.get("count")) or 0),
        "left_out": _left_out(run),
    }


def _seconds_left(store: Store, run: Run, runs: Sequence[Run], done: Mapping[str, Done]) -> float | None:
    """Of the blocks that are planned. Runs of one command share them: what one of them makes is not made by another."""
    planned = _planned(run)
    if not run.at_work or planned is None:
        return None
    together = [one for one in runs if one.at_work and one.facts.get("command") == run.facts.get("command")]
    rate = sum(done[one.name].lately or 0.0 for one in together)
    blocks = max(0, planned - len(run.rows) - _left_out(run))
    return blocks * store.block_size / rate if rate else None


def _detail(store: Store, run: Run) -> dict[str, Any]:
    """``workers``, the last 64 to finish a block; ``failures``, the newest first; ``curve``: bins from ``start`` to ``end`` with
    the rates of ``total``, and of each of ``workers`` where they are few; ``newest`` image ids."""
    machines = {text(name): facts for name, facts in _dict(run.facts, "workers").items() if isinstance(facts, Mapping)}
    done = {name: _done(store, run, run.workers[name]) for name in sorted(run.workers, key=_by_number)}
    last = sorted({*machines, *done}, key=lambda name: -done[name].at[-1] if name in done else 0.0)[:MOST_WORKERS]
    return {
        "workers": [_worker(name, machines.get(name, {}), done.get(name)) for name in sorted(last, key=_by_number)],
        "failures": _failures(run),
        "curve": _curve(done),
        "newest": _newest(store, run),
    }


def _by_number(name: str) -> tuple[int, str]:
    """w2 before w10."""
    return len(name), name


def _worker(name: str, machine: Mapping[str, Any], done: Done | None) -> dict[str, Any]:
    finished = done is not None and len(done.at) > 0
    return {
        "name": name,
        "host": text(machine.get("host") or ""),
        "hardware": text(machine.get("hardware") or machine.get("device") or ""),
        "blocks": len(done.at) if done else 0,
        "images": int(done.images.sum()) if done else 0,
        "lately": done.lately if done else None,
        "overall": done.overall if done else None,
        "last": float(done.at[-1]) if done and finished else None,
    }


def _failures(run: Run) -> list[dict[str, Any]]:
    last = _dict(run.facts, "failures").get("last")
    return [
        {
            "block": None if number(one.get("block")) is None else int(one["block"]),
            "worker": text(one.get("worker") or ""),
            "reason": text(one.get("reason")),
            "at": number(one.get("at")),
            "left_out": one.get("left_out") is True,
        }
        for one in reversed(last[-FAILURES_KEPT:] if isinstance(last, list) else [])
        if isinstance(one, Mapping)
    ]


def _curve(done: Mapping[str, Done]) -> dict[str, Any] | None:
    if not done:
        return None
    edges = edges_of(list(done.values()))
    curves = {name: one.binned(edges) for name, one in done.items()}
    return {
        "start": float(edges[0]),
        "end": float(edges[-1]),
        "total": [round(sum(rates), 3) for rates in zip(*curves.values(), strict=True)],
        "workers": curves if 1 < len(curves) <= MOST_CURVES else {},
    }


def _newest(store: Store, run: Run) -> list[int]:
    """A few images of each of the blocks that were finished last."""
    blocks = dict.fromkeys(int(block) for block in run.rows["block"][::-1][: 4 * NEWEST_BLOCKS])
    there = [block for block in blocks if block < store.num_blocks][:NEWEST_BLOCKS]
    return [image for block in there for image in store.block_ids(block)[:NEWEST_OF_BLOCK]]


def _planned(run: Run) -> int | None:
    planned = number(run.facts.get("planned"))
    return None if planned is None else max(int(planned), len(run.rows))


def _left_out(run: Run) -> int:
    return sum(one["left_out"] for one in _failures(run))


def _dict(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = facts.get(name)
    return found if isinstance(found, Mapping) else {}
