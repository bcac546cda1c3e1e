"""A training run's state on disk: one file, replaced whole, from which the same command resumes."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dmkd.runtime.whole_files import whole_file
from dmkd.stores import DmkdError
from dmkd.stores.identity import differences, refuse_mismatch
from dmkd.training.optimisation import Optimisation
from dmkd.training.run_folder import CHECKPOINT


@dataclass
class RunState:
    """Where a run stands: everything but the weights. ``update`` optimiser steps of ``epoch`` are done."""

    epoch: int = 0
    update: int = 0
    # Of the epoch so far, over all workers.
    loss: float = 0.0  # summed over images
    agreeing: float = 0.0  # images
    images: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0  # seconds that rank 0 waited for data
    lines: list[dict[str, Any]] = field(default_factory=list)  # of the curves, one for each whole epoch
    best: dict[str, Any] | None = None  # epoch, top1 and top5 of the best student measured so far


def load_checkpoint(
    out: Path, description: dict[str, Any], execution: dict[str, Any]
) -> tuple[RunState, dict[str, Any], list[str]] | None:
    """The state that a run in ``out`` was left in, its weights, and what is carried out differently from then; or None.

    Raises ``MismatchError`` if that run is of another description, ``DmkdError`` if the file can't be read.
    """
    path = out / CHECKPOINT
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        stored, executed = json.loads(saved["description"]), json.loads(saved["execution"])
        state = RunState(**saved["state"])
    except Exception as error:
        raise DmkdError(f"{path} can't be read ({type(error).__name__}): delete {out} to start again.") from error
    refuse_mismatch(f"The run in {out}", stored, description, "Choose another --out, or delete it to start again.")
    changed = [f"{name} {then} then, {now} now" for name, then, now in differences(executed, execution)]
    return state, saved["optimisation"], changed


def save_checkpoint(
    out: Path, description: dict[str, Any], execution: dict[str, Any], state: RunState, optimisation: Optimisation
) -> None:
    """Replace the checkpoint. Killed at any moment, either the old one is there or the new one. Raises ``StoreWriteError`` if the
    disk fails."""
    saved = {
        "description": json.dumps(description),
        "execution": json.dumps(execution),
        "state": asdict(state),
        "optimisation": optimisation.state_dict(),
    }
    with whole_file(out / CHECKPOINT) as partial, partial.open("wb") as file:
        try:
            torch.save(saved, file)
        except RuntimeError as error:  # of torch's writer, which can't finish what the file refused to take
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
