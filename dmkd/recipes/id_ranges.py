"""Whole numbers as text, runs of them as ranges."""

from collections.abc import Sequence


def id_ranges(ids: Sequence[int], separator: str = ",") -> str:
    """[0, 1, 2, 7] -> ``"0-2,7"``; the order stays."""
    runs: list[tuple[int, int]] = []
    for number in ids:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return separator.join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
