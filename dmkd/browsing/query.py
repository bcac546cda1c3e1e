"""What is looked at: which images, by whose opinion, in which order. The rule is one that ``train-student --select`` takes."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dmkd.browsing.sources import NO_CLASS
from dmkd.browsing.table import Table
from dmkd.recipes.selecting import in_full
from dmkd.recipes.selection import Selection, parse_selection
from dmkd.stores import UsageError

KEPT = 8  # answers, of which each is at most as large as a column

GAP = "gap"  # how far two teachers are apart
RANDOM = "random"
ORDERS = ("image_id", "class_id", "top1", "p_class", "entropy", GAP, RANDOM)  # and columns

# Of two teachers, which images: those of which they think alike of the class asked for, or not.
PAIRS = {
    "differ": lambda one, other, asked: one != other,
    "both": lambda one, other, asked: (one == asked) & (other == asked),
    "first": lambda one, other, asked: (one == asked) & (other != asked),
    "second": lambda one, other, asked: (one != asked) & (other == asked),
    "neither": lambda one, other, asked: (one != asked) & (other != asked),
}


@dataclass(frozen=True)
class Query:
    """``judge``: the label set whose teacher's opinion counts; ``versus``: another one; ``pair``: one of :data:`PAIRS`, of the
    images that both have labelled; ``ids``: these images alone, by their numbers."""

    rule: str = ""
    judge: str | None = None
    versus: str | None = None
    pair: str | None = None
    sort: str = "image_id"
    down: bool = False
    ids: tuple[int, ...] | None = None

    @property
    def is_a_rule(self) -> bool:
        """Whether ``rule`` says all: then it is what ``--select`` takes."""
        return self.pair is None and self.ids is None


class Finder:
    """Answers queries about one table, and keeps the last answers."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._kept: OrderedDict[tuple[object, ...], np.ndarray] = OrderedDict()

    def find(self, query: Query) -> np.ndarray:
        """The images, int64 (n,), in order. Raises ``UsageError`` for a rule that can't be read, and for label sets, orders and
        pairs that there are not."""
        with self.table.lock:
            check_query(query, self.table)
            mask = self._keep("mask", (query.rule, query.judge, query.versus, query.pair, query.ids), self._mask, query)
            order = self._keep("order", (query.sort, query.down, query.judge, query.versus), self._order, query)
            return np.flatnonzero(mask) if order is None else order[mask[order]]

    def _keep(self, what: str, key: tuple[object, ...], make: object, query: Query) -> np.ndarray:
        key = (what, self.table.version, *key)
        if key not in self._kept:
            self._kept[key] = make(query)  # type: ignore[operator]
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _mask(self, query: Query) -> np.ndarray:
        """bool (N,)"""
        table = self.table
        mask = table.class_ids != NO_CLASS
        if query.rule.strip():
            selection = rule_of(query.rule, table)
            judge = query.judge if selection.needs_teacher else None
            if selection.needs_teacher and judge is None:
                raise UsageError("This rule needs a teacher's opinion of the images, and the store has no labels.")
            mask &= selection.mask(table.judged(judge))
        if query.pair is not None:
            one, other = (table.quality[str(name)][:, 0] for name in (query.judge, query.versus))
            mask &= ~np.isnan(one) & ~np.isnan(other) & PAIRS[query.pair](one, other, table.class_ids)
        if query.ids is not None:
            picked = np.zeros(len(mask), bool)
            picked[[one for one in query.ids if 0 <= one < len(mask)]] = True
            mask &= picked
        return mask

    def _order(self, query: Query) -> np.ndarray | None:
        """All N images in order, int64 (N,); None: as they are. Images without a value come last."""
        if query.sort == "image_id" and not query.down:
            return None
        values = self._values(query)
        return np.argsort(-values if query.down else values, kind="stable")

    def _values(self, query: Query) -> np.ndarray:
        table = self.table
        if query.sort == RANDOM:
            return np.random.default_rng(0).permutation(len(table.class_ids))
        if query.sort == GAP:
            return self.gap(query)
        if query.sort in table.columns:
            return table.columns[query.sort]
        if query.sort in ("image_id", "class_id"):
            return np.arange(len(table.class_ids)) if query.sort == "image_id" else table.class_ids
        place = ("top1", "p_class", "entropy").index(query.sort)
        return table.quality[str(query.judge)][:, place]

    def gap(self, query: Query) -> np.ndarray:
        """float32 (N,): see :func:`gap`, NaN where one of the two teachers has no opinion."""
        return gap(*(self.table.quality[str(name)] for name in (query.judge, query.versus)))


def gap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far two teachers' opinions are apart at least, from their quality, float32 (n, 3) each: float32 (n,) from 0 to 1.

    A lower bound of the total variation between their softmaxes p and q, which is as large as the difference of any class's
    probabilities, such as that of the class asked for. If their top-1 classes a and b differ, it is at least
    p(a) - q(a) >= p(a) + q(b) - 1, and the probability of a top-1 class is at least exp(-entropy)."""
    sure = np.exp(-one[:, 2]) + np.exp(-other[:, 2]) - 1
    return np.maximum(np.abs(one[:, 1] - other[:, 1]), np.where(one[:, 0] != other[:, 0], sure, 0))


def rule_of(text: str, table: Table) -> Selection:
    """The selection that a rule means in the table's store. Raises ``UsageError``."""
    return parse_selection(in_full(text, table.store.selections), table.columns)


def check_query(query: Query, table: Table) -> None:
    """Raise ``UsageError`` for what the store does not have."""
    for name in (query.judge, query.versus):
        if name is not None and name not in table.quality:
            raise UsageError(
                f"{table.store.path} has no label set {name!r}; it has {', '.join(table.quality) or 'none'}."
            )
    if query.sort not in ORDERS and query.sort not in table.columns:
        raise UsageError(f"Images can't be sorted by {query.sort!r}; choose {', '.join((*ORDERS, *table.columns))}.")
    if query.pair is not None and query.pair not in PAIRS:
        raise UsageError(f"There is no comparison {query.pair!r}; choose {', '.join(PAIRS)}.")
    if (query.pair is not None or query.sort == GAP) and None in (query.judge, query.versus):
        raise UsageError("Comparing takes two teachers: choose two label sets.")
    if query.sort in ("top1", "p_class", "entropy") and query.judge is None:
        raise UsageError(f"{query.sort} is a teacher's opinion, and {table.store.path} has no labels.")


def query_from(asked: Mapping[str, str]) -> Query:
    """A query from the text of a request. Raises ``UsageError`` for ids that are no numbers."""
    ids = asked.get("ids")
    return Query(
        asked.get("rule", ""),
        asked.get("judge") or None,
        asked.get("versus") or None,
        asked.get("pair") or None,
        asked.get("sort") or "image_id",
        asked.get("down") == "1",
        None if ids is None else tuple(numbers(ids)),
    )


def numbers(text: str) -> list[int]:
    """``7,3,100`` -> [7, 3, 100]. Raises ``UsageError``."""
    words = [word for word in text.split(",") if word]
    if not all(word.isdecimal() and len(word) <= 15 for word in words):
        raise UsageError(f"{text[:100]!r} are not the numbers of images: give them as in 7,3,100.")
    return [int(word) for word in words]
