"""``dmkd.loader(...)``: a loader for one's own training loop, from a path and a few words."""

import os
from collections.abc import Sequence
from typing import Any, overload

from dmkd.loading.ingredient import Ingredient
from dmkd.loading.loader import Loader
from dmkd.loading.mixture import Mixture, loader_of
from dmkd.recipes.label_choice import parse_labels
from dmkd.recipes.store_choice import complete_weights, labels_of_each, parse_store
from dmkd.runtime.devices import choose_device
from dmkd.stores import Store, UsageError, open_store
from dmkd.stores.tagged_store import open_tagged

OneStore = Store | str | os.PathLike[str]
Several = Sequence[OneStore | tuple[OneStore, float]]


@overload
def loader(  # type: ignore[overload-overlap]  # a text is a sequence of texts
    store: OneStore,
    labels: str | None = None,
    *,
    batch_size: int = 256,
    device: str | None = None,
    view_set: str | None = None,
    select: str | None = None,
    tag: str | None = None,
    **options: Any,
) -> Loader: ...


@overload
def loader(
    store: Several,
    labels: str | None = None,
    *,
    batch_size: int = 256,
    device: str | None = None,
    view_set: str | None = None,
    select: str | None = None,
    tag: str | None = None,
    **options: Any,
) -> Mixture: ...


def loader(
    store: OneStore | Several,
    labels: str | None = None,
    *,
    batch_size: int = 256,
    device: str | None = None,
    view_set: str | None = None,
    select: str | None = None,
    tag: str | None = None,
    **options: Any,
) -> Loader | Mixture:
    """Batches of a store, shuffled, on the device.

        loader = dmkd.loader("imnet.zarr", labels="resnet34.tv_in1k", batch_size=1024, device="cuda")
        for epoch in range(100):
            for batch in loader:
                student_logits = student(normalise(batch.pixels(), mean, std))
                loss = kd_loss(student_logits, batch.logits(temperature), temperature)

    ``labels``: a label set, or several with weights ("resnet34.tv_in1k=2,resnet18.tv_in1k"); "": none; None: the store's only
    label set, or none if it has none. ``view_set`` matters only without labels: a view set of the store, ``"rrc"`` (a new
    random crop of each image in each epoch; with options as in ``"rrc,scale=0.5:1,flip=0"``) or ``"whole"`` (each image as it
    is); None is the store's only view set, or random crops if it has none. ``device`` None: the first GPU, or the CPU.
    ``select``: which images, as in ``--select``. ``tag``: read what the store, or each of several, held when it was given this
    tag, and nothing else; what proves the rest is compared first. ``options`` are those of :class:`Loader`: ``seed``,
    ``memory``, ``resident``, ``rank``, ``world_size``, ``threads``, ``depth``.

    Several stores, ``["real.zarr", ("generated.zarr", 3)]`` or ``["real.zarr", "generated.zarr=3"]``, give a
    :class:`~dmkd.loading.mixture.Mixture`, whose batches have a share of each; without weights each image comes once an
    epoch. ``labels`` are then of all, or of each: ``"real.zarr:,generated.zarr:resnet34.tv_in1k"``.

    Raises ``UsageError`` for names that the store does not have.
    """
    device = choose_device(device)
    if isinstance(store, Store | str | os.PathLike):
        one = _ingredient(_opened(store), labels, view_set, select, tag)
        return loader_of(one, batch_size=batch_size, device=device, **options)
    pairs = [_with_weight(entry) for entry in store]
    stores = [_opened(path) for path, _ in pairs]
    ingredients = [
        _ingredient(opened, of_it, view_set, select, tag)
        for opened, of_it in zip(stores, labels_of_each(labels, stores), strict=True)
    ]
    weights = complete_weights([weight for _, weight in pairs])
    return Mixture(ingredients, weights, batch_size=batch_size, device=device, **options)


def _opened(store: OneStore) -> Store:
    return store if isinstance(store, Store) else open_store(os.fspath(store))


def _with_weight(entry: OneStore | tuple[OneStore, float]) -> tuple[OneStore, float | None]:
    if isinstance(entry, tuple):
        return entry
    return parse_store(entry) if isinstance(entry, str) else (entry, None)


def _ingredient(
    store: Store, labels: str | None, view_set: str | None, select: str | None, tag: str | None
) -> Ingredient:
    """What is learnt of a store, with what is left out chosen where there is but one choice."""
    if tag is not None:
        store = open_tagged(store.path, tag, parse_labels(labels))
    labels = only(store, "label set") if labels is None else labels
    for name in parse_labels(labels):
        if name not in store.labels:
            raise UsageError(f"{store.path} has no label set {name!r}; it has {', '.join(store.labels) or 'none'}.")
    return Ingredient(store, labels, view_set if labels else view_set or only(store, "view set"), select)


def only(store: Store, kind: str) -> str | None:
    """The store's only label set or view set; None if there is none. Raises ``UsageError`` if there are several."""
    option, names = ("labels", store.labels) if kind == "label set" else ("view_set", store.views)
    if len(names) > 1:
        raise UsageError(f"{store.path} has several {kind}s: choose with {option}=, of {', '.join(names)}.")
    return next(iter(names), None)
