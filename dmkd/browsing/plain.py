"""What files of strangers say, made fit for a page: short texts, finite numbers, times."""

import math
from datetime import datetime
from typing import Any

LONGEST = 300


def text(value: Any) -> str:
    """One line, cut off where it is long; what is no text is written as Python does."""
    return " ".join(str(value)[: 4 * LONGEST].split())[:LONGEST]


def number(value: Any) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def unix_time(value: Any) -> float | None:
    """Of an ISO 8601 text; None for anything else."""
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
