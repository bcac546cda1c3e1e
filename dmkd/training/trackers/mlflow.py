"""MLflow, by its client alone: no run of the process is touched that somebody else may have open."""

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dmkd.stores.errors import UsageError, first_line
from dmkd.training.trackers.tracker import PROJECT, Numbers, Tracker, flat

LONGEST_PARAM = 6000  # characters that a server takes
MOST_PARAMS = 100  # that it takes at once
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


class Mlflow(Tracker):
    """``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` or ``_ID``, and all its other variables count."""

    name = "mlflow"
    help = "MLflow"

    @classmethod
    def check(cls) -> None:
        super().check()
        import mlflow

        uri = mlflow.get_tracking_uri()
        if uri.startswith(DATABASES) and find_spec("sqlalchemy") is None:
            raise UsageError(
                f"--log mlflow: runs would go to {uri}, and mlflow-skinny opens no database. Set MLFLOW_TRACKING_URI to a "
                "server, or pip install mlflow."
            )
        try:
            mlflow.MlflowClient()
        except Exception as error:  # the tool's own, of whatever type
            raise UsageError(f"--log mlflow: {first_line(error)}") from error

    def begin(self, folder: Path, config: Mapping[str, Any], known: str | None, group: str | None) -> str:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        if known is None:
            tags = {} if group is None else {"group": group}
            run = self._client.create_run(self._experiment(), run_name=folder.name, tags=tags)
        else:
            self._client.update_run(known, status="RUNNING")
            run = self._client.get_run(known)
        self._run, self._epochs = run.info.run_id, int(run.data.metrics.get("epoch", 0))
        self._describe(config, run.data.params)
        return self._run

    def epochs_there(self) -> int:
        return self._epochs

    def log(self, line: Numbers, epoch: int) -> None:
        from mlflow.entities import Metric

        self._epochs = epoch
        now = round(1000 * time.time())
        # All in one request, so that an epoch is there whole or not at all.
        self._client.log_batch(self._run, metrics=[Metric(key, value, now, epoch) for key, value in line.items()])

    def finish(self, summary: Numbers | None) -> None:
        if summary is not None:
            self.log({f"summary.{key}": value for key, value in summary.items()}, self._epochs)
        self._client.set_terminated(self._run, "FINISHED" if summary is not None else "KILLED")

    def _experiment(self) -> str:
        if (number := os.environ.get("MLFLOW_EXPERIMENT_ID")) is not None:
            return number
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        there = self._client.get_experiment_by_name(name)
        return there.experiment_id if there else self._client.create_experiment(name)

    def _describe(self, config: Mapping[str, Any], there: Mapping[str, str]) -> None:
        """Parameters can't be changed: what a longer run has otherwise is a tag of the same name."""
        from mlflow.entities import Param, RunTag

        described = {key: str(value)[:LONGEST_PARAM] for key, value in flat(config).items()}
        new = [Param(key, value) for key, value in described.items() if key not in there]
        changed = [RunTag(key, value) for key, value in described.items() if there.get(key, value) != value]
        for start in range(0, len(new), MOST_PARAMS):
            self._client.log_batch(self._run, params=new[start : start + MOST_PARAMS])
        for start in range(0, len(changed), MOST_PARAMS):
            self._client.log_batch(self._run, tags=changed[start : start + MOST_PARAMS])
