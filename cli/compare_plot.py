"""A comparison as a figure: top-1 over the first axis that is a number, a line for each combination of the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmkd.runtime.whole_files import writing

STORE_FACTS = ("guidance", "steps")  # numbers that distinguish stores, if they differ
PANELS = "images"
LOG_FROM = 8  # times: a range of values as wide as this is drawn on a logarithmic axis


@dataclass(frozen=True)
class Layout:
    """Which axis of a table goes where."""

    x: str
    numeric: bool  # x is a number, else a word
    lines: tuple[str, ...]  # a line for each combination of their values
    panels: str | None


def layout_of(rows: Sequence[dict[str, Any]], axes: Sequence[str]) -> Layout:
    """Where to draw the axes in which ``rows`` (:func:`dmkd.training.conditions.table`) vary. Stores are drawn by their guidance
    and steps where these differ."""
    chosen = list(axes) or ["store"]
    if "store" in chosen:
        facts = [fact for fact in STORE_FACTS if len({str(row[fact]) for row in rows}) > 1]
        told_apart = len({tuple(str(row[fact]) for fact in facts) for row in rows}) == len(
            {row["store"] for row in rows}
        )
        if facts and told_apart:
            chosen = [*facts, *(axis for axis in chosen if axis != "store")]
    numeric = [axis for axis in chosen if all(_is_number(row.get(axis)) for row in rows)]
    x = numeric[0] if numeric else chosen[0]
    others = [axis for axis in chosen if axis != x]
    return Layout(x, bool(numeric), tuple(a for a in others if a != PANELS), PANELS if PANELS in others else None)


def draw(rows: Sequence[dict[str, Any]], axes: Sequence[str], path: Path, title: str = "") -> None:
    """Write a .png, .svg or .pdf: mean top-1 in percent, bars of one standard deviation over seeds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    layout = layout_of(rows, axes)
    panels = list(dict.fromkeys(row[layout.panels] for row in rows)) if layout.panels else [None]
    figure = Figure(figsize=(1.5 + 4 * len(panels), 4), layout="constrained")
    subplots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    values = list(dict.fromkeys(row[layout.x] for row in rows))
    for subplot, panel in zip(subplots, panels, strict=True):
        here = [row for row in rows if layout.panels is None or row[layout.panels] == panel]
        for line in dict.fromkeys(tuple(row[name] for name in layout.lines) for row in here):
            points = [row for row in here if tuple(row[name] for name in layout.lines) == line]
            places = [row[layout.x] if layout.numeric else values.index(row[layout.x]) for row in points]
            order = sorted(range(len(points)), key=places.__getitem__)
            subplot.errorbar(
                [places[i] for i in order],
                [100 * points[i]["top1"] for i in order],
                yerr=[100 * (points[i]["top1_sd"] or 0) for i in order],
                fmt="o-" if layout.numeric else "o",
                capsize=3,
                label=", ".join(f"{name} {value}" for name, value in zip(layout.lines, line, strict=True)),
            )
        if layout.numeric:
            if min(values) > 0 and max(values) / min(values) >= LOG_FROM:
                subplot.set_xscale("log")
            subplot.xaxis.set_major_locator(FixedLocator(sorted(values)))
            subplot.xaxis.set_minor_locator(NullLocator())
            subplot.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        else:
            subplot.set_xticks(range(len(values)), [str(value) for value in values])
        subplot.set(xlabel=layout.x, title="" if panel is None else f"{panel:,} images")
        subplot.grid(alpha=0.3)
    subplots[0].set_ylabel("top-1, %")
    if layout.lines:
        subplots[-1].legend()
    figure.suptitle(title)
    with writing(path):
        figure.savefig(path, dpi=120)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
