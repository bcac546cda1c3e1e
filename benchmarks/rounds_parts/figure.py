"""The gains as a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rounds_parts.stores import BLIND, Condition


def plot(rows: Sequence[Mapping[str, Any]], best: Condition, path: Path) -> None:
    """Gains at equal images and at equal seconds: by setting at the first condition's number of images, and by that number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_setting, by_images = figure.subplots(1, 2, width_ratios=(1.5, 1))
    followers = [row for row in rows if row["setting"] != BLIND]
    at = [row for row in followers if Condition.of(row) == replace(best, setting=row["setting"])]
    at.sort(key=lambda row: row["equal_images"]["gain"])
    of_best = [row for row in followers if Condition.of(row) == replace(best, images=row["images"])]
    of_best.sort(key=lambda row: row["images"])
    for shift, name in ((0.12, "equal_images"), (-0.12, "equal_seconds")):
        label = name.replace("_", " ")
        shown = [(place, row[name]) for place, row in enumerate(at) if row[name]]
        by_setting.errorbar(
            [gain["gain"] for _, gain in shown],
            [place + shift for place, _ in shown],
            xerr=bars(shown),
            fmt="o",
            label=label,
        )
        points = [(row["images"], row[name]) for row in of_best if row[name]]
        by_images.errorbar(
            [size for size, _ in points],
            [gain["gain"] for _, gain in points],
            yerr=bars(points),
            fmt="o-",
            capsize=3,
            label=label,
        )
    by_setting.set_yticks(range(len(at)), [row["setting"] for row in at])
    by_setting.set(title=f"{best.images} images", xlabel="points of top-1 over blind images")
    by_setting.axvline(0, color="black", linewidth=0.8)
    by_images.set_xscale("log")
    sizes = [row["images"] for row in of_best]
    by_images.set_xticks(sizes, [f"{size:,}" for size in sizes])
    by_images.minorticks_off()
    by_images.set(title=best.setting, xlabel="images")
    by_images.axhline(0, color="black", linewidth=0.8)
    by_images.legend()
    for subplot in (by_setting, by_images):
        subplot.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def bars(shown: Sequence[tuple[Any, Mapping[str, float | None]]]) -> list[list[float]]:
    """Below and above each gain, as errorbar takes them; nothing where there is no interval."""
    gains = [gain for _, gain in shown]
    return [
        [abs(gain["gain"] - (gain["gain"] if gain[end] is None else gain[end])) for gain in gains]
        for end in ("low", "high")
    ]
