"""Trackio."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from dmkd.training.trackers.tracker import PROJECT, Numbers, Tracker


class Trackio(Tracker):
    """``TRACKIO_DIR``, ``TRACKIO_SPACE_ID`` and all its other variables count."""

    name = "trackio"
    help = "Trackio, on this machine or in a Space"

    def begin(self, folder: Path, config: Mapping[str, Any], known: str | None) -> str:
        import trackio

        known = known or f"{folder.name}-{uuid4().hex[:6]}"  # it knows runs by their names
        self._run = trackio.init(PROJECT, known, config=dict(config), resume="allow", embed=False)
        return known

    def log(self, line: Numbers, epoch: int) -> None:
        self._run.log(dict(line), step=epoch)

    def finish(self, summary: Numbers | None) -> None:
        if summary is not None:
            self._run.log({f"summary.{key}": value for key, value in summary.items()})
        self._run.finish()
