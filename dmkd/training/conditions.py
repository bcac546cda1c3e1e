"""Comparing conditions: every combination of stores, labels, students, numbers of images and options, several seeds each.

:func:`plan_runs` turns axes into runs, ``dmkd.compare`` makes them, :func:`table` turns what came of them into one row
a condition. A run's folder is named after what determines it: the same condition is the same folder, and another one another.
"""

import dataclasses
import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.loading.usable import usable_images
from dmkd.recipes.label_choice import parse_labels
from dmkd.stores import Store, UsageError, open_store
from dmkd.stores.identity import fingerprint
from dmkd.stores.opinions import average_opinion
from dmkd.training.loss_table import HARD, LOSSES, loss_options
from dmkd.training.run_length import run_length
from dmkd.training.training_recipe import TrainingRecipe, preset_notice, refuse_unused, resolve_training

OWN_AXES = ("labels", "student", "images", "seed")  # what can't be varied as an option, having an axis of its own
LONGEST_NAME = 120


@dataclass(frozen=True)
class Axes:
    """What is compared: all combinations. ``None`` in an axis: what suits the store. ``vary``: training option -> values."""

    stores: tuple[str, ...]
    labels: tuple[str | None, ...] = (None,)  # label sets, as TrainingRecipe.labels has them, or HARD: no teacher
    students: tuple[str | None, ...] = (None,)
    images: tuple[int | None, ...] = (None,)  # learn from the first of this number; None: all
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Run:
    """One student to train. ``condition``: axis -> value, of all axes but the seed. ``facts``: see :func:`facts_of`."""

    name: str  # of its folder
    condition: dict[str, Any]
    seed: int
    store: str
    recipe: TrainingRecipe
    images: int  # that it learns from
    updates: int  # optimiser steps
    description: dict[
        str, Any
    ]  # part of what train() writes into summary.json, which shows whether that is of this run
    facts: dict[str, Any]


def plan_runs(
    axes: Axes,
    options: Mapping[str, Any],
    preset: str | None = None,
    notice: Callable[[str], None] = lambda sentence: None,
) -> list[Run]:
    """Every run of a comparison, one seed of all conditions after the other, so that a part of it compares all of them.

    ``options``: those of :func:`dmkd.training.training_recipe.resolve_training`, for all runs. With ``updates`` different
    numbers of images are compared at the same cost. ``notice`` is given what runs lack of their preset, once each. Raises
    ``UsageError`` for what can't be trained, and for an option that no run uses.
    """
    _check_axes(axes, options)
    planner = _Planner(axes, options, preset)
    variations = [dict(zip(axes.vary, values, strict=True)) for values in itertools.product(*axes.vary.values())]
    runs = [
        planner.run(store, labels, student, images, varied, seed)
        for seed, store, labels, student, images, varied in itertools.product(
            axes.seeds, axes.stores, axes.labels, axes.students, axes.images, variations
        )
    ]
    refuse_unused({**options, **{name: values[0] for name, values in axes.vary.items()}}, [run.recipe for run in runs])
    for sentence in planner.notices:
        notice(sentence)
    return runs


def varying_axes(runs: Sequence[Run]) -> list[str]:
    """The axes in which the conditions of runs differ, in the order of the axes."""
    names = dict.fromkeys(name for run in runs for name in run.condition)
    return [name for name in names if len({str(run.condition.get(name)) for run in runs}) > 1]


def result_line(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a finished run, flat and JSON-able."""
    measured = {key: summary[key] for key in ("top1", "top5", "loss", "agreement", "images_per_second", "evaluated_on")}
    measured["training_agreement"] = measured.pop("agreement")  # with its labels, on the training views
    size = {
        "images_used": run.images,
        "epochs": run.recipe.epochs,
        "updates": run.updates,
    }  # epochs: None if in updates
    return {"run": run.name, **run.condition, "seed": run.seed, **measured, **size}


def table(runs: Sequence[Run], summaries: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a condition, of the runs of which there is a summary (run's name -> summary), sorted by the axes that vary.

    ``top1`` is the mean over seeds in [0, 1], ``top1_sd`` the standard deviation (n - 1; None for one seed),
    ``images_per_second`` the mean; ``best`` marks the highest mean. Facts are those of the store and its labels.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.name in summaries:
            groups.setdefault(str(run.condition), []).append(run)
    rows = []
    for group in groups.values():
        top1 = [summaries[run.name]["top1"] for run in group]
        rows.append(
            {
                **group[0].condition,
                "seeds": len(group),
                "top1": statistics.mean(top1),
                "top1_sd": statistics.stdev(top1) if len(top1) > 1 else None,
                "images_per_second": statistics.mean(summaries[run.name]["images_per_second"] for run in group),
                "images_used": group[0].images,
                "updates": group[0].updates,
                **group[0].facts,
            }
        )
    highest = max((row["top1"] for row in rows), default=None)
    axes = varying_axes(runs)
    ranks = {axis: list(dict.fromkeys(str(run.condition.get(axis)) for run in runs)) for axis in axes}

    def place(row: dict[str, Any]) -> list[tuple[Any, ...]]:
        facts = [_sortable(row[fact]) for fact in ("guidance", "steps")] if "store" in axes else []
        return facts + [_sortable(row[axis], ranks[axis].index(str(row[axis]))) for axis in axes]

    return [{**row, "best": row["top1"] == highest} for row in sorted(rows, key=place)]


def facts_of(store: Store, labels: str | None, ids: np.ndarray) -> dict[str, Any]:
    """What made the images, and the teacher's opinion of those with these ids, at its own evaluation view.

    ``teacher_agreement``: share whose likeliest class is the one asked for; ``entropy``: mean, in nats; ``p_class``: mean
    probability of the class asked for. Of several label sets the first one's; None without any.
    """
    facts: dict[str, Any] = {name: store.recipe.get(name) for name in ("generator", "sampler", "guidance", "steps")}
    if isinstance(facts["guidance"], list):  # each image draws its own
        facts["guidance"] = ":".join(f"{scale:g}" for scale in facts["guidance"])
    facts |= dict.fromkeys(("teacher_agreement", "entropy", "p_class"))
    for name in list(parse_labels(labels))[:1]:
        opinion = average_opinion(store.class_ids[ids], store.labels[name].quality[ids])
        facts |= {
            "teacher_agreement": opinion["agreement"],
            "entropy": opinion["entropy"],
            "p_class": opinion["p_class"],
        }
    return facts


class _Planner:
    """Opens each store once, and looks through each choice of its images once."""

    def __init__(self, axes: Axes, options: Mapping[str, Any], preset: str | None) -> None:
        self.axes, self.options, self.preset = axes, options, preset
        self.notices: dict[str, None] = {}  # a set that keeps its order
        self.names = short_names(axes.stores)
        self.stores = {path: open_store(path) for path in axes.stores}
        self.used = cache(self._used)

    def run(
        self,
        path: str,
        labels: str | None,
        student: str | None,
        images: int | None,
        varied: dict[str, Any],
        seed: int,
    ) -> Run:
        store = self.stores[path]
        preset, options = varied.get("preset", self.preset), {**self.options, **varied}
        options.pop("preset", None)
        options |= {"student": student, "seed": seed, "labels": labels}
        if labels == HARD:
            options |= {"labels": None, "loss": HARD, "view_set": self._views_of_the_others(store)}
            if "feature_weight" not in varied and set(self.axes.labels) != {
                HARD
            }:  # it is for the runs that have labels
                options["feature_weight"] = 0.0
        if images is not None:
            options["select"] = _first_images(store, images, options.get("select"))
        _, recipe = resolve_training(store, options, preset)
        count, facts = self.used(path, recipe.labels, recipe.view_set, recipe.select)
        if images is not None and not self.options.get("select") and "select" not in varied and count != images:
            raise UsageError(
                f"{path}: {count:,} of the first {images:,} images are made and labelled; finish the store, or take fewer."
            )
        if sentence := preset_notice(preset, store, recipe):
            self.notices[f"{path}: {sentence}"] = None
        described = recipe.to_json()
        condition = {
            "store": self.names[path],
            "labels": HARD if labels in (None, HARD) and not LOSSES[recipe.loss].from_labels else recipe.labels,
            "student": recipe.student,
            **({} if images is None else {"images": images}),
            **{option: described.get(option, value) for option, value in varied.items() if option != "select"},
            **({"select": varied["select"]} if "select" in varied else {}),
        }
        description = {
            "training": described,
            "store": {"identity": store.identity, "images": count},
            "labels": {name: store.labels[name].identity for name in parse_labels(recipe.labels)},
        }
        return Run(
            _folder_name(condition, seed, description),
            condition,
            seed,
            path,
            recipe,
            count,
            run_length(recipe, count).updates,
            description,
            facts,
        )

    def _used(self, path: str, labels: str | None, view_set: str, select: str | None) -> tuple[int, dict[str, Any]]:
        """How many images a recipe learns from, and the facts of them."""
        store = self.stores[path]
        ids = usable_images(store, parse_labels(labels), view_set, select).ids
        return len(ids), facts_of(store, labels, ids)

    def _views_of_the_others(self, store: Store) -> str | None:
        """Without a teacher the student sees the views that those with one see."""
        names = next((labels for labels in self.axes.labels if labels not in (None, HARD)), None)
        label_set = store.labels.get(next(iter(parse_labels(names)), "")) if names else None
        return label_set.view_set if label_set else None


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Path -> the store's name without its ending; the whole path where two are called the same."""
    stems = {path: Path(path.rstrip("/")).stem for path in paths}
    names = list(stems.values())
    return {path: stem if names.count(stem) == 1 else path for path, stem in stems.items()}


def _check_axes(axes: Axes, options: Mapping[str, Any]) -> None:
    listed = {"stores": axes.stores, "labels": axes.labels, "student": axes.students, "images": axes.images}
    listed |= {"seeds": axes.seeds, **{f"vary {name}": values for name, values in axes.vary.items()}}
    for name, values in listed.items():
        if not values:
            raise UsageError(f"There is nothing to compare: no {name} are given.")
        if len({str(value) for value in values}) < len(values):
            raise UsageError(f"--{name}: {', '.join(map(str, values))} names something twice.")
    fields = {f.name for f in dataclasses.fields(TrainingRecipe)}
    known = fields - {*OWN_AXES, "view_set", "milestones", "loss_options", "warmup_updates"} | {
        *loss_options(),
        "preset",
    }
    for name in axes.vary:
        if name in OWN_AXES:
            option = {"seed": "seeds"}.get(name, name)
            raise UsageError(f"--vary {name}: {name} has an option of its own, --{option}.")
        if name not in known:
            raise UsageError(f"--vary {name}: there is no such training option; there are {', '.join(sorted(known))}.")
        if options.get(name) is not None:
            raise UsageError(f"--vary {name} and --{name.replace('_', '-')} can't both say what it is.")


def _first_images(store: Store, images: int, select: str | None) -> str:
    if not 1 <= images <= store.num_images:
        raise UsageError(f"--images {images}: {store.path} has {store.num_images:,} images.")
    return f"({select}) and image_id < {images}" if select else f"image_id < {images}"


def _folder_name(condition: Mapping[str, Any], seed: int, description: Mapping[str, Any]) -> str:
    """Readable, and ending in what makes it the only one of its description."""
    plain = [str(condition[name]) for name in ("store", "labels", "student")]
    others = [
        f"{name}{_short(value)}" for name, value in condition.items() if name not in ("store", "labels", "student")
    ]
    readable = re.sub(r"[^\w.+=-]+", "_", "-".join([*plain, *others]))[:LONGEST_NAME].strip("_")
    return f"{readable}-seed{seed}-{fingerprint(description)[:8]}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sortable(value: Any, rank: int = 0) -> tuple[Any, ...]:
    """Numbers by size and before all else, the rest in the order given."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value) if number else (1, rank, str(value))
