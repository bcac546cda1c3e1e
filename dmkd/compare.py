"""Making the runs of a comparison: here one after the other, or as Ray tasks; what is done is not done again.

A run is an ordinary ``train()`` into a folder of its own, so one that was stopped resumes where it stopped.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.classifiers.evaluate import Predictions, predict
from dmkd.classifiers.evaluation_data import evaluation_batches, list_evaluation
from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.students import as_classifier, create_student, preprocessing_of
from dmkd.classifiers.teachers import teacher_of_labels
from dmkd.recipes.label_choice import parse_labels
from dmkd.runtime.devices import CPU_THREADS
from dmkd.runtime.failures import reason_of
from dmkd.runtime.progress import Display
from dmkd.runtime.ray_session import ray_session
from dmkd.runtime.whole_files import append_line, write_file
from dmkd.stores import DmkdError, Store, StoreWriteError, UsageError, open_store
from dmkd.stores.identity import fingerprint
from dmkd.train import Progress, train
from dmkd.training.comparison import result_line
from dmkd.training.conditions import Run
from dmkd.training.execution import Execution, classifier_precision
from dmkd.training.measured import measured
from dmkd.training.optimisation import create_optimizer
from dmkd.training.run_folder import STUDENT, SUMMARY, make_folder
from dmkd.training.training_recipe import views_of_student

RESULTS = "results.jsonl"
RUNS = "runs"
TEACHERS = "teachers"  # what they say of the images to measure on
RETRIES = 2  # of a Ray task whose process died: it resumes from the run's last checkpoint

Report = Callable[[Progress], None]


@dataclass
class Outcome:
    """What came of the runs: name -> ``summary.json``'s contents, or why there is none."""

    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def make_runs(
    runs: Sequence[Run],
    out: Path,
    *,
    vals: Sequence[str],
    device: str,
    workers: int,
    display: Display,
    execution: Execution | None = None,
) -> Outcome:
    """Make what is missing of the runs in ``out/runs``; each one's line is added to ``out/results.jsonl`` as it is done.

    ``vals``: what the students are measured on, each as for ``train``, the first after each epoch, too. ``workers`` 0: this
    process; N: N Ray tasks at a time, each with a GPU of its own, or on a CPU with one thread. A run that fails is reported and
    named in the outcome, and the others are made; the next call tries it again. Raises ``UsageError``, with nothing written, for
    what no run could begin with: an unknown student, optimiser, precision or evaluation set; ``StoreWriteError`` as soon as the
    disk fails.
    """
    refuse_too_many_workers(workers, device)
    execution = execution or Execution()
    stores = {path: open_store(path) for path in {run.store for run in runs}}
    summaries = {run.name: summary for run in runs if (summary := _measured(run, out, vals)) is not None}
    outcome, todo = Outcome(summaries), [run for run in runs if run.name not in summaries]
    for sentence in refuse_untrainable(todo, stores, vals, device, execution):
        display.notice(sentence)
    make_folder(out / RUNS)
    written = recorded(out)
    for run in runs:
        if run.name in summaries and _line_key(run.name, summaries[run.name]) not in written:
            append_line(out / RESULTS, json.dumps(result_line(run, summaries[run.name])))

    with display.task("compare", len(runs), len(runs) - len(todo), unit="runs") as advance:

        def done(run: Run, summary: dict[str, Any] | None, reason: str) -> None:
            if summary is None:
                outcome.failed[run.name] = reason
                display.notice(f"Run {run.name} failed: {reason}")
            else:
                outcome.summaries[run.name] = summary
                append_line(out / RESULTS, json.dumps(result_line(run, summary)))
            advance(1, "" if summary is None else f"{run.name}  top-1 {100 * summary['top1']:.2f} %")

        if workers and todo:
            _on_ray(todo, out, vals, device, execution, workers, done)
        else:
            for run in todo:

                def report(progress: Progress, name: str = run.name) -> None:
                    advance(0, f"{name}  epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.4f}")

                done(run, *_attempt(run, stores[run.store], out, vals, device, execution, report))
    return outcome


def finished(run: Run, out: Path) -> dict[str, Any] | None:
    """The summary of a run that is done; None if it is not, or if what is in its folder is another run's."""
    try:
        summary = json.loads((out / RUNS / run.name / SUMMARY).read_text())
    except (OSError, ValueError):
        return None
    described = {key: summary.get(key) for key in ("training", "labels")}
    described["store"] = {key: summary.get("store", {}).get(key) for key in ("identity", "images")}
    return summary if described == json.loads(json.dumps(run.description)) else None


def _measured(run: Run, out: Path, vals: Sequence[str]) -> dict[str, Any] | None:
    """The summary of a run that is done and was measured on all these images, the first of them last."""
    summary = finished(run, out)
    done = summary and summary["evaluated_on"] == vals[0] and summary.get("measured", {}).keys() >= set(vals)
    return summary if done else None


def _line_key(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    """A run, what its top-1 is of, and all that it was measured on."""
    return name, result["evaluated_on"], *sorted(result["measured"])


def recorded(out: Path) -> set[tuple[str, ...]]:
    """The runs that have a line in ``results.jsonl``, each with what it was measured on."""
    found: set[tuple[str, ...]] = set()
    for line in (out / RESULTS).read_text().splitlines() if (out / RESULTS).exists() else []:
        try:
            result = json.loads(line)
            found.add(_line_key(result["run"], result))
        except (ValueError, KeyError):  # the last line of a process that was killed
            continue
    return found


def refuse_too_many_workers(workers: int, device: str) -> None:
    """Raise ``UsageError`` if there is no GPU for each worker."""
    import torch

    if device.startswith("cuda") and workers > torch.cuda.device_count():
        raise UsageError(
            f"--workers {workers}: each run needs a GPU of its own, and this machine has {torch.cuda.device_count()}."
        )


def refuse_untrainable(
    runs: Sequence[Run], stores: Mapping[str, Store], vals: Sequence[str], device: str, execution: Execution
) -> list[str]:
    """Raise what the runs themselves would raise of their students, optimisers and images to measure on -> what is to be told of
    these images. Each student is built once, and the images are listed once for stores of the same classes."""
    built: set[tuple[Any, ...]] = set()
    listed: set[tuple[str, ...]] = set()
    told: dict[str, None] = {}  # a set that keeps its order
    for run in runs:
        store, recipe = stores[run.store], run.recipe
        views, classes = views_of_student(recipe, store), tuple(store.class_names)
        execution.precision(device)
        key = (recipe.student, str(recipe.student_args), recipe.pretrained, recipe.optimizer, classes, views["size"])
        if key in built:
            continue
        built.add(key)
        model = create_student(recipe.student, store.num_classes, views["size"], recipe.pretrained, recipe.student_args)
        create_optimizer(recipe, model)
        if classes not in listed:
            listed.add(classes)
            names, wnids = store.class_names, store.class_wnids
            student = as_classifier(model, recipe.student, names, preprocessing_of(views), wnids)
            for val in vals:
                told |= dict.fromkeys(list_evaluation(val, student).notices)
    return list(told)


def _attempt(
    run: Run,
    store: Store,
    out: Path,
    vals: Sequence[str],
    device: str,
    execution: Execution,
    report: Report = lambda progress: None,
) -> tuple[dict[str, Any] | None, str]:
    """Train one student -> its summary, or None and the reason in one line. Raises ``StoreWriteError`` if the disk fails: the
    next run would fail as well."""
    folder = out / RUNS / run.name
    try:
        summary = finished(run, out) or train(
            run.recipe, store, folder, device=device, evaluate_on=vals[0], execution=execution, report=report
        )
        return _measure(summary, run, folder, store, vals, device, execution), ""
    except StoreWriteError:
        raise
    except Exception as error:
        return None, reason_of(error)


def _measure(
    summary: Mapping[str, Any],
    run: Run,
    folder: Path,
    store: Store,
    vals: Sequence[str],
    device: str,
    execution: Execution,
) -> dict[str, Any]:
    """Measure a finished student, as it was saved, on the images that it was not measured on yet; the summary says so from now
    on, and its ``top1`` is of the first of them."""
    found = dict(summary.get("measured", {}))
    missing = [val for val in vals if val not in found]
    if missing:
        precision = classifier_precision(execution.precision(device))
        student = load_classifier(str(folder / STUDENT), device=device, precision=precision)
        for val in missing:
            said = predict(student, evaluation_batches(val, student, execution.data_workers))
            out = folder.parent.parent
            teacher = teacher_predictions(store, run.recipe.labels, val, said.class_ids, out, device, execution)
            found[val] = measured(said, teacher, student.num_classes)
    again = {**summary, "measured": found}
    if summary["evaluated_on"] != vals[0]:
        again["best"] = None  # what was chosen on other images is not comparable
    again |= {"evaluated_on": vals[0], "top1": found[vals[0]]["top1"], "top5": found[vals[0]]["top5"]}
    if again != summary:
        write_file(folder / SUMMARY, (json.dumps(again, indent=2) + "\n").encode())
    return again


def teacher_predictions(
    store: Store, labels: str | None, val: str, class_ids: np.ndarray, out: Path, device: str, execution: Execution
) -> Predictions | None:
    """What the first label set's teacher says of images to measure on, each at the teacher's own view; kept in ``out/teachers``,
    and looked at anew if the images are no longer of these ``class_ids``, int64 (n,).

    None without labels, and where the teacher can't be had any more or sees other images: a student is measured without it."""
    for name in list(parse_labels(labels))[:1]:
        label_set = store.labels[name]
        file = (
            out
            / TEACHERS
            / f"{fingerprint({'teacher': label_set.teacher, 'classes': store.class_names, 'val': val})[:16]}.npz"
        )
        if file.exists():
            with np.load(file) as kept:
                found = Predictions(**kept)
            if np.array_equal(found.class_ids, class_ids):
                return found
        try:
            teacher = teacher_of_labels(store, label_set, device)
        except DmkdError:
            return None
        # Whatever it calls them, its outputs are the store's classes.
        wnids = None if store.class_wnids is None else list(store.class_wnids)
        teacher = replace(teacher, class_names=store.class_names, wnids=wnids)
        if teacher.sha256 != label_set.teacher.get("sha256"):
            return None
        found = predict(teacher, evaluation_batches(val, teacher, execution.data_workers))
        content = io.BytesIO()
        np.savez(content, class_ids=found.class_ids, top=found.top, confidence=found.confidence)
        make_folder(out / TEACHERS)
        write_file(file, content.getvalue())
        return found if np.array_equal(found.class_ids, class_ids) else None
    return None


def _on_ray(
    runs: Sequence[Run],
    out: Path,
    vals: Sequence[str],
    device: str,
    execution: Execution,
    workers: int,
    done: Callable[[Run, dict[str, Any] | None, str], None],
) -> None:
    import ray

    on_gpu = device.startswith("cuda")
    waiting = list(runs)
    running: dict[Any, Run] = {}
    with ray_session(workers, device, None):
        task = ray.remote(_attempt_in_task).options(num_gpus=1 if on_gpu else 0, num_cpus=1, max_retries=RETRIES)
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    run = waiting.pop(0)
                    running[task.remote(run, out, vals, "cuda" if on_gpu else "cpu", execution)] = run
                for future in ray.wait(list(running), timeout=1.0)[0]:
                    run = running.pop(future)
                    try:
                        summary, reason = ray.get(future)
                    except ray.exceptions.RayTaskError as error:
                        if isinstance(error.cause, StoreWriteError):
                            raise error.cause from error
                        summary, reason = None, reason_of(error.cause)
                    except Exception as error:  # the process died, and died again
                        summary, reason = None, reason_of(error)
                    done(run, summary, reason)
        finally:
            for future in running:
                ray.cancel(future, force=True)


def _attempt_in_task(
    run: Run, out: Path, vals: Sequence[str], device: str, execution: Execution
) -> tuple[dict[str, Any] | None, str]:
    with _one_thread():
        return _attempt(run, open_store(run.store), out, vals, device, execution)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several students on the threads of each other take longer than on one thread each."""
    before = os.environ.get(CPU_THREADS)
    os.environ[CPU_THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[CPU_THREADS]
        else:
            os.environ[CPU_THREADS] = before
