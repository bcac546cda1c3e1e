"""Whether columns are sound: the numbers of these images, and finite."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import layout
from ..columns import Column, column_bound, column_identity


def wrong_identity(store_identity: str, name: str, attributes: Mapping[str, Any]) -> bool:
    """Whether a column's identity is not that of its store, name and first numbers."""
    return attributes["identity"] != column_identity(store_identity, name, attributes.get("numbers"))


def wrong_numbers(
    column: Column, ids: np.ndarray, image_checks: np.ndarray | None, stored: np.ndarray, rounds: np.ndarray
) -> Iterator[tuple[np.ndarray, str]]:
    """float64 (n, 2) as stored -> which rows (n,) are wrong, and what is wrong with them. ``image_checks`` None: they can't be
    relied on. ``rounds`` int64 (n,): the round that each image was made in."""
    finite = np.isfinite(stored).all(1)
    if column.of_rounds and column.name == layout.ROUND:
        yield stored[:, 0] != rounds, "are not the rounds that these images were made in"
    yield ~(finite | np.isnan(stored[:, 0]) & (column.of_rounds and column.name == layout.SCORE)), "are NaN or infinite"
    if image_checks is not None:
        bound = column_bound(column.identity, ids, image_checks, stored)
        yield (
            ~bound,
            "are not those that were written for these images: those of another block or store, or overwritten",
        )


def is_column(node: str) -> bool:
    return node.startswith(f"{layout.COLUMNS}/")
