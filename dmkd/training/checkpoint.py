"""A training run's state on disk: one file, replaced whole, from which the same command resumes."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dmkd.runtime.whole_files import whole_file
from dmkd.stores import DmkdError
from dmkd.stores.identity import differences, refuse_mismatch
from dmkd.training.optimisation import Optimisation
from dmkd.training.run_folder import CHECKPOINT
from dmkd.training.training_recipe import LENGTH


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
    # The shorter runs that this one was trained on from: each one's epochs or updates, and the step after which it was left.
    continued_from: list[dict[str, int]] = field(default_factory=list)

    def left_at(self, step: int, length: dict[str, int]) -> "RunState":
        """The state in which a longer run begins where this one, of ``length``, was left after ``step`` optimiser steps. What
        was measured at the end of a partial epoch is measured again when that epoch is whole."""
        return replace(
            self,
            lines=self.lines[: self.epoch],
            continued_from=[*self.continued_from, {**length, "after_updates": step}],
        )


@dataclass
class Saved:
    """What was found in a run's folder."""

    state: RunState
    optimisation: dict[str, Any]  # for Optimisation.load_state_dict
    changed: list[str]  # what is carried out differently from then
    shorter: dict[str, int] | None  # epochs or updates of that run, if this one is to go further


def load_checkpoint(out: Path, description: dict[str, Any], execution: dict[str, Any]) -> Saved | None:
    """What a run in ``out`` was left with; None if there is none.

    Raises ``MismatchError`` if that run is of another description, other than a shorter one, ``DmkdError`` if the file can't be
    read.
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
    shorter = _shorter(stored, description)
    if shorter is None:
        way_out = "Choose another --out, or delete it to start again."
        refuse_mismatch(f"The run in {out}", stored, description, way_out, holder="the run")
    changed = [f"{name} {then} then, {now} now" for name, then, now in differences(executed, execution)]
    return Saved(state, saved["optimisation"], changed, shorter)


def _shorter(stored: dict[str, Any], asked: dict[str, Any]) -> dict[str, int] | None:
    """The stored run's epochs or updates, if more of them are all that is asked for. The warm-up follows from the length."""
    if {field.removeprefix("training.") for field, _, _ in differences(stored, asked)} - set(LENGTH):
        return None
    for unit in ("epochs", "updates"):
        then, now = stored["training"].get(unit), asked["training"].get(unit)
        if then is not None and now is not None and then < now:
            return {unit: then}
    return None


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
