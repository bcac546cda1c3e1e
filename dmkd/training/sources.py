"""What a run learns from, one store or several: opened for reading, counted, and described."""

import warnings
from collections.abc import Callable
from typing import Any

from dmkd.loading import Loader
from dmkd.loading.mixture import Mixture, images_an_epoch, loader_of
from dmkd.loading.order import Batches
from dmkd.loading.usable import usable_images
from dmkd.recipes.label_choice import parse_labels
from dmkd.runtime.space import MEMORY_BYTES
from dmkd.stores import Store, UsageError
from dmkd.training.execution import Execution
from dmkd.training.training_recipe import TrainingRecipe


def rank_batch_size(recipe: TrainingRecipe, world_size: int) -> int:
    """Images of a batch that one of ``world_size`` workers takes at a time. Raises ``UsageError`` if the recipe's batch can't be
    divided so."""
    parts = world_size * recipe.accumulate
    if recipe.batch_size % parts:
        raise UsageError(
            f"--batch-size {recipe.batch_size} can't be divided by {world_size} workers x {recipe.accumulate} parts "
            "(--workers, --accumulate): choose a multiple."
        )
    return recipe.batch_size // parts


def count_images(recipe: TrainingRecipe, store: Store, world_size: int = 1) -> int:
    """The images that a recipe learns from. Raises what a run of ``world_size`` workers would raise about them; reads listings
    and, to select, the teacher's opinions, and makes no loader."""
    ingredients = recipe.ingredients(store)
    there = [len(usable_images(i.store, parse_labels(i.labels), i.view_set, i.select).ids) for i in ingredients]
    images = images_an_epoch(there, recipe.weights, [i.store for i in ingredients])
    return Batches(int(images.sum()), rank_batch_size(recipe, world_size), world_size=world_size).num_images


def open_loader(
    recipe: TrainingRecipe,
    store: Store,
    device: str,
    rank: int = 0,
    world_size: int = 1,
    execution: Execution | None = None,
    notice: Callable[[str], None] = warnings.warn,
) -> Loader | Mixture:
    """The loader that a training recipe asks for, one rank's part of it; ``execution`` says what it may hold, and where."""
    execution = execution or Execution()
    options: dict[str, Any] = {
        "batch_size": rank_batch_size(recipe, world_size),
        "seed": recipe.seed,
        "device": device,
        "rank": rank,
        "world_size": world_size,
        "memory": MEMORY_BYTES if execution.memory is None else int(execution.memory * 2**30),
        "cache": execution.cache,
        "cache_bytes": None if execution.cache_gb is None else int(execution.cache_gb * 1e9),
        "notice": notice,
    }
    first, *beside = recipe.ingredients(store)
    return Mixture([first, *beside], recipe.weights, **options) if beside else loader_of(first, **options)


def described(loader: Loader | Mixture) -> dict[str, Any]:
    """The stores and labels that decide what a run's student is; JSON-able. ``stores`` are all of several, by their number."""
    first = loader.loaders[0]
    description: dict[str, Any] = {
        "store": {"identity": first.lineage, "images": loader.num_images},
        "labels": _labels(first),
        **_tag(first),
    }
    if isinstance(loader, Mixture):
        description["stores"] = {
            str(number): {
                "identity": one.lineage,
                "images": one.num_images,
                "share": images / loader.num_images,
                "labels": _labels(one),
                "views": one.view_set.name,
                **_tag(one),
            }
            for number, (one, images) in enumerate(zip(loader.loaders, loader.images.tolist(), strict=True), 1)
        }
    return description


def described_in_full(loader: Loader | Mixture) -> dict[str, Any]:
    """The same and more of each store, for whoever reads a summary."""
    description, first = described(loader), loader.loaders[0]
    description["store"] |= _origin(first)
    for one, of_store in zip(loader.loaders, description.get("stores", {}).values(), strict=False):
        of_store |= {**_origin(one), "teachers": _teachers(one)}
    return {**description, "teachers": _teachers(first), "views": dict(first.view_set.attributes)}


def _labels(loader: Loader) -> dict[str, str]:
    return {name: label_set.identity for name, label_set in loader.label_sets.items()}


def _tag(loader: Loader) -> dict[str, Any]:
    return {"tag": loader.store.held_to} if loader.store.held_to else {}


def _teachers(loader: Loader) -> dict[str, Any]:
    return {name: {"teacher": s.teacher, "codec": s.codec.name} for name, s in loader.label_sets.items()}


def _origin(loader: Loader) -> dict[str, Any]:
    return {"path": loader.store.path, "recipe": loader.store.recipe}
