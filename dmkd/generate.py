"""`dmkd generate` and `dmkd label`: from what was asked for to a finished store."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from dmkd.cards.dataset_card import write_card
from dmkd.engine.engine import Engine, RunOptions, planned_workers
from dmkd.engine.sharing import Todo
from dmkd.generators.defaults import teacher_of
from dmkd.generators.sources import parse_source, source_defaults
from dmkd.making.asked import LabelOptions, check_labels
from dmkd.making.blocks import WorkOrder
from dmkd.making.fitting import fit_label_sets, pilot_blocks
from dmkd.making.label_sets import LabelRequest, add_label_sets, check_request
from dmkd.making.labelling import labelling_threads
from dmkd.making.limits import check_limits
from dmkd.making.planned_labels import asked_labels, stored_labels, teacher_notices
from dmkd.making.recipe_file import resolved_options, to_toml
from dmkd.making.resolve import (
    TeacherPrecision,
    WantedImages,
    label_sets_of,
    load_teachers,
    resolve_images,
    resolve_labels,
    teachers_wanted,
)
from dmkd.making.round_request import is_begun, resolve_round
from dmkd.making.sizes import StoreSize
from dmkd.making.sub_batch import Trial, find_sub_batch, find_sub_batch_on_ray, run_on_ray_gpu
from dmkd.recipes.class_list import classes_of
from dmkd.recipes.class_names import classes_written_alike, first_synonym
from dmkd.recipes.dtypes import FLOAT8
from dmkd.recipes.image_options import ImageOptions
from dmkd.recipes.recipe import Recipe
from dmkd.recipes.rounds import Round, RoundOptions, check_round
from dmkd.runtime.devices import choose_device
from dmkd.runtime.progress import Display
from dmkd.runtime.ray_session import cluster_gpus
from dmkd.runtime.versions import library_versions
from dmkd.stores import Store, UsageError, create_store, open_store, parse_codec, store_exists
from dmkd.stores.at_work import RunsAtWork
from dmkd.stores.packing import fold_packed

__all__ = ["ImageOptions", "LabelOptions", "RunOptions", "generate", "label"]


def generate(
    path: str,
    images: ImageOptions,
    labels: LabelOptions,
    run: RunOptions,
    display: Display,
    tell_recipe: Callable[[str], None] | None = None,
    round_options: RoundOptions | None = None,
) -> tuple[Store, list[str]]:
    """Make a store, or resume one: images, and in the same pass their labels -> the store, its label sets.

    ``round_options``: the images that the store does not have yet are a round, which may follow a student.
    ``tell_recipe`` is given a new store's resolved recipe, as TOML. Everything is checked before the first file is
    written. Raises ``MismatchError`` if the store was made with another recipe, and leaves it as it is.
    """
    from dmkd.generators.load import describe_generator

    if round_options is not None:
        check_round(round_options)
        if not store_exists(path):
            raise UsageError(
                f"There is no store at {path} that a round could be added to: make its first images without one."
            )
    device = _device(run)
    describe = functools.partial(describe_generator, device=_driver_device(run, device))
    wanted = resolve_images(path, images, device, describe)
    if not run.ray_address:  # on a cluster the workers find out
        wanted = _as_this_machine_can(wanted, images, device, display)
    store, recipe = wanted.store, wanted.recipe
    if store is not None:
        store.require_writable()
        begun = _check_growth(store, images.images, round_options)
    request = resolve_labels(labels, wanted, device)
    workers = planned_workers(run, device)

    if store is None:
        check_request(request, wanted.image_shape[:2])
    planned = label_sets_of(wanted, request, labels)
    check_limits(path, wanted.size, planned, workers, run.ray_address)
    for sentence in teacher_notices(planned, request):
        display.notice(sentence)
    if store is None:
        _note_classes_written_alike(recipe, wanted.info.class_names, display)
        for sentence in wanted.info.notices(images):
            display.notice(sentence)
        if images.sub_batch is None and device.startswith("cuda"):
            sources = tuple((teacher.source, teacher.prompts) for teacher in request.teachers)
            trial = Trial(recipe, wanted.source.weights, wanted.info.class_names, sources, wanted.block_size)
            recipe = dataclasses.replace(recipe, sub_batch=_find_sub_batch(trial, device, workers, run, display))
            wanted = dataclasses.replace(wanted, recipe=recipe)
        store = create_store(
            path,
            recipe=recipe.to_json(),
            num_images=wanted.num_images,
            image_shape=wanted.image_shape,
            class_names=wanted.classes.names,
            class_wnids=wanted.classes.given_wnids,
            block_size=wanted.block_size,
            versions=library_versions(),
            source=wanted.source.text,
            image_codec=recipe.image_codec,
        )
        if tell_recipe is not None:
            tell_recipe(to_toml(resolved_options(wanted, request, labels)))
    else:
        _note_versions(store, display)
        if swept := store.sweep_partials():
            display.notice(f"Swept {swept} half-written files that an interrupted run left behind.")
    add_label_sets(store, request)
    if round_options is not None and not begun:
        _begin_round(store, wanted, round_options, images.images or 0, run, device, display)
    if images.images is not None or store.rounds:
        store.grow(max(images.images or 0, store.num_images, *(one.stop for one in store.rounds)))
    label_sets = () if labels.teachers == ("none",) else tuple(store.labels)
    order = WorkOrder(store.path, label_sets, device, recipe.cpu_threads, wanted.source.weights)
    # A codec that is fitted on logits needs some images before its first label: those get their labels at the end.
    pilots = set(pilot_blocks(store, label_sets))
    others = set(range(store.num_blocks)) - pilots
    with Engine(store, run, device, display, "generate", _log_options(images, labels, run)) as engine:
        engine.run(dataclasses.replace(order, label_sets=()), Todo(store.missing_blocks, lambda: others), "generate")
        fit_label_sets(store, label_sets, _driver_device(run, device), recipe.cpu_threads, display)
        engine.run(order, Todo(store.missing_blocks), "generate")
        _label_blocks(engine, label_sets, expected=lambda: False)
    store.sweep_partials()  # of workers that were killed while they wrote
    fold_packed(store)
    store.touch(library_versions())
    write_card(store)
    return store, list(label_sets)


def _check_growth(store: Store, num_images: int | None, asked: RoundOptions | None) -> bool:
    """Whether a round that is asked for has been begun already. Raises ``UsageError`` for images that can't be added so."""
    if asked is not None:
        return is_begun(store, asked, num_images)
    if store.rounds and num_images is not None and num_images > store.rounds[-1].stop:
        raise UsageError(
            f"The last images of {store.path} were made in round {len(store.rounds)}: add --follow STUDENT to make more in a "
            "round that follows a student, or --round for one that follows none."
        )
    return False


def _begin_round(
    store: Store,
    wanted: WantedImages,
    asked: RoundOptions,
    num_images: int,
    run: RunOptions,
    device: str,
    display: Display,
) -> None:
    from dmkd.making.strength import StrengthTrial, largest_strength

    def find_strength(one: Round, student: bytes) -> float:
        assert asked.agreement is not None
        display.notice(f"Trying how hard images can be pushed: at most {one.strength:g}.")
        trial = StrengthTrial(store.path, one.to_json(), student, wanted.source.weights, asked.agreement)
        if not run.ray_address:
            return largest_strength(trial, device)
        failed = "The strength could not be tried on a Ray worker ({}): leave --agreement out."
        return run_on_ray_gpu(largest_strength, trial, device, address=run.ray_address, failed=failed)

    here = _driver_device(run, device)
    one, student = resolve_round(store, wanted.recipe, wanted.info, asked, num_images, here, display, find_strength)
    store.add_round(one.to_json(), student)


def label(path: str, labels: LabelOptions, run: RunOptions, display: Display) -> tuple[Store, list[str]]:
    """Add a teacher's labels to images that are there, or finish labels that were begun -> the store, the label sets."""
    check_labels(labels)
    store = open_store(path)
    device = _device(run)
    workers = planned_workers(run, device)  # refuses before a label set is begun
    store.require_writable()
    size = StoreSize.with_images(store)
    if labels.teachers is None and store.labels:
        names = list(store.labels)
        check_limits(path, size, stored_labels(store), workers, run.ray_address)
    else:
        defaults = source_defaults(store.source)
        own_classes = store.source is not None and parse_source(store.source).kind.numbered
        if (store.recipe.get("prompts") or own_classes) and store.class_wnids is None:
            defaults = {**defaults, "teacher": teacher_of(store.class_names)}
        sources = teachers_wanted(labels, None, defaults)
        if not sources and labels.teachers is None:
            raise UsageError(
                f"The classes of {path} are not ImageNet's, so there is no default teacher: name one with --teacher."
            )
        if not sources:
            raise UsageError("There is nothing to label with --teacher none.")
        precision = TeacherPrecision(labels.teacher_precision, device)
        teachers = load_teachers(sources, store, classes_of(store), f"{store.path} has", precision, labels.templates)
        request = LabelRequest(
            teachers, parse_codec(labels.codec), labels.views, labels.view_seed, labels.name, defaults["views"]
        )
        asked = asked_labels(size, request, store.recipe.get("seed", 0))
        check_limits(path, size, asked, workers, run.ray_address)
        for sentence in teacher_notices(asked, request):
            display.notice(sentence)
        names = add_label_sets(store, request)
    _note_versions(store, display)
    if swept := store.sweep_partials():
        display.notice(f"Swept {swept} half-written files that an interrupted run left behind.")
    at_work = RunsAtWork(store.chunks.tree)

    def expected() -> bool:
        """Whether another process is making images."""
        return any(run.command in ("generate", "import") for run in at_work.besides(""))

    if store.missing_blocks() and expected():
        display.notice("Images are still being made; they are labelled as they come.")
    with Engine(store, run, device, display, "label", _log_options(labels, run)) as engine:
        _label_blocks(engine, tuple(names), expected)
    if missing := sum(len(store.block_ids(block)) for block in store.missing_blocks()):
        make = "import" if store.recipe.get("source") == "import" else "generate"
        display.notice(
            f"{missing:,} of {store.num_images:,} images are not there yet, so they have no labels: run `dmkd {make}`, then "
            "`dmkd label` again."
        )
    store.sweep_partials()  # of workers that were killed while they wrote
    fold_packed(store)
    store.touch(library_versions())
    write_card(store)
    return store, names


def _label_blocks(engine: Engine, names: Sequence[str], expected: Callable[[], bool]) -> None:
    """Label what has images and no labels, one label set after the other; and what gets images meanwhile, while more are
    ``expected``."""
    store, device = engine.store, engine.device
    threads = labelling_threads(store, device)
    fit_label_sets(store, names, _driver_device(engine.run_options, device), threads, engine.display)
    for name in names:
        todo = Todo(store.labels[name].missing_blocks, store.missing_blocks, expected)
        engine.run(WorkOrder(store.path, (name,), device, threads, generator=None), todo, f"label {name}")


def _as_this_machine_can(wanted: WantedImages, images: ImageOptions, device: str, display: Display) -> WantedImages:
    """Raise ``UsageError`` for a recipe that this machine can't follow; what was not asked for is left out instead, and said."""
    from dmkd.generators.compiling import missing_for_compiling
    from dmkd.generators.float8 import require_float8

    recipe = wanted.recipe
    if recipe.dtype == FLOAT8:
        require_float8(device)
    missing = missing_for_compiling(device) if recipe.compile else None
    if missing is None:
        return wanted
    if wanted.store is not None or images.compile:
        whose = "The images of this store are made by compiled models" if wanted.store else "--compile"
        raise UsageError(f"{whose}: {missing}.")
    display.notice(f"The models are not compiled, so that images take longer: {missing}.")
    return dataclasses.replace(wanted, recipe=dataclasses.replace(recipe, compile=False))


def _find_sub_batch(trial: Trial, device: str, workers: int | None, run: RunOptions, display: Display) -> int:
    """The largest sub-batch that fits where the work will be done: on this GPU, or on one of the Ray cluster's."""
    display.notice("Trying how many images fit on the GPU at once; --sub-batch N would say it.")
    found = find_sub_batch(trial, device) if workers == 0 else find_sub_batch_on_ray(trial, run.ray_address)
    display.notice(f"{found} images at once.")
    return found


def _note_classes_written_alike(recipe: Recipe, class_names: Sequence[str], display: Display) -> None:
    if recipe.prompts is None:
        return
    for group in classes_written_alike(class_names):
        display.notice(
            f"Classes {', '.join(map(str, group))} are all called {first_synonym(class_names[group[0]])!r}, so their images "
            "will be alike: give them different first names in a file of --class-names."
        )


def _device(run: RunOptions) -> str:
    """The workers' device. On a Ray cluster it is not this machine that must have the GPUs."""
    if not run.ray_address:
        return choose_device(run.device)
    if run.device not in (None, "cpu", "cuda"):
        raise UsageError(
            f"--device {run.device!r}: on a Ray cluster it is cuda (each actor gets a GPU of its own) or cpu."
        )
    if run.device is None:
        return "cuda" if cluster_gpus(run.ray_address) else "cpu"
    return run.device


def _driver_device(run: RunOptions, device: str) -> str:
    """Where this process itself runs a model: the driver of a cluster may have no GPU."""
    return choose_device(None) if run.ray_address and device == "cuda" else device


def _log_options(*groups: Any) -> dict[str, Any]:
    """The options that were given, for the run log."""
    given = {key: value for group in groups for key, value in dataclasses.asdict(group).items() if value is not None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def _note_versions(store: Store, display: Display) -> None:
    """Say which libraries have changed since the store was made: another rounding is possible, no more."""
    before, now = store.attributes.get("versions", {}), library_versions()
    changed = [f"{k} {before[k]} -> {now[k]}" for k in before.keys() & now.keys() if before[k] != now[k]]
    if changed:
        display.notice(
            f"{store.path} was made with other versions ({', '.join(sorted(changed))}); "
            "new blocks may differ from old ones by a rounding error."
        )
