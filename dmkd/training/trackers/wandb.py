"""Weights & Biases."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from dmkd.stores.errors import UsageError
from dmkd.training.trackers.tracker import PROJECT, Numbers, Tracker


class Wandb(Tracker):
    """``WANDB_PROJECT``, ``WANDB_MODE`` and all its other variables count."""

    name = "wandb"
    help = "Weights & Biases"

    @classmethod
    def check(cls) -> None:
        super().check()
        import wandb

        if wandb.setup().settings.mode in ("online", "shared") and not wandb.login(prompt=False, verify=False):
            raise UsageError(
                "--log wandb: nobody is logged in. Run `wandb login`, set WANDB_API_KEY, or keep the run here with "
                "WANDB_MODE=offline."
            )

    def begin(self, folder: Path, config: Mapping[str, Any], known: str | None, group: str | None) -> str:
        import wandb

        known = known or uuid4().hex[:12]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            group=group,
            id=known,
            resume="allow",
            config=dict(config),
            allow_val_change=True,  # of a run that is continued for longer
            dir=os.environ.get("WANDB_DIR", str(folder)),
            settings=wandb.Settings(console="off", silent=True),  # the terminal is dmkd's
        )
        return known

    def epochs_there(self) -> int:
        """Offline none: each process writes a file of its own, and the last one's holds the whole run."""
        return max(0, self._run.starting_step - 1)

    def log(self, line: Numbers, epoch: int) -> None:
        self._run.log(dict(line), step=epoch)

    def finish(self, summary: Numbers | None) -> None:
        if summary is not None:
            self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if summary is not None else 1)
