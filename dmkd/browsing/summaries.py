"""Many images in few numbers: histograms, a row of each class, who is taken for whom, where two teachers differ."""

from typing import Any

import numpy as np

from dmkd.browsing.query import PAIRS
from dmkd.browsing.table import Table

BINS = 40
MOST_CLASSES = 30  # in a confusion table; of more, those that are confused most
MOST_PAIRS = 100


class Histograms:
    """Histograms of one table's numbers: the limits and each image's bin are worked out once, so that counting is fast."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._binned: dict[tuple[int, str | None, str], tuple[float, float, np.ndarray]] = {}

    def of(self, judge: str | None, ids: np.ndarray) -> list[dict[str, Any]]:
        """JSON-able, of each number that a rule may limit: its ``key``, ``low``, ``high``, counts of ``all`` images and of those
        ``chosen``, (40,) each, and the ``mean`` over the chosen."""
        with self.table.lock:
            columns = (
                {} if judge is None else dict(zip(("p_class", "entropy"), self.table.quality[judge].T[1:], strict=True))
            )
            found = [self._one(judge, key, values, ids) for key, values in {**columns, **self.table.columns}.items()]
        return [one for one in found if one is not None]

    def _one(self, judge: str | None, key: str, values: np.ndarray, ids: np.ndarray) -> dict[str, Any] | None:
        name = (self.table.version, judge, key)
        if name not in self._binned:
            self._binned = {one: kept for one, kept in self._binned.items() if one[0] == self.table.version}
            self._binned[name] = _binned(values, (0.0, 1.0) if key == "p_class" else None)
        low, high, bins = self._binned[name]
        if not np.isfinite(low):
            return None
        chosen = values[ids]
        known = np.count_nonzero(~np.isnan(chosen))
        return {
            "key": key,
            "low": low,
            "high": high,
            "all": np.bincount(bins, minlength=BINS + 1)[:BINS].tolist(),
            "chosen": np.bincount(bins[ids], minlength=BINS + 1)[:BINS].tolist(),
            "mean": float(np.nanmean(chosen)) if known else None,
        }


def _binned(values: np.ndarray, limits: tuple[float, float] | None) -> tuple[float, float, np.ndarray]:
    """Limits, and the bin of each value, uint8 (N,); values that are not known are in one more bin."""
    known = np.isfinite(values)
    if not known.any():
        return np.nan, np.nan, np.full(len(values), BINS, np.uint8)
    low, high = limits or (float(values[known].min()), float(values[known].max()))
    bins = np.full(len(values), BINS, np.uint8)
    places = (values[known].astype(np.float64) - low) / ((high - low) or 1.0) * BINS
    bins[known] = np.clip(places, 0, BINS - 1).astype(np.uint8)
    return low, high, bins


def agreement(table: Table, judge: str | None, ids: np.ndarray) -> dict[str, int] | None:
    """Of these images: how many the teacher has labelled, and of how many it sees the class asked for."""
    if judge is None:
        return None
    top1 = table.quality[judge][ids, 0]
    return {"labelled": int(np.count_nonzero(~np.isnan(top1))), "agreed": int((top1 == table.class_ids[ids]).sum())}


def class_rows(table: Table, judge: str | None, ids: np.ndarray) -> list[dict[str, Any]]:
    """A row of each class that has images among int64 ``ids``: ``class_id``, ``images``, and by the teacher's opinion
    ``agreement``, mean ``p_class`` and ``entropy`` (nats), None without; ``typical`` and ``odd``, the images with the largest and
    the smallest p(class), of which the first is any image where there is no opinion, and the second None."""
    if not len(ids):
        return []
    ids = np.sort(ids)
    class_ids = table.class_ids[ids]
    quality = np.full((len(ids), 3), np.nan) if judge is None else table.quality[judge][ids].astype(np.float64)
    order = np.lexsort((-quality[:, 1], class_ids))  # NaN comes last
    ids, class_ids, quality = ids[order], class_ids[order], quality[order]
    classes, firsts, counts = np.unique(class_ids, return_index=True, return_counts=True)
    known = ~np.isnan(quality[:, 0])
    labelled = np.add.reduceat(known.astype(np.int64), firsts)
    opinion = np.stack([quality[:, 0] == class_ids, quality[:, 1], quality[:, 2]], 1)
    sums = np.add.reduceat(np.where(known[:, None], opinion, 0.0), firsts, axis=0)
    rows = []
    for class_id, first, images, judged, total in zip(
        classes.tolist(), firsts.tolist(), counts.tolist(), labelled.tolist(), sums.tolist(), strict=True
    ):
        means = [one / judged for one in total] if judged else [None] * 3
        rows.append(
            {
                "class_id": class_id,
                "images": images,
                **dict(zip(("agreement", "p_class", "entropy"), means, strict=True)),
                "typical": int(ids[first]),
                "odd": int(ids[first + judged - 1]) if judged else None,
            }
        )
    return rows


def confusion(table: Table, judge: str, ids: np.ndarray) -> dict[str, Any]:
    """Class asked for against class seen, over these images. ``classes``: those of the table, the ones confused most where there
    are more than 30; ``counts[row][column]``: images of ``classes[row]`` that the teacher takes for ``classes[column]``;
    ``others[row]``: for any other class; ``pairs``: the 100 largest confusions of all."""
    top1 = table.quality[judge][ids, 0]
    known = ~np.isnan(top1)
    asked, seen = table.class_ids[ids[known]].astype(np.int64), top1[known].astype(np.int64)
    size = int(max(asked.max(initial=-1), seen.max(initial=-1))) + 1
    found, number = np.unique(
        asked * size + seen, return_counts=True
    )  # sparse: a table of 21,000 classes has few cells
    row, column = found // max(size, 1), found % max(size, 1)
    wrong = row != column
    confused = np.bincount(row[wrong], number[wrong], size) + np.bincount(column[wrong], number[wrong], size)
    there = np.unique(np.concatenate([row, column]))
    if len(there) > MOST_CLASSES:
        there = np.sort(there[np.argsort(-confused[there], kind="stable")[:MOST_CLASSES]])
    place = np.full(size, -1)
    place[there] = np.arange(len(there))
    counts, others = np.zeros((len(there), len(there)), np.int64), np.zeros(len(there), np.int64)
    shown = place[row] >= 0
    inside = shown & (place[column] >= 0)
    counts[place[row[inside]], place[column[inside]]] = number[inside]
    np.add.at(others, place[row[shown & ~inside]], number[shown & ~inside])
    largest = np.flatnonzero(wrong)[np.argsort(-number[wrong], kind="stable")[:MOST_PAIRS]]
    return {
        "classes": there.tolist(),
        "counts": counts.tolist(),
        "others": others.tolist(),
        "pairs": [[int(row[one]), int(column[one]), int(number[one])] for one in largest],
        "labelled": int(known.sum()),
        "wrong": int(number[wrong].sum()),
    }


def pair_counts(table: Table, judge: str, versus: str, ids: np.ndarray) -> dict[str, int]:
    """How many of these images, of those that both teachers have labelled, are of each of :data:`dmkd.browsing.query.PAIRS`."""
    one, other = table.quality[judge][ids, 0], table.quality[versus][ids, 0]
    known = ~np.isnan(one) & ~np.isnan(other)
    asked = table.class_ids[ids]
    return {name: int((known & of(one, other, asked)).sum()) for name, of in PAIRS.items()} | {
        "labelled": int(known.sum())
    }
