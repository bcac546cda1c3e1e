"""Classes of one store as another numbers them: matched by WordNet id where both know these, else by name."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dmkd.stores import Store, UsageError

NAMED = 5  # of the classes that are missing


def class_numbers(store: Store, leading: Store, soft: bool) -> np.ndarray | None:
    """Of each of the store's classes the number in ``leading``, int64 (C,); None if they are the same in the same order.

    ``soft``: its logits are learnt from, so that it needs all of the classes; else some will do. Raises ``UsageError`` that names
    what is missing where.
    """
    by_wnid = store.class_wnids is not None and leading.class_wnids is not None
    of_store, of_leading = (
        _told_apart((one.class_wnids if by_wnid else None) or one.class_names) for one in (store, leading)
    )
    if of_store == of_leading:
        return None
    number = {key: number for number, key in enumerate(of_leading)}
    if strange := [key for key in of_store if key not in number]:
        raise UsageError(
            f"{leading.path} has no {_named(strange)} of {store.path}: stores are learnt from together whose classes have the "
            "same names; the first store's are the student's."
        )
    missing = [key for key in of_leading if key not in set(of_store)]
    if missing and soft:
        raise UsageError(
            f"{store.path} has no {_named(missing)} of {leading.path}, and its teachers say nothing of what it has not: learn "
            f"from its class ids alone, --labels {store.path}:, or name a store first whose classes it has."
        )
    return np.array([number[key] for key in of_store])


def _told_apart(names: Sequence[str]) -> list[tuple[str, int]]:
    """Names, some of which two classes may have, as ImageNet's cranes: each with how often it came before."""
    seen: Counter[str] = Counter()
    keys = []
    for name in names:
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys


def _named(keys: Sequence[tuple[str, int]]) -> str:
    more = f" and {len(keys) - NAMED:,} more" if len(keys) > NAMED else ""
    return f"class{'es' if len(keys) > 1 else ''} {', '.join(name for name, _ in keys[:NAMED])}{more}"
