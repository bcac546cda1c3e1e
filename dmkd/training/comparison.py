"""What came of the runs of a comparison: one row a condition, with means, deviations, and differences to a baseline."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dmkd.stores import UsageError
from dmkd.training.conditions import Run, varying_axes
from dmkd.training.paired import Unit, paired_difference

HALF = "half"  # of the images to measure on: chosen by one half, reported on the other

Summaries = Mapping[str, Mapping[str, Any]]  # run's name -> its summary, with what was measured on each set of images


def result_line(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a finished run, flat but for ``measured``, and JSON-able. Where the loss is an axis, ``loss`` is its name;
    ``training_loss`` is a number always."""
    kept = {key: summary[key] for key in ("top1", "top5", "loss", "agreement", "images_per_second", "evaluated_on")}
    kept["training_agreement"] = kept.pop("agreement")  # with its labels, on the training views
    kept["training_loss"] = kept["loss"]
    size = {
        "images_used": run.images,
        "epochs": run.recipe.epochs,
        "updates": run.updates,
    }  # epochs: None if in updates
    return {
        "run": run.name,
        **kept,
        **run.condition,
        "seed": run.seed,
        "draw": run.draw,
        **size,
        "measured": summary["measured"],
    }


def table(
    runs: Sequence[Run],
    summaries: Summaries,
    vals: Sequence[str],
    *,
    choose_on: str | None = None,
    baseline: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """One row a condition, of the runs of which there is a summary, sorted by the axes that vary.

    ``top1`` is the mean over draws and seeds in [0, 1] on the first of ``vals``, ``top1_sd`` the standard deviation (n - 1; None
    for one run), ``top1_on`` the means on all of them; ``calibration_error`` and ``agreement_with_teacher`` (None without one)
    are means, too. ``best`` marks the highest mean: of ``chosen_by``, if ``choose_on`` says on what to choose. That is another of
    the sets measured on, or ``half``: then ``top1`` is of the other half.

    ``baseline``: axis -> value; each row is compared with the one that has these values and is else the same:
    ``difference`` of the means, ``difference_low`` and ``difference_high`` (a 95 % interval), ``differs`` if that excludes zero;
    None where there is nothing to compare. Facts are those of the stores and their labels.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.name in summaries:
            groups.setdefault(str(run.condition), []).append(run)
    reported, chosen = _measures(vals[0], choose_on)
    units = {key: {_unit(run): reported(summaries[run.name]) for run in group} for key, group in groups.items()}
    rows = []
    for key, group in groups.items():
        found = [summaries[run.name] for run in group]
        top1 = list(units[key].values())
        first = [summary["measured"][vals[0]] for summary in found]
        rows.append(
            {
                **group[0].condition,
                "seeds": len({run.seed for run in group}),
                "draws": len({run.draw for run in group}),
                "top1": statistics.mean(top1),
                "top1_sd": statistics.stdev(top1) if len(top1) > 1 else None,
                "top1_on": {val: _mean([summary["measured"][val]["top1"] for summary in found]) for val in vals},
                "chosen_by": _mean([chosen(summary) for summary in found]) if choose_on else None,
                "calibration_error": _mean([measured["calibration_error"] for measured in first]),
                "agreement_with_teacher": _mean([measured["agreement_with_teacher"] for measured in first]),
                **_compared(group[0], units, groups, baseline),
                "images_per_second": statistics.mean(summary["images_per_second"] for summary in found),
                "images_used": group[0].images,
                "updates": group[0].updates,
                **_facts(group),
            }
        )
    decides = "chosen_by" if choose_on else "top1"
    highest = max((row[decides] for row in rows), default=None)
    return [{**row, "best": row[decides] == highest} for row in sorted(rows, key=_order(runs))]


def check_baseline(runs: Sequence[Run], baseline: Mapping[str, str]) -> None:
    """Raise ``UsageError`` unless some condition has these values."""
    for axis, value in baseline.items():
        known = list(dict.fromkeys(str(run.condition.get(axis)) for run in runs))
        if axis not in varying_axes(runs):
            axes = ", ".join(varying_axes(runs)) or "nothing"
            raise UsageError(f"--baseline {axis}={value}: these runs do not differ by {axis}, but by {axes}.")
        if value not in known:
            raise UsageError(f"--baseline {axis}={value}: {axis} is one of {', '.join(known)}.")


def _measures(val: str, choose_on: str | None) -> tuple[Callable[[Mapping[str, Any]], float], ...]:
    """From a summary: the top-1 to report, and the one to choose by."""
    if choose_on == HALF:
        return (lambda summary: summary["measured"][val]["top1_halves"][1]), (
            lambda summary: summary["measured"][val]["top1_halves"][0]
        )
    return (lambda summary: summary["measured"][val]["top1"]), (
        lambda summary: summary["measured"][choose_on or val]["top1"]
    )


def _unit(run: Run) -> Unit:
    return run.draw, run.seed


def _compared(
    run: Run,
    units: Mapping[str, Mapping[Unit, float]],
    groups: Mapping[str, Sequence[Run]],
    baseline: Mapping[str, str] | None,
) -> dict[str, Any]:
    """How the condition of a run differs from its baseline."""
    nothing = dict.fromkeys(("difference", "difference_low", "difference_high", "differs"))
    if not baseline:
        return nothing
    wanted = {axis: str(value) for axis, value in run.condition.items()} | dict(baseline)
    for key, group in groups.items():
        if {axis: str(value) for axis, value in group[0].condition.items()} == wanted:
            if key == str(run.condition):
                return nothing
            found = paired_difference(units[str(run.condition)], units[key])
            if found is not None:
                return dict(zip(nothing, (found.mean, found.low, found.high, found.is_clear), strict=True))
    return nothing


def _facts(group: Sequence[Run]) -> dict[str, Any]:
    """Of the first run; numbers that are a teacher's opinion of the images are means over their draws."""
    by_draw = {run.draw: run.facts for run in group}
    facts = dict(group[0].facts)
    for name in ("teacher_agreement", "entropy", "p_class"):
        facts[name] = _mean([of_draw.get(name) for of_draw in by_draw.values()])
    return facts


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def _order(runs: Sequence[Run]) -> Callable[[Mapping[str, Any]], list[tuple[Any, ...]]]:
    axes = varying_axes(runs)
    ranks = {axis: list(dict.fromkeys(str(run.condition.get(axis)) for run in runs)) for axis in axes}

    def place(row: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        facts = [_sortable(row[fact]) for fact in ("guidance", "steps")] if "store" in axes else []
        return facts + [_sortable(row[axis], ranks[axis].index(str(row[axis]))) for axis in axes]

    return place


def _sortable(value: Any, rank: int = 0) -> tuple[Any, ...]:
    """Numbers by size and before all else, the rest in the order given."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value) if number else (1, rank, str(value))
