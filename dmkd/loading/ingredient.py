"""What is learnt of one of several stores. Imports no torch."""

from dataclasses import dataclass

import numpy as np

from dmkd.recipes.class_numbers import class_numbers
from dmkd.recipes.label_choice import parse_labels
from dmkd.stores import Store


@dataclass(frozen=True)
class Ingredient:
    """One of several stores, and what is learnt from it."""

    store: Store
    labels: str | None = None  # label sets, as ``--labels`` has them; None: the class ids alone
    view_set: str | None = None  # without labels: the views that are shown
    select: str | None = None

    def class_numbers(self, leading: Store) -> np.ndarray | None:
        """Of each of the store's classes the number in the store that leads; None: its own. Raises ``UsageError``."""
        return class_numbers(self.store, leading, soft=bool(parse_labels(self.labels)))
