"""Several stores beside each other: of each class the first image of every store, then the second, ...

Stores of one seed and the same classes begin an image from the same noise wherever they have it, and it has the same number: so a
row is then the same noise, under other guidance, steps or weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dmkd.browsing.sources import NO_CLASS
from dmkd.browsing.table import Table


def side_by_side(tables: Sequence[Table], classes: Sequence[int], start: int, count: int) -> dict[str, Any]:
    """JSON-able: ``rows``, from ``start`` on, in the order of the first store, each with ``class_id`` and the ``ids`` of the
    images in each store, None where one has no such image; ``of``, how many rows there are; ``same_seed``, whether all stores
    have one seed; ``same_classes``. Classes are those of the first store, found by name in the others. ``classes``: these alone;
    none: all."""
    first, *others = tables
    names = first.store.class_names
    places = [_Places(first, np.arange(len(names)))]
    for table in others:
        theirs: dict[str, int] = {}
        for number, name in enumerate(table.store.class_names):
            theirs.setdefault(name, number)
        places.append(_Places(table, np.array([theirs.get(name, NO_CLASS - 1) for name in names], np.int64)))
    ids, class_ids, ranks = places[0].in_order()
    if classes:
        wanted = np.isin(class_ids, np.array(classes))
        ids, class_ids, ranks = ids[wanted], class_ids[wanted], ranks[wanted]
    rows = [
        {"class_id": class_id, "ids": [image, *(one.find(class_id, rank) for one in places[1:])]}
        for image, class_id, rank in zip(
            *(values[start : start + count].tolist() for values in (ids, class_ids, ranks)), strict=True
        )
    ]
    seeds = {table.store.recipe.get("seed") for table in tables}
    return {
        "rows": rows,
        "of": len(ids),
        "same_seed": len(seeds) == 1 and None not in seeds,
        "same_classes": all(table.store.class_names == names for table in others),
    }


class _Places:
    """Where the images of each class are in a store."""

    def __init__(self, table: Table, numbers: np.ndarray) -> None:
        """``numbers``: the id that each of the first store's classes has in this one, int64 (C,)."""
        with table.lock:
            class_ids = table.class_ids.copy()
        self._numbers = numbers
        self._order = np.argsort(class_ids, kind="stable")
        self._sorted = class_ids[self._order]
        self._class_ids = class_ids

    def find(self, class_id: int, rank: int) -> int | None:
        """The image of this class with ``rank`` others of it before it."""
        number = self._numbers[class_id]
        begin, end = np.searchsorted(self._sorted, (number, number + 1))
        return int(self._order[begin + rank]) if begin + rank < end else None

    def in_order(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids int64 (n,), ascending, of the images that are there, the class of each, and how many of its class come before."""
        starts = np.searchsorted(self._sorted, self._sorted)
        ranks = np.empty(len(self._order), np.int64)
        ranks[self._order] = np.arange(len(self._order)) - starts
        ids = np.flatnonzero(self._class_ids != NO_CLASS)
        return ids, self._class_ids[ids], ranks[ids]
