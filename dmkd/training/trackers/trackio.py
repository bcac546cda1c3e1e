"""Trackio."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from uuid import uuid4

from dmkd.training.trackers.tracker import PROJECT, Numbers, Tracker


class Trackio(Tracker):
    """``TRACKIO_DIR``, ``TRACKIO_SPACE_ID`` and all its other variables count."""

    name = "trackio"
    help = "Trackio, on this machine or in a Space"

    def begin(self, folder: Path, config: Mapping[str, Any], known: str | None, group: str | None) -> str:
        import trackio

        known = known or f"{folder.name}-{uuid4().hex[:6]}"  # it knows runs by their names
        with redirect_stdout(sys.stderr):  # stdout holds results alone
            self._run = trackio.init(PROJECT, known, group=group, config=dict(config), resume="allow", embed=False)
        step = getattr(self._run, "_next_step", None)  # which it has asked for, here or in a Space, to go on there
        self._epochs = None if step is None else max(0, step - 1)
        return known

    def epochs_there(self) -> int | None:
        return self._epochs

    def log(self, line: Numbers, epoch: int) -> None:
        self._epochs = epoch
        self._run.log(dict(line), step=epoch)

    def finish(self, summary: Numbers | None) -> None:
        import trackio

        if summary is not None:
            self._run.log({f"summary.{key}": value for key, value in summary.items()}, step=self._epochs)
        with redirect_stdout(sys.stderr):
            trackio.finish()
