"""Which stores a student learns from, with what weights, and which labels of which store."""

import math
from collections.abc import Sequence
from pathlib import Path

from dmkd.stores import Store, UsageError


def parse_store(text: str) -> tuple[str, float | None]:
    """``"b.zarr=3"`` -> the path and the weight; None where none is given. Raises ``UsageError`` for a weight that can't be."""
    path, equals, number = text.rpartition("=")
    if not equals or Path(text).exists():
        return text, None
    try:
        weight = float(number)
    except ValueError:
        return text, None
    if not 0 < weight < math.inf:
        raise UsageError(f"--store {text}: a weight is a number greater than 0, as in {path}=3.")
    return path, weight


def complete_weights(weights: Sequence[float | None]) -> tuple[float, ...] | None:
    """1 for each store that has none, where some store has one; None if none has: as many images as there are."""
    return None if set(weights) == {None} else tuple(1.0 if weight is None else weight for weight in weights)


def labels_of_each(text: str | None, stores: Sequence[Store]) -> list[str | None]:
    """What ``--labels`` says of each of several stores: label sets; "": none of its labels; None: nothing, so its only one.

    ``"resnet34"`` is of all stores that have labels; ``"a.zarr:resnet34=2,resnet18,b.zarr:"`` of each by name, its path or the
    last part of it; what stands before the first name of a store is of those that are not named. Raises ``UsageError`` for a name
    that two stores have, and for a store that is named twice.
    """
    said: dict[str | None, list[str]] = {}
    names: dict[str, list[str]] = {}
    for store in stores:
        for name in dict.fromkeys((store.path, store.path.rstrip("/"), store.path.rstrip("/").rpartition("/")[2])):
            names.setdefault(name, []).append(store.path)
    meant: str | None = None
    for part in (part.strip() for part in (text or "").split(",")):
        word, colon, labels = part.partition(":")
        while colon and word not in names:  # s3://bucket/b.zarr:resnet34, clip:openai/clip-vit
            more, colon, labels = labels.partition(":")
            word = f"{word}:{more}"
        if colon:
            if len(names[word]) > 1:
                raise UsageError(f"--labels: {word!r} is {' or '.join(names[word])}: write the whole path.")
            meant, part = names[word][0], labels
            if meant in said:
                raise UsageError(f"--labels: {meant} is named twice.")
        said.setdefault(meant, []).append(part)
    joined = {path: ",".join(filter(None, parts)) for path, parts in said.items()}
    of_others = None if text is None else joined.get(None)
    return [joined.get(store.path, of_others if store.labels else "") for store in stores]
