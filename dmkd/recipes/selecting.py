"""Selections of one store: with its own columns, and those that were saved in it."""

import re
from collections.abc import Mapping

import numpy as np

from dmkd.recipes.selection import Selection, columns_of, parse_selection
from dmkd.stores import LabelSet, Store, UsageError

_SAVED = re.compile(r"@([\w.-]+)")


def in_full(text: str, saved: Mapping[str, str]) -> str:
    """A selection with every ``@name`` replaced by what was saved under it. Raises ``UsageError`` for one that was not."""

    def expression(match: re.Match[str]) -> str:
        if match[1] not in saved:
            names = ", ".join(f"@{name}" for name in saved) or "none"
            raise UsageError(f"The selection `{text}` names {match[0]}, and the store has saved {names}.")
        return f"({saved[match[1]]})"

    return _SAVED.sub(expression, text)


def selection_of(store: Store, text: str) -> Selection:
    """The selection that a text means in a store. Raises ``UsageError`` for one that can't be."""
    return parse_selection(in_full(text, store.selections), store.columns)


def selected(store: Store, selection: Selection, ids: np.ndarray, judge: LabelSet | None) -> np.ndarray:
    """Which of the images of ids int64 (n,), all finished and labelled by ``judge`` if there is one, are selected: bool (n,)."""
    columns = columns_of(judge.quality[ids] if judge else None, store.class_ids[ids], ids)
    own = store.columns
    return selection.mask(columns | {name: own[name].known(ids) for name in selection.own_columns})
