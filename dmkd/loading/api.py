"""``dmkd.loader(...)``: a loader for one's own training loop, from a path and a few words."""

import os
from typing import Any

from dmkd.loading.loader import Loader
from dmkd.recipes.label_choice import parse_labels
from dmkd.runtime.devices import choose_device
from dmkd.stores import Store, UsageError, open_store


def loader(
    store: Store | str | os.PathLike[str],
    labels: str | None = None,
    *,
    batch_size: int = 256,
    device: str | None = None,
    view_set: str | None = None,
    **options: Any,
) -> Loader:
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
    ``options`` are those of :class:`Loader`: ``seed``, ``select``, ``memory``, ``resident``, ``rank``, ``world_size``,
    ``threads``, ``depth``.
    Raises ``UsageError`` for names that the store does not have.
    """
    opened = store if isinstance(store, Store) else open_store(os.fspath(store))
    weights = parse_labels(labels) if labels is not None else parse_labels(only(opened, "label set"))
    for name in weights:
        if name not in opened.labels:
            raise UsageError(f"{opened.path} has no label set {name!r}; it has {', '.join(opened.labels) or 'none'}.")
    if not weights:
        view_set = view_set or only(opened, "view set")
    return Loader(
        opened,
        labels=weights,
        view_set=view_set,
        batch_size=batch_size,
        device=choose_device(device),
        **options,
    )


def only(store: Store, kind: str) -> str | None:
    """The store's only label set or view set; None if there is none. Raises ``UsageError`` if there are several."""
    option, names = ("labels", store.labels) if kind == "label set" else ("view_set", store.views)
    if len(names) > 1:
        raise UsageError(f"{store.path} has several {kind}s: choose with {option}=, of {', '.join(names)}.")
    return next(iter(names), None)
