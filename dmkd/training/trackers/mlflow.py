"""MLflow, by its client alone: no run of the process is touched that somebody else may have open."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmkd.training.trackers.tracker import PROJECT, Numbers, Tracker, flat

LONGEST_PARAM = 6000  # characters that a server takes


class Mlflow(Tracker):
    """``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and all its other variables count."""

    name = "mlflow"
    help = "MLflow"

    def begin(self, folder: Path, config: Mapping[str, Any], known: str | None) -> str:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        if known is not None:
            self._run = known
            self._client.update_run(known, status="RUNNING")
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        there = self._client.get_experiment_by_name(name)
        experiment = there.experiment_id if there else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, run_name=folder.name).info.run_id
        for key, value in flat(config).items():
            self._client.log_param(self._run, key, str(value)[:LONGEST_PARAM])
        return self._run

    def log(self, line: Numbers, epoch: int) -> None:
        for key, value in line.items():
            self._client.log_metric(self._run, key, value, step=epoch)

    def finish(self, summary: Numbers | None) -> None:
        for key, value in (summary or {}).items():
            self._client.log_metric(self._run, f"summary.{key}", value)
        self._client.set_terminated(self._run, "FINISHED" if summary is not None else "KILLED")
