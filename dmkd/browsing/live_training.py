"""What training runs are at: from the files in their folders alone, which may be a stranger's. What does not fit is left out."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from dmkd.browsing.plain import number, text, unix_time
from dmkd.stores import UsageError
from dmkd.stores.at_work import SILENT_SECONDS, is_at_work
from dmkd.training.run_folder import METRICS, PROGRESS, SUMMARY

DEEPEST = 4  # folders below the one that was named
MOST_FOLDERS, MOST_RUNS = 2000, 100  # looked into; shown, the newest
OPENED = 6
LOOK_SECONDS = 10.0  # between two times that folders are searched for runs
MOST_LINES, MOST_BYTES = 10_000, 8 * 2**20  # of a file, its last ones
MOST_POINTS = 300  # of a curve
CURVES = ("epoch", "loss", "agreement", "top1", "top5", "lr", "images_per_second", "waiting_for_data")
STEPS = ("images", "loss", "lr", "images_per_second")

Version = tuple[tuple[int, int] | None, ...]  # of the files of a run: when each was written, and its bytes


@dataclass(frozen=True)
class _Read:
    version: Version
    facts: dict[str, Any]


class LiveTraining:
    """The training runs in some folders. Threads may share it."""

    def __init__(self, named: Sequence[str], usual: Sequence[Path] = ()) -> None:
        """``named``: folders of runs, or of folders of runs. ``usual``: others, which need not be there. Raises ``UsageError``
        for a named one that is no folder."""
        for folder in named:
            if not Path(folder).is_dir():
                raise UsageError(f"--run: there is no folder {folder}.")
        self._roots = list(dict.fromkeys(path.resolve() for path in [*map(Path, named), *usual]))
        self._lock = Lock()
        self._searched, self._folders = -float("inf"), list[tuple[Path, str]]()
        self._read: dict[Path, _Read] = {}

    def facts(self, opened: Collection[str] | None = None) -> list[dict[str, Any]]:
        """JSON-able, of each run, the newest first: ``id``, ``name``, ``folder``, ``state`` (running, stopped, done, interrupted,
        failed) and its ``reason``, ``student``, ``store`` (``path``, ``identity``), ``started``, ``saved`` and ``ended`` (Unix
        times), ``epoch`` of ``epochs``, ``images`` of ``total_images``, ``images_per_second``, ``eta`` (seconds), ``top1``.
        Those whose id is in ``opened``, None: the newest six, have ``by_epoch`` and ``by_step``: a list for each name of CURVES
        and STEPS that there is, None where there is no number."""
        with self._lock:
            now = time.monotonic()
            if now - self._searched > LOOK_SECONDS:
                self._folders, self._searched = list(_newest(self._roots)), now
            kept, self._read = self._read, {}
            for folder, name in self._folders:
                version = _version(folder)
                before = kept.get(folder)
                fresh = before is not None and before.version == version
                self._read[folder] = before if before and fresh else _Read(version, _facts(folder, name, version))
            found = [_now(one.facts) for one in self._read.values()]
        chosen = {one["id"] for one in found[:OPENED]} if opened is None else set(opened)
        return [one if one["id"] in chosen else {**one, "by_epoch": None, "by_step": None} for one in found]


def _newest(roots: Sequence[Path]) -> list[tuple[Path, str]]:
    """The folders of runs that were written last, and their names."""
    found: dict[Path, str] = {}
    left = [MOST_FOLDERS]
    for root in roots:
        for folder in _runs_below(root, DEEPEST, left):
            found.setdefault(folder, str(folder.relative_to(root.parent)))
    latest = sorted(found, key=lambda folder: max((one[0] for one in _version(folder) if one), default=0), reverse=True)
    return [(folder, found[folder]) for folder in latest[:MOST_RUNS]]


def _runs_below(folder: Path, depth: int, left: list[int]) -> Iterator[Path]:
    """Folders that hold a run. Links are not followed, stores not entered, and no more than ``left`` looked into."""
    if left[0] <= 0:
        return
    left[0] -= 1
    try:
        with os.scandir(folder) as listed:
            entries = {entry.name: entry.is_dir(follow_symlinks=False) for entry in listed}
    except OSError:
        return
    if any(_version(folder)[:2]):
        yield folder
    elif depth and "zarr.json" not in entries:
        for name in sorted(name for name, is_folder in entries.items() if is_folder and not name.startswith(".")):
            yield from _runs_below(folder / name, depth - 1, left)


def _version(folder: Path) -> Version:
    def one(name: str) -> tuple[int, int] | None:
        try:
            found = (folder / name).lstat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else None

    return tuple(one(name) for name in (METRICS, PROGRESS, SUMMARY))


def _facts(folder: Path, name: str, version: Version) -> dict[str, Any]:
    curves, note, end = (one is not None for one in version)
    progress, summary = _object(folder / PROGRESS) if note else {}, _object(folder / SUMMARY) if end else {}
    lines = [line for one in (_last_lines(folder / METRICS) if curves else []) if (line := _parsed(one))]
    training, of_summary = _dict(summary, "training"), _dict(summary, "store")
    store = _dict(progress, "store") or of_summary
    epochs = number(progress.get("epochs")) or number(training.get("epochs"))
    last = lines[-1] if lines else {}
    outcome, _, reason = text(progress.get("outcome") or ("done" if summary else "running")).partition(": ")
    return {
        "id": hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()[:12],
        "name": text(name),
        "folder": text(folder),
        "state": outcome,
        "reason": reason,
        "note": {key: progress.get(key) for key in ("outcome", "driver", "started", "saved")} if progress else None,
        "written": max((one[0] / 1e9 for one in version if one), default=0.0),
        "student": text(progress.get("student") or training.get("student") or ""),
        "store": {"path": text(store.get("path") or ""), "identity": text(store.get("identity") or "")},
        "started": unix_time(progress.get("started")),
        "saved": unix_time(progress.get("saved")),
        "ended": unix_time(progress.get("ended")),
        "epoch": number(progress.get("epoch")) or number(last.get("epoch")),
        "epochs": epochs,
        "images": number(progress.get("images")),
        "total_images": number(progress.get("total_images")),
        "images_per_second": number(progress.get("images_per_second")) or number(last.get("images_per_second")),
        "top1": next((top1 for line in reversed(lines) if (top1 := number(line.get("top1"))) is not None), None),
        "by_epoch": _curves(CURVES, lambda key: [number(line.get(key)) for line in lines]),
        "by_step": _curves(STEPS, lambda key: _numbers(_dict(progress, "points").get(key))),
    }


def _now(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with what follows from the time: whether the run goes on, and how long yet."""
    state, note = facts["state"], facts["note"]
    if state == "running":
        try:
            goes_on = is_at_work(note) if note else time.time() - facts["written"] < SILENT_SECONDS
        except (ValueError, TypeError, AttributeError, OverflowError):
            goes_on = False
        state = "running" if goes_on else "stopped"
    rate, images, total = facts["images_per_second"], facts["images"], facts["total_images"]
    known = state == "running" and rate and images is not None and total is not None
    shown = {key: value for key, value in facts.items() if key not in ("note", "written")}
    return {**shown, "state": state, "eta": max(0.0, total - images) / rate if known else None}


def _curves(names: Sequence[str], column: Callable[[str], list[float | None]]) -> dict[str, list[float | None]]:
    """Of each name that has numbers as many as the first has, thinned alike."""
    columns = {name: column(name) for name in names}
    count = len(columns[names[0]])
    every = -(-count // MOST_POINTS) or 1
    places = sorted({*range(0, count, every), count - 1}) if count else []
    fitting = {name: found for name, found in columns.items() if len(found) == count}
    return {
        name: [found[place] for place in places]
        for name, found in fitting.items()
        if any(value is not None for value in found)
    }


def _numbers(values: Any) -> list[float | None]:
    return [number(value) for value in values[-MOST_LINES:]] if isinstance(values, list) else []


def _last_lines(file: Path) -> list[bytes]:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - MOST_BYTES))
            return opened.read(MOST_BYTES).splitlines()[-MOST_LINES:]
    except OSError:
        return []


def _object(file: Path) -> dict[str, Any]:
    """A JSON object; {} for what is none, or too large."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError:
        return {}
    return _parsed(content) if len(content) <= MOST_BYTES else {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _dict(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = facts.get(name)
    return found if isinstance(found, Mapping) else {}
