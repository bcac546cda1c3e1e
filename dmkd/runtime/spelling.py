"""Names that may have been meant."""

import difflib
from collections.abc import Sequence


def nearest_names(name: str, known: Sequence[str], count: int = 5) -> str:
    """``"; did you mean a, b?"`` or nothing."""
    near = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""
