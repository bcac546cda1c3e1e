"""Trackers: other projects' services that keep the curves of training runs. One file a tool, and one line here."""

from dmkd.training.trackers.mlflow import Mlflow
from dmkd.training.trackers.tracker import Tracker
from dmkd.training.trackers.trackio import Trackio
from dmkd.training.trackers.wandb import Wandb

__all__ = ["TRACKERS", "Tracker"]

TRACKERS: dict[str, type[Tracker]] = {tracker.name: tracker for tracker in (Wandb, Mlflow, Trackio)}
