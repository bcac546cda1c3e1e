"""SPINE 2: batches -> views -> student -> loss -> step -> evaluate -> checkpoint, in that order (:mod:`dmkd.training.run`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmkd.stores import Store
from dmkd.training.execution import Execution
from dmkd.training.live_progress import LiveProgress
from dmkd.training.run import Progress, TrainingRun
from dmkd.training.team import Team
from dmkd.training.tracked import TrackedRun
from dmkd.training.training_recipe import TrainingRecipe

__all__ = ["Progress", "train"]


def train(
    recipe: TrainingRecipe,
    store: Store,
    out: Path,
    *,
    device: str,
    execution: Execution | None = None,
    evaluate_on: str | None = None,
    begin: Callable[[int], None] = lambda images: None,
    report: Callable[[Progress], None] = lambda progress: None,
    notice: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Train a student on a store's files alone and write ``out``: the student, curves and ``summary.json`` (returned).

    If interrupted, call it again with the same arguments to resume from the last checkpoint; on a CPU the weights are then the
    same to the bit as those of an uninterrupted run. With a recipe of more ``epochs`` (or ``updates``) and nothing else
    different, a shorter run in ``out`` is continued on the longer schedule, and the summary's ``continued_from`` lists the
    shorter ones.

    ``evaluate_on``: labelled images on which the student is measured (a folder, WebDataset tars, a store or ``digits``).
    ``student`` is the one of the last epoch, and nothing is chosen by those images; ``best`` is the one that did best on them.
    ``begin`` is given the number of images that earlier calls have seen, in all epochs, before the first ``report``. In a
    process that torchrun started, this trains together with the others; only rank 0 writes, reports and returns a summary, the
    others {}. Raises ``MismatchError`` if
    ``out`` holds a run of another recipe or store, ``StoreWriteError`` if the disk refuses a file.
    """
    team = Team(device)
    try:
        run = TrainingRun(recipe, store, Path(out), execution or Execution(), team, notice)
        names = run.execution.log if team.leads else ()
        tracked = TrackedRun(names, run.out, run.facts, run.notice, run.execution.group)
        with LiveProgress(run, begin, report) as live, tracked:
            summary = run.train(evaluate_on, live.begin, live.report, tracked.log)
            tracked.finish(summary)
            return summary
    finally:
        team.leave()
