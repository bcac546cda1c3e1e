"""Comparing conditions: every combination of stores, labels, students, numbers of images and options, several seeds each.

:func:`plan_runs` turns axes into runs, ``dmkd.compare`` makes them, :mod:`dmkd.training.comparison` turns what came of them into
one row a condition. A run's folder is named after what determines it: the same condition is the same folder, and another one
another.
"""

import dataclasses
import itertools
import re
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
    draws: int = 1  # other images of the same number: the next so many of the store


@dataclass(frozen=True)
class Run:
    """One student to train. ``condition``: axis -> value, of all axes but seed and draw. ``facts``: see :func:`facts_of`."""

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
    draw: int = 0


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
        planner.run(store, labels, student, images, varied, seed, draw)
        for draw, seed, store, labels, student, images, varied in itertools.product(
            range(axes.draws), axes.seeds, axes.stores, axes.labels, axes.students, axes.images, variations
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
        draw: int,
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
            options["select"] = _images_of_draw(store, images, draw, options.get("select"))
        _, recipe = resolve_training(store, options, preset)
        count, lineage, facts = self.used(path, recipe.labels, recipe.view_set, recipe.select)
        if images is not None and not self.options.get("select") and "select" not in varied and count != images:
            raise UsageError(
                f"{path}: {count:,} of the {'next' if draw else 'first'} {images:,} images are made and labelled; finish the "
                "store, or take fewer."
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
            "store": {"identity": lineage, "images": count},
            "labels": {name: store.labels[name].identity for name in parse_labels(recipe.labels)},
        }
        return Run(
            _folder_name(condition, seed, draw, description),
            condition,
            seed,
            path,
            recipe,
            count,
            run_length(recipe, count).updates,
            description,
            facts,
            draw,
        )

    def _used(
        self, path: str, labels: str | None, view_set: str, select: str | None
    ) -> tuple[int, str, dict[str, Any]]:
        """How many images a recipe learns from, the identity of what made them, and the facts of them."""
        store = self.stores[path]
        usable = usable_images(store, parse_labels(labels), view_set, select)
        if usable.notice:
            self.notices[f"{path}: {usable.notice}"] = None
        return len(usable.ids), store.lineage_of(usable.ids), facts_of(store, labels, usable.ids)

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
    if axes.draws > 1 and None in axes.images:
        raise UsageError("--draws takes other images of the same number each time: say how many with --images.")
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


def _images_of_draw(store: Store, images: int, draw: int, select: str | None) -> str:
    """Any range of ids is a sample of all: each draw is the next."""
    start, stop = draw * images, (draw + 1) * images
    if not (images >= 1 and stop <= store.num_images):
        drawn = f" --draws {draw + 1}" if draw else ""
        raise UsageError(f"--images {images}{drawn}: {store.path} has {store.num_images:,} images.")
    here = f"image_id < {stop}" if not draw else f"image_id >= {start} and image_id < {stop}"
    return f"({select}) and {here}" if select else here


def _folder_name(condition: Mapping[str, Any], seed: int, draw: int, description: Mapping[str, Any]) -> str:
    """Readable, and ending in what makes it the only one of its description."""
    plain = [str(condition[name]) for name in ("store", "labels", "student")]
    others = [
        f"{name}{_short(value)}" for name, value in condition.items() if name not in ("store", "labels", "student")
    ]
    readable = re.sub(r"[^\w.+=-]+", "_", "-".join([*plain, *others]))[:LONGEST_NAME].strip("_")
    drawn = f"-draw{draw}" if draw else ""
    return f"{readable}{drawn}-seed{seed}-{fingerprint(description)[:8]}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
