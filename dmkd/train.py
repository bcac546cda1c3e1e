"""SPINE 2: batches -> views -> student -> loss -> step -> evaluate -> checkpoint, in that order."""

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.classifier import load_classifier
from dmkd.classifiers.evaluate import Evaluation, evaluate
from dmkd.classifiers.evaluation_data import evaluation_batches
from dmkd.classifiers.students import create_student, preprocessing_of, save_student
from dmkd.loading import Batch, open_loader
from dmkd.runtime.devices import default_cpu_threads, make_deterministic
from dmkd.runtime.versions import hardware, library_versions
from dmkd.stores import DmkdError, Store, UsageError
from dmkd.training.checkpoint import RunState, load_checkpoint, save_checkpoint
from dmkd.training.curves import Curves
from dmkd.training.execution import Execution
from dmkd.training.objective import Objective
from dmkd.training.optimisation import Optimisation
from dmkd.training.team import Team
from dmkd.training.training_recipe import TrainingRecipe

SUMMARY = "summary.json"
STUDENT = "student"  # of the last epoch
BEST = "best"  # of the epoch with the best top-1, where there are images to measure it on
REPORT_SECONDS = 0.5  # between two reports: each waits for the device


@dataclass
class Progress:
    """What is told twice a second: ``epoch`` of ``epochs``, ``images`` of ``total_images`` seen in all epochs."""

    epoch: int
    epochs: int
    images: int
    total_images: int
    loss: float
    evaluation: Evaluation | None = None


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

    Stopped at any moment and called again with the same arguments, it goes on from the last checkpoint; on a CPU the
    weights are then the same to the bit as those of an uninterrupted run. ``evaluate_on``: labelled images on which
    the student is measured (a folder, WebDataset tars, a store or ``digits``). ``student`` is the one of the last epoch,
    and nothing is chosen by those images; ``best`` is the one that did best on them. ``begin`` is told how many images
    earlier calls have seen, in all epochs, before ``report`` is told how this one gets on. In a process that torchrun
    started, this trains together with the others; only rank 0 writes, reports and returns a summary, the others {}.
    Raises ``MismatchError`` if ``out`` holds a run of another recipe or store.
    """
    team = Team(device)
    try:
        run = _Run(recipe, store, Path(out), execution or Execution(), team, notice)
        return run.train(evaluate_on, begin, report)
    finally:
        team.leave()


def make_folder(folder: Path) -> None:
    """Make the folder of ``--out``. Raises ``UsageError`` where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: {folder} can't be made a folder: {error.strerror or error}.") from error


class _Run:
    def __init__(
        self,
        recipe: TrainingRecipe,
        store: Store,
        out: Path,
        execution: Execution,
        team: Team,
        notice: Callable[[str], None],
    ) -> None:
        self.recipe, self.store, self.out, self.execution, self.team = recipe, store, out, execution, team
        precision = execution.precision(team.device)
        self.loader = open_loader(recipe, store, team.device, team.rank, team.world_size, execution.memory)
        self.updates = -(-self.loader.num_images // recipe.batch_size)
        # Batches of the loader that make one optimiser step: as even as can be.
        self.parts = [len(part) for part in np.array_split(np.arange(len(self.loader)), self.updates)]
        self.description: dict[str, Any] = {
            "training": recipe.to_json(),
            "store": {"identity": store.identity, "images": self.loader.num_images},
            "labels": {name: label_set.identity for name, label_set in self.loader.label_sets.items()},
        }
        self.carried_out: dict[str, Any] = {
            "device": torch.device(team.device).type,
            "workers": team.world_size,
            "order": self.loader.order_description["order"],
            "cpu_threads": max(1, default_cpu_threads() // team.local_size) if team.device == "cpu" else None,
            "amp": precision,
            "channels_last": execution.layout(team.device) == torch.channels_last,
            "compile": execution.compile,
        }
        found = load_checkpoint(out, self.description, self.carried_out)
        self.state, weights, changed = found or (RunState(), None, [])
        if changed and team.leads:
            notice(f"{out} is gone on with differently ({'; '.join(changed)}): not to the bit as without the break.")
        make_deterministic(team.device, self.carried_out["cpu_threads"])
        if (
            torch.device(team.device).type == "cuda"
        ):  # nothing is promised to the bit there, and choosing kernels is faster
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False

        size = self.loader.view_set.attributes["size"]
        torch.manual_seed(recipe.seed)
        model = create_student(recipe.student, store.num_classes, size, recipe.pretrained, recipe.student_args)
        self.preprocessing = preprocessing_of(self.loader.view_set.attributes, model, recipe.pretrained)
        if recipe.sync_bn:
            model = team.synchronise_batch_norm(model)
        layout = execution.layout(team.device)
        model = model.to(team.device).to(memory_format=layout)
        objective = Objective(recipe, self.loader, model, self.preprocessing, layout, execution.compile)
        self.optimisation = Optimisation(recipe, objective, team, precision, self.updates)
        if weights is not None:
            self.optimisation.load_state_dict(weights)

    def train(
        self, evaluate_on: str | None, begin: Callable[[int], None], report: Callable[[Progress], None]
    ) -> dict[str, Any]:
        state, recipe = self.state, self.recipe
        curves = None
        if self.team.leads:
            if evaluate_on and state.epoch < recipe.epochs:
                self._refuse_evaluation(evaluate_on)
            make_folder(self.out)
            curves = Curves(self.out, state.lines)
            self._keep_best()  # in case the run was stopped before it could
            begin(self._images_seen(state.epoch, state.update))
        while state.epoch < recipe.epochs:
            self._epoch(report)
            line = self._line()
            if evaluate_on and self.team.leads and self._is_time_to_evaluate():
                evaluation = self._evaluate(evaluate_on)
                line |= {"top1": evaluation.top1, "top5": evaluation.top5}
                if state.best is None or evaluation.top1 > state.best["top1"]:
                    state.best = dict(line)
                    shutil.copytree(self.out / STUDENT, self._best_of_epoch(line["epoch"]))
                total = recipe.epochs * self.loader.num_images
                seen = self._images_seen(line["epoch"])
                report(Progress(line["epoch"], recipe.epochs, seen, total, line["loss"], evaluation))
            self.state = state = RunState(epoch=state.epoch + 1, lines=[*state.lines, line], best=state.best)
            if curves:
                curves.add(line)
                self._save()
                self._keep_best()
        if not self.team.leads:
            return {}
        assert curves is not None
        curves.close()
        self._save_student()
        summary = self._summary(evaluate_on)
        _write_atomically(self.out / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
        return summary

    def _epoch(self, report: Callable[[Progress], None]) -> None:
        """The rest of the epoch that the state is in."""
        state, team, loader = self.state, self.team, self.loader
        self.optimisation.objective.train()
        batches = loader.epoch(state.epoch, first_batch=sum(self.parts[: state.update]))
        clock = _Clock(state.seconds, state.waited)
        # Sums of loss and agreement since the state was last brought up to date: kept on the device, which is not waited for.
        sums, images = self.optimisation.no_sums(), 0
        saved = reported = time.monotonic()
        for update in range(state.update, self.updates):
            step = state.epoch * self.updates + update
            these, count = self.optimisation.step(clock.parts(batches, self.parts[update]), step)
            sums, images = sums + these, images + count
            now, last = time.monotonic(), update + 1 == self.updates
            wanted = team.leads and now - saved >= 60 * self.execution.checkpoint_minutes
            (due,) = team.sum(wanted) if not last else (True,)
            if due:
                sums, images = self._bring_up_to_date(update + 1, sums, images, clock), 0
                if team.leads and not last:
                    self._save()
                saved = time.monotonic()
            if team.leads and (now - reported >= REPORT_SECONDS or last):
                loss = these[0].item() / count
                self._refuse_nonfinite(loss, update)
                seen = self._images_seen(state.epoch, update + 1)
                total = self.recipe.epochs * loader.num_images
                report(Progress(state.epoch + 1, self.recipe.epochs, seen, total, loss))
                reported = now
        batches.close()  # ends the loader's threads

    def _bring_up_to_date(self, update: int, sums: torch.Tensor, images: int, clock: "_Clock") -> torch.Tensor:
        """Add what all workers did since the last time to the state; zeros to go on with."""
        state = self.state
        loss, agreeing, count = self.team.sum(*sums.tolist(), images)
        state.update = update
        state.loss, state.agreeing, state.images = state.loss + loss, state.agreeing + agreeing, state.images + count
        state.seconds, state.waited = clock.seconds, clock.waited
        self._refuse_nonfinite(state.loss, update - 1)
        return torch.zeros_like(sums)

    def _refuse_nonfinite(self, loss: float, update: int) -> None:
        if not math.isfinite(loss):
            raise DmkdError(
                f"The loss became {loss} in epoch {self.state.epoch + 1}, by step {update + 1}: "
                f"lower --lr (now {self.recipe.lr}); delete {self.out} to start again."
            )

    def _images_seen(self, epochs: int, updates: int = 0) -> int:
        """In so many whole epochs and optimiser steps of the next."""
        return epochs * self.loader.num_images + updates * self.loader.num_images // self.updates

    def _line(self) -> dict[str, Any]:
        """A whole epoch in numbers."""
        state = self.state
        return {
            "epoch": state.epoch + 1,
            "loss": state.loss / state.images,
            "agreement": state.agreeing / state.images,
            "images": int(state.images),
            "lr": self.optimisation.lr,
            "images_per_second": state.images / state.seconds,
            "waiting_for_data": state.waited / state.seconds,
        }

    def _is_time_to_evaluate(self) -> bool:
        done = self.state.epoch + 1
        return done % self.execution.evaluate_every == 0 or done == self.recipe.epochs

    def _evaluate(self, data: str) -> Evaluation:
        self._save_student()
        names, workers = self.store.class_names, self.execution.data_workers
        return evaluate_folder(self.out / STUDENT, data, self.team.device, names, workers)

    def _refuse_evaluation(self, data: str) -> None:
        """Raise now what would otherwise be raised after the first epoch."""
        with tempfile.TemporaryDirectory() as folder:
            self._save_student(Path(folder))
            classifier = replace(load_classifier(folder), source=self.recipe.student)
            evaluation_batches(data, classifier, self.store.class_names, self.execution.data_workers)

    def _save(self) -> None:
        save_checkpoint(self.out, self.description, self.carried_out, self.state, self.optimisation)

    def _save_student(self, folder: Path | None = None) -> None:
        save_student(
            folder or self.out / STUDENT,
            self.optimisation.student,
            self.recipe.student,
            self.store.class_names,
            self.preprocessing,
            self.recipe.student_args,
        )

    def _best_of_epoch(self, epoch: int) -> Path:
        """Where the student of an epoch waits until the checkpoint says that it is the best."""
        return self.out / f"{BEST}.epoch{epoch}"

    def _keep_best(self) -> None:
        """Make ``best`` what the checkpoint says. Killed at any moment, the next start does it."""
        if self.state.best is not None and self._best_of_epoch(self.state.best["epoch"]).exists():
            shutil.rmtree(self.out / BEST, ignore_errors=True)
            self._best_of_epoch(self.state.best["epoch"]).rename(self.out / BEST)
        for left_over in self.out.glob(f"{BEST}.epoch*"):
            shutil.rmtree(left_over)

    def _summary(self, evaluate_on: str | None) -> dict[str, Any]:
        lines, last, best = self.state.lines, self.state.lines[-1], self.state.best
        labels = {name: {"teacher": s.teacher, "codec": s.codec.name} for name, s in self.loader.label_sets.items()}
        return {
            **self.description,
            "store": {**self.description["store"], "path": self.store.path, "recipe": self.store.recipe},
            "teachers": labels,
            "views": dict(self.loader.view_set.attributes),
            "execution": self.carried_out,
            "student": str(self.out / STUDENT),
            "parameters": sum(p.numel() for p in self.optimisation.student.parameters()),
            "loss": last["loss"],
            "agreement": last["agreement"],
            "evaluated_on": evaluate_on,
            "top1": last.get("top1"),
            "top5": last.get("top5"),
            "best": {"student": str(self.out / BEST), **{k: best[k] for k in ("epoch", "top1", "top5")}}
            if best
            else None,
            "images_per_second": float(np.median([line["images_per_second"] for line in lines])),
            "waiting_for_data": float(np.median([line["waiting_for_data"] for line in lines])),
            "versions": library_versions(),
            "hardware": hardware(),
        }


class _Clock:
    """Seconds of an epoch, and how many of them went into waiting for the loader."""

    def __init__(self, seconds: float, waited: float) -> None:
        self.start, self.waited = time.perf_counter() - seconds, waited

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def parts(self, batches: Iterator[Batch], count: int) -> Iterator[tuple[Batch, bool]]:
        """The next ``count`` batches, each with whether it is the last of them."""
        for number in range(count):
            start = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - start
            yield batch, number + 1 == count


def evaluate_folder(
    folder: Path, data: str, device: str, class_names: list[str] | None = None, workers: int = 0
) -> Evaluation:
    """Evaluate a saved classifier: a student is measured as it was written, not as it was in memory."""
    classifier = load_classifier(str(folder), device=device)
    return evaluate(classifier, evaluation_batches(data, classifier, class_names, workers))


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
