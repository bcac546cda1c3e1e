"""Keeping what was found: as a selection of the store, under a name that ``train-student --select`` takes."""

import numpy as np

from dmkd.browsing.query import Finder, Query, rule_of
from dmkd.recipes.selecting import in_full
from dmkd.stores import Store, UsageError


def save(finder: Finder, query: Query, name: str) -> dict[str, object]:
    """Save the images of a query under ``name`` -> ``select``, what to give to ``--select``; ``labels``, the label set whose
    opinion it goes by, or None; ``images``, how many there are now.

    A rule is saved as a rule, which goes for images that come later, too. What no rule can say, such as images picked by hand
    or those that two teachers see differently, is saved as a column of this name, 1 for these images and 0 for the others, and
    the selection is that it is 1.

    Raises ``UsageError`` for a name that can't be, an empty choice, a column of this name with other numbers, and for stores
    that can't be written; ``StoreWriteError`` if the disk fails.
    """
    store: Store = finder.table.store
    ids = finder.find(query)
    if not len(ids):
        raise UsageError("There is no image to save: the rule leaves none.")
    store.require_writable()
    judge = None
    if query.is_a_rule:
        if not query.rule.strip():
            raise UsageError("This is every image, which needs no selection: give a rule first.")
        judge = query.judge if rule_of(query.rule, finder.table).needs_teacher else None
        store.save_selection(name, in_full(query.rule, store.selections))
    else:
        chosen = np.zeros(store.num_images)
        chosen[ids] = 1
        store.add_column(name, chosen, f"1 for {len(ids)} images chosen by hand")
        store.save_selection(name, f"{name} == 1")
    return {"select": f"@{name}", "labels": judge, "images": len(ids)}
