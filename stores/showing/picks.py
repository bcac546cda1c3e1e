"""Which images to look at: some of each class, from the surest to the least sure, most and least agreed on.

A large store is not read whole: some blocks are sampled, always the same ones.
"""

from collections.abc import Sequence
from itertools import islice, pairwise

import numpy as np

from ..columns import Column
from ..errors import StoreError, UsageError
from ..opinions import sampled
from ..reader import Reader
from ..sets import LabelSet

ORDERS = ("entropy", "agreed", "disagreed")


def pick_by_class(
    store: Reader, count: int, classes: Sequence[int] | None = None, most_classes: int = 12
) -> dict[int, np.ndarray]:
    """Class id -> ids int64 of up to ``count`` of its images, the smallest first. ``classes`` None: ``most_classes`` of the
    classes that have images, evenly spread. Raises ``StoreError`` if there are no images yet."""
    missing = set(store.missing_blocks())
    blocks = sampled(store.path, [block for block in range(store.num_blocks) if block not in missing])
    if not blocks:
        raise _nothing(store, "images")
    ids = np.concatenate([store.block_ids(block) for block in blocks])
    class_ids = store.class_ids[ids]
    there = np.unique(class_ids).tolist()
    if classes is None:
        places = np.unique(np.linspace(0, len(there) - 1, min(most_classes, len(there))).round().astype(int))
        classes = [there[place] for place in places]
    elif absent := [one for one in classes if one not in there]:
        raise UsageError(f"{store.path} has no images of class {absent[0]} (in {len(blocks):,} of its blocks).")
    return {one: ids[class_ids == one][:count] for one in classes}


def pick_by_opinion(store: Reader, label_set: LabelSet, order: str, count: int) -> tuple[np.ndarray, int]:
    """Ids int64 of ``count`` images, and how many they were picked from.

    ``order``: ``entropy``, from the smallest to the largest in equal steps of rank; ``agreed``, those with the largest
    p(class); ``disagreed``, those with the smallest. Raises ``StoreError`` if nothing is labelled yet.
    """
    opinions = label_set.opinions(sampled(store.path, label_set.labelled_blocks()))
    if not len(opinions.ids):
        raise _nothing(store, f"images that {label_set.name} has labelled")
    count = min(count, len(opinions.ids))
    if order == "entropy":
        chosen = _evenly(opinions.quality[:, 2], count)
    elif order in ("agreed", "disagreed"):
        sign = 1 if order == "disagreed" else -1
        chosen = np.argsort(sign * opinions.quality[:, 1], kind="stable")[:count]
    else:
        raise UsageError(f"Images can't be ordered by {order!r}; choose from {', '.join(ORDERS)}.")
    return opinions.ids[chosen], len(opinions.ids)


def pick_by_round(store: Reader, count: int) -> dict[int, np.ndarray]:
    """The number of each round, 0 too -> ids int64 of up to ``count`` of its images, the first that are there. Raises
    ``UsageError`` if the store has no rounds."""
    if not store.rounds:
        raise UsageError(
            f"{store.path} has no rounds: images are added in one by dmkd generate, with --round or --follow."
        )
    missing = set(store.missing_blocks())
    edges = [0, *(one.start for one in store.rounds), store.num_images]
    chosen: dict[int, np.ndarray] = {}
    for number, (start, stop) in enumerate(pairwise(edges)):
        ids = (image for image in range(start, stop) if image // store.block_size not in missing)
        chosen[number] = np.array(list(islice(ids, count)), np.int64)
    return {number: ids for number, ids in chosen.items() if len(ids)}


def pick_by_column(store: Reader, column: Column, count: int) -> tuple[np.ndarray, int]:
    """Ids int64 of ``count`` images, from the smallest number of a column to the largest in equal steps of rank, and how many
    they were picked from. Raises ``StoreError`` if no image has a number."""
    absent = {*store.missing_blocks(), *column.missing_blocks()}
    blocks = sampled(store.path, [block for block in range(store.num_blocks) if block not in absent])
    if not blocks:
        raise _nothing(store, f"numbers in column {column.name}")
    ids = np.concatenate([store.block_ids(block) for block in blocks])
    values = column[ids]
    ids, values = ids[~np.isnan(values)], values[~np.isnan(values)]  # a score is NaN where there was no student
    if not len(ids):
        raise _nothing(store, f"numbers in column {column.name}")
    return ids[_evenly(values, min(count, len(ids)))], len(ids)


def _evenly(values: np.ndarray, count: int) -> np.ndarray:
    """The places of ``count`` of the values, from the smallest to the largest in equal steps of rank."""
    ranked = np.argsort(values, kind="stable")
    return ranked[np.linspace(0, len(ranked) - 1, count).round().astype(int)]


def _nothing(store: Reader, what: str) -> StoreError:
    return StoreError(f"{store.path} has no {what} yet: nothing to show.")
