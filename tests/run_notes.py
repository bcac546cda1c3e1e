"""What runs write down of themselves, written by hand: for tests of whoever looks on."""

import json
import os
import socket
from datetime import UTC, datetime

HERE = {"host": socket.gethostname(), "pid": os.getpid()}
DEAD = {**HERE, "pid": 2**22 + 1}  # no process has such a number


def note(**changes):
    """A training run's progress, of a run that is at work."""
    now = datetime.now(UTC).isoformat()
    return {"outcome": "running", "driver": HERE, "started": now, "saved": now, "ended": None, **changes}


def written(folder, lines=(), progress=None, summary=None):
    """The files of a training run: metrics by epoch, progress.json and summary.json -> the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if lines:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, content in (("progress.json", progress), ("summary.json", summary)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder
