"""A training run, from its checkpoint to its summary: epochs of steps, evaluations, checkpoints, the best student."""

import copy
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.evaluate import Evaluation, evaluate
from dmkd.classifiers.evaluation_data import decoding_threads, list_evaluation
from dmkd.classifiers.kept_images import KeptImages
from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.students import as_classifier, create_student, preprocessing_of, save_student
from dmkd.runtime.accelerators import Download
from dmkd.runtime.devices import default_cpu_threads, make_deterministic
from dmkd.runtime.precision import set_tf32
from dmkd.runtime.versions import hardware, library_versions
from dmkd.runtime.whole_files import sweep_partials, write_file, writing
from dmkd.stores import DmkdError, Store
from dmkd.training.checkpoint import RunState, load_checkpoint, save_checkpoint
from dmkd.training.curves import Curves
from dmkd.training.execution import Execution, classifier_precision
from dmkd.training.objective import Objective
from dmkd.training.optimisation import Optimisation
from dmkd.training.pace import Checkpoints, Clock
from dmkd.training.run_folder import BEST, STUDENT, SUMMARY, make_folder
from dmkd.training.run_length import run_length
from dmkd.training.sources import described, described_in_full, open_loader
from dmkd.training.team import Team
from dmkd.training.training_recipe import TrainingRecipe, views_of_student

REPORT_SECONDS = 0.5  # between two reports


@dataclass
class Progress:
    """What is reported twice a second: ``epoch`` of ``epochs``, ``images`` of ``total_images`` seen in all epochs."""

    epoch: int
    epochs: int
    images: int
    total_images: int
    loss: float
    evaluation: Evaluation | None = None


class TrainingRun:
    """One process's part in a training run: where it stands, and all that makes it move."""

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
        self.notice: Callable[[str], None] = notice if team.leads else lambda sentence: None
        precision = execution.precision(team.device)
        self.loader = open_loader(recipe, store, team.device, team.rank, team.world_size, execution, self.notice)
        if self.loader.selection_notice and team.leads:
            notice(self.loader.selection_notice)
        self.length = run_length(recipe, self.loader.num_images)
        # Batches of the loader that make one optimiser step, as even as can be; and their images, of all workers.
        parts = np.array_split(self.loader.batches.sizes, self.length.updates_per_epoch)
        self.parts, self.images = [len(part) for part in parts], [int(part.sum()) for part in parts]
        self.description: dict[str, Any] = {"training": recipe.to_json(), **described(self.loader)}
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
        self.state = found.state if found else RunState()
        if found and found.changed and team.leads:
            notice(
                f"Resuming {out} with changed settings ({'; '.join(found.changed)}); results will not match an uninterrupted run "
                "bit for bit."
            )
        if found and found.shorter:
            self.state = self.state.left_at(self._step, found.shorter)
            if team.leads:
                notice(self._continuing(found.shorter))
        make_deterministic(team.device, self.carried_out["cpu_threads"])
        if torch.device(team.device).type == "cuda":  # nothing is promised to the bit there; choosing kernels is faster
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
            set_tf32(precision == "tf32")

        views = views_of_student(recipe, store)
        torch.manual_seed(recipe.seed)
        model = create_student(recipe.student, store.num_classes, views["size"], recipe.pretrained, recipe.student_args)
        if recipe.start_from is not None:
            recipe.start_from.load_into(model, recipe.student)
        self.preprocessing = preprocessing_of(views, model, recipe.pretrained)
        if recipe.sync_bn:
            model = team.synchronise_batch_norm(model)
        layout = execution.layout(team.device)
        model = model.to(team.device).to(memory_format=layout)
        objective = Objective(
            recipe, self.loader.loaders[0].decoder, model, self.preprocessing, layout, execution.compile
        )
        self.optimisation = Optimisation(recipe, objective, team, precision, self.length)
        if found:
            self.optimisation.load_state_dict(found.optimisation)

    @property
    def _step(self) -> int:
        """Optimiser steps done, over all epochs."""
        return self.state.epoch * self.length.updates_per_epoch + self.state.update

    def _continuing(self, shorter: dict[str, int]) -> str:
        ((unit, then),) = shorter.items()
        now = self.description["training"][unit]
        return (
            f"The run in {self.out} was made with --{unit} {then}: continuing it from step {self._step:,} on the learning-rate "
            f"schedule of --{unit} {now}. Results will differ from those of a run that had --{unit} {now} from the start."
        )

    @property
    def facts(self) -> dict[str, Any]:
        """All that the student comes from, JSON-able."""
        return {**self.description, **described_in_full(self.loader), "execution": self.carried_out}

    def train(
        self,
        evaluate_on: str | None,
        begin: Callable[[int], None],
        report: Callable[[Progress], None],
        log: Callable[[list[dict[str, Any]]], None],
    ) -> dict[str, Any]:
        """``log`` is given all lines of the curves so far, at the start and whenever a checkpoint holds one more."""
        state = self.state
        curves = None
        unfinished = self._step < self.length.updates
        images = self._images_to_measure_on(evaluate_on) if evaluate_on and unfinished else None
        if self.team.leads:
            make_folder(self.out)
            sweep_partials(self.out)
            if unfinished:
                with writing(self.out / SUMMARY):
                    (self.out / SUMMARY).unlink(missing_ok=True)  # of the shorter run that is trained on
            curves = Curves(self.out, state.lines)
            self._keep_best()  # in case the run was stopped before it could
            begin(self._images_seen(self._step))
            log(state.lines)
        while self._step < self.length.updates:
            self._epoch(report)
            line = self._line()
            if images is not None and self._is_time_to_evaluate():
                evaluation = self._evaluate(images)
                line |= {"top1": evaluation.top1, "top5": evaluation.top5}
                if state.best is None or evaluation.top1 > state.best["top1"]:
                    state.best = dict(line)
                    if self.team.leads:
                        self._save_student(self._best_of_epoch(line["epoch"]))
                if self.team.leads:
                    report(self._progress(self._step, line["loss"], evaluation))
            state.lines = [*state.lines, line]
            if (
                state.update == self.length.updates_per_epoch
            ):  # of a partial epoch the sums are kept: it may be trained on
                self.state = state = RunState(
                    epoch=state.epoch + 1, lines=state.lines, best=state.best, continued_from=state.continued_from
                )
            if curves:
                curves.add(line)
                self._save()
                self._keep_best()
                log(state.lines)
        if not self.team.leads:
            return {}
        assert curves is not None
        self._save_student()
        summary = self._summary(evaluate_on)
        write_file(self.out / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
        return summary

    def _epoch(self, report: Callable[[Progress], None]) -> None:
        """The rest of the epoch that the state is in."""
        state, team, loader = self.state, self.team, self.loader
        self.optimisation.objective.train()
        batches = loader.epoch(state.epoch, first_batch=sum(self.parts[: state.update]))
        clock = Clock(state.seconds, state.waited)
        # Sums of loss and agreement since the state was last brought up to date: kept on the device, which is not waited for.
        sums, images = self.optimisation.no_sums(), 0
        checkpoints, reported = Checkpoints(team, 60 * self.execution.checkpoint_minutes), time.monotonic()
        coming: tuple[int, int, Download] | None = (
            None  # a step, its images here, and its sums on their way from the device
        )
        updates = self.length.updates_in(state.epoch)
        for update in range(state.update, updates):
            step, last = state.epoch * self.length.updates_per_epoch + update, update + 1 == updates
            parts = clock.parts(batches, self.parts[update])
            these, count = self.optimisation.step(parts, step, self.images[update])
            sums, images = sums + these, images + self.images[update]
            if last or checkpoints.due():
                sums, images = self._bring_up_to_date(update + 1, sums, images, clock), 0
                if team.leads and not last:
                    self._save()
                checkpoints.saved()
            if team.leads and (last or (coming is None and time.monotonic() - reported >= REPORT_SECONDS)):
                coming, reported = (step, count, Download(these)), time.monotonic()
            if coming and (last or coming[2].has_come()):
                loss = coming[2].read()[0] / coming[1]
                self._refuse_nonfinite(loss, update)
                report(self._progress(coming[0] + 1, loss))
                coming = None
        batches.close()  # ends the loader's threads

    def _bring_up_to_date(self, update: int, sums: torch.Tensor, images: int, clock: Clock) -> torch.Tensor:
        """Add what all workers did since the last time to the state; zeros to go on with."""
        state = self.state
        loss, agreeing = self.team.sum(*sums.tolist())
        state.update = update
        state.loss, state.agreeing, state.images = state.loss + loss, state.agreeing + agreeing, state.images + images
        state.seconds, state.waited = clock.seconds, clock.waited
        self._refuse_nonfinite(state.loss, update - 1)
        return torch.zeros_like(sums)

    def _refuse_nonfinite(self, loss: float, update: int) -> None:
        if not math.isfinite(loss):
            raise DmkdError(
                f"The loss became {loss} in epoch {self.state.epoch + 1}, by step {update + 1}: "
                f"lower --lr (now {self.recipe.lr}); delete {self.out} to start again."
            )

    def _images_seen(self, updates: int) -> int:
        """Images that this number of optimiser steps has seen, over all epochs."""
        return self.length.images_seen(updates, self.loader.num_images)

    def _progress(self, step: int, loss: float, evaluation: Evaluation | None = None) -> Progress:
        """In the epoch that the state is in, after ``step`` optimiser steps of the run."""
        seen, total = self._images_seen(step), self._images_seen(self.length.updates)
        return Progress(self.state.epoch + 1, self.length.epochs, seen, total, loss, evaluation)

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
        return done % self.execution.evaluate_every == 0 or done == self.length.epochs

    def _evaluate(self, images: KeptImages) -> Evaluation:
        """Of the student as it is saved, which is rank 0's: each worker looks at its share of the images."""
        if self.team.leads:
            self._save_student()
        # A copy, so that nothing that a model remembers of being evaluated reaches the training.
        student = copy.deepcopy(self.optimisation.student).eval()
        self.team.follow(student.buffers())  # batch statistics are each worker's own, weights the same
        here = evaluate(self._as_classifier(student), images)
        return Evaluation(self.team.add_counts(here.confusion), self.team.add_counts(here.in_top5))

    def _images_to_measure_on(self, data: str) -> KeptImages:
        """This worker's share. Raises at once what would otherwise be raised after the first epoch."""
        team, workers = self.team, self.execution.data_workers
        if team.leads:
            with tempfile.TemporaryDirectory() as folder:  # what is saved can be loaded again
                self._save_student(Path(folder))
                load_classifier(folder)
        student = self._as_classifier(self.optimisation.student)
        threads = decoding_threads(team.local_size) if workers is None else workers
        listed = list_evaluation(data, student, threads)
        for sentence in listed.notices:
            self.notice(sentence)
        return KeptImages(listed, student.input_size, team.rank, team.world_size, team.local_size, self.notice)

    def _as_classifier(self, student: torch.nn.Module) -> Classifier:
        names, wnids = self.store.class_names, self.store.class_wnids
        classifier = as_classifier(student, self.recipe.student, names, self.preprocessing, wnids)
        return replace(classifier, precision=classifier_precision(self.carried_out["amp"]))

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
            self.store.class_wnids,
        )

    def _best_of_epoch(self, epoch: int) -> Path:
        """Where the student of an epoch waits until the checkpoint says that it is the best."""
        return self.out / f"{BEST}.epoch{epoch}"

    def _keep_best(self) -> None:
        """Make ``best`` what the checkpoint says. Killed at any moment, the next start does it."""
        if self.state.best is not None and self._best_of_epoch(self.state.best["epoch"]).exists():
            shutil.rmtree(self.out / BEST, ignore_errors=True)
            with writing(self.out / BEST):
                self._best_of_epoch(self.state.best["epoch"]).rename(self.out / BEST)
        for left_over in self.out.glob(f"{BEST}.epoch*"):
            shutil.rmtree(left_over)

    def _summary(self, evaluate_on: str | None) -> dict[str, Any]:
        lines, last, best = self.state.lines, self.state.lines[-1], self.state.best
        return {
            **self.facts,
            "updates": self.length.updates,
            "continued_from": self.state.continued_from,
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
