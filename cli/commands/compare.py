"""``dmkd compare``"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dmkd.runtime.whole_files import writing
from dmkd.stores.errors import DmkdError, UsageError

from ..completion import files, folders
from ..display import percent, print_table
from ..help import MAIN, RUN, HeadedCommand, heading
from ..options import check_plot_file, device_option, endpoint_option, existing_store, json_option
from ..training_options import execution_options, take_execution, training_options


@click.command(
    "compare", cls=HeadedCommand, short_help="Students of several stores, labels, options: means over seeds."
)
@click.argument("stores", shell_complete=files, nargs=-1, required=True, metavar="STORES...")
@heading(MAIN)
@click.option(
    "--labels",
    multiple=True,
    metavar="NAMES",
    help="Label sets to learn from; hard: no teacher. May be repeated. Default: each store's only one.",
)
@click.option("--student", "students", multiple=True, metavar="NAME", help="As for train-student. May be repeated.")
@click.option("--images", metavar="LIST", help="Learn from the first 300, 1000, ... images: 300,1000. Default: all.")
@click.option(
    "--vary", multiple=True, metavar="OPTION=A,B", help="Values of any training option below, such as lr=0.1,0.05. "
    "May be repeated."
)  # fmt: skip
@click.option("--seeds", default="3", show_default=True, metavar="N", help="How many seeds, or a list such as 3,4.")
@click.option(
    "--val",
    "vals",
    shell_complete=files,
    multiple=True,
    metavar="DATA",
    help="Images to measure on, as for train-student. May be repeated; the table is of the first. Default for digits: digits.",
)
@heading("Whether a difference is real")
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Of each number of --images the first, the next, ... so many: as if the images were drawn again.",
)
@click.option(
    "--baseline",
    metavar="AXIS=VALUE",
    help="Compare with the condition that has this value and is else the same: the mean difference of runs of the same images "
    "and seed, and its 95 % interval. Several: labels=hard,lr=0.1.",
)
@click.option(
    "--choose-on",
    shell_complete=files,
    metavar="DATA",
    help="Mark the best by these images and report on --val; half: by a half of --val, and report on the other half. "
    "Default: by those that are reported.",
)
@heading(MAIN)
@click.option(
    "--out",
    shell_complete=folders,
    default="compare",
    show_default=True,
    metavar="FOLDER",
    help="Folder for runs and results.",
)
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the table as CSV.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw it (.png, .svg, .pdf). Default: compare.png "
    "in the folder, if there is matplotlib."
)  # fmt: skip
@json_option
@endpoint_option
@training_options
@heading(RUN)
@click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Concurrent runs, each on its own GPU or CPU thread; 0: one after the other in this process. Default: one per "
    "GPU if there are several, else 0.",
)
@device_option
@execution_options
def command(
    stores: tuple[str, ...],
    labels: tuple[str, ...],
    students: tuple[str, ...],
    images: str | None,
    vary: tuple[str, ...],
    seeds: str,
    draws: int,
    vals: tuple[str, ...],
    baseline: str | None,
    choose_on: str | None,
    out: str,
    workers: int | None,
    csv_file: Path | None,
    plot: Path | None,
    device: str | None,
    as_json: bool,
    preset: str | None,
    student_args: tuple[str, ...],
    **options: Any,
) -> None:
    """Train a student for every combination of what is listed, with several seeds, and print mean and standard deviation.

    Each run is one that train-student would make, in a folder of its own. If interrupted, rerun the same command to resume;
    with more seeds or values it makes what is missing. A run that fails is named, and the others are made.

    An interval is over draws of the images if there are several, else over seeds: then it says nothing of other images.

    \b
    Examples:
      dmkd compare g1.zarr g2.zarr g4.zarr --seeds 5 --images 300,1000,3000 --val digits --out fidelity
      dmkd compare imnet.zarr --labels resnet34.tv_in1k --labels hard --val /data/imagenet/val --workers 8
      dmkd compare g1.zarr g2.zarr --images 1000 --draws 3 --seeds 5 --baseline store=g2 --choose-on half
      dmkd compare imnet.zarr --student resnet18 --student resnet50 --images 50000,200000 --updates 80000 --val imagenet/val
      dmkd compare imnet.zarr --vary temperature=1,4,10,20 --vary lr=0.1,0.05 --val /data/imagenet/val --csv lr.csv
    """
    from dmkd.formats.find import check_data
    from dmkd.training.training_recipe import parse_student_args

    for store in stores:
        existing_store(store)
    for data in (*vals, *([choose_on] if choose_on not in (None, "half") else [])):
        check_data(data)
    execution = take_execution(options, Path(out).name)
    options["student_args"] = parse_student_args(student_args) or None
    plot = _plot_file(plot, Path(out))
    if csv_file is not None and not csv_file.resolve().parent.is_dir():
        raise UsageError(f"--csv {csv_file}: give a file in a folder that exists.")
    chosen_images = (None,) if images is None else tuple(_numbers("--images", images))
    varied, chosen_seeds, against = parse_vary(vary), parse_seeds(seeds), parse_baseline(baseline)

    from dmkd.compare import make_runs
    from dmkd.digits import GENERATORS
    from dmkd.engine.engine import RunOptions, planned_workers
    from dmkd.runtime.devices import choose_device
    from dmkd.stores import open_store
    from dmkd.training.comparison import HALF, check_baseline, table
    from dmkd.training.conditions import Axes, plan_runs, varying_axes

    from ..display import make_display

    axes = Axes(stores, labels or (None,), students or (None,), chosen_images, varied, chosen_seeds, draws)
    display = make_display()
    runs = plan_runs(axes, options, preset, display.notice)
    check_baseline(runs, against)
    if not vals:
        if any(open_store(store).recipe.get("generator") not in GENERATORS for store in stores):
            raise UsageError("Which images should the students be measured on? Give them with --val.")
        vals = ("digits",)
    measured_on = list(dict.fromkeys([*vals, *([choose_on] if choose_on not in (None, HALF) else [])]))
    chosen = choose_device(device)
    count = planned_workers(RunOptions(workers, chosen), chosen) or 0
    outcome = make_runs(
        runs, Path(out), vals=measured_on, device=chosen, workers=count, display=display, execution=execution
    )

    rows = table(runs, outcome.summaries, measured_on, choose_on=choose_on, baseline=against)
    varying = varying_axes(runs)
    if rows and plot is not None:
        from dmkd.cli.compare_plot import draw

        draw(rows, varying, plot, title=f"on {vals[0]}, mean and standard deviation over {_over(draws)}")
    if csv_file is not None:
        write_csv(rows, csv_file)
    if as_json:
        click.echo(
            json.dumps(
                {"axes": varying, "evaluated_on": vals[0], "rows": rows, "failed": outcome.failed, "baseline": against}
            )
        )
    elif rows:
        where = f"half of {vals[0]}" if choose_on == HALF else vals[0]
        print_comparison(
            rows, varying, f"On {where}, mean ± standard deviation over {_over(draws)}", baseline, choose_on
        )
        click.echo(f"Runs and results are in {out}" + (f", the plot is {plot}" if plot else ""))
    if outcome.failed:
        raise DmkdError(
            f"{len(outcome.failed)} of {len(runs)} runs failed, {next(iter(outcome.failed))} among them: "
            f"{next(iter(outcome.failed.values()))} Rerun the same command to retry them."
        )


@click.command(add_help_option=False)
@training_options
def _all_training_options(**options: Any) -> None:
    """Never called: it is asked for its options."""


# What --vary takes: what has one value a run.
VARIABLE = {str(option.name): option for option in _all_training_options.params if not option.multiple}


def parse_vary(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """``["lr=0.1,0.05"]`` -> ``{"lr": (0.1, 0.05)}``, each value as the option of that name reads it."""
    varied: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        key = name.strip().removeprefix("--").replace("-", "_")
        if not equals or key not in VARIABLE:
            known = ", ".join(sorted(name.replace("_", "-") for name in VARIABLE))
            raise UsageError(f"--vary {text!r}: write OPTION=A,B with one of {known}; labels, student, images and seeds "
                             "have options of their own.")  # fmt: skip
        if key in varied:
            raise UsageError(f"--vary {key} is given twice: list all values once.")
        option = VARIABLE[key]
        try:
            varied[key] = tuple(option.type.convert(part.strip(), option, None) for part in listed.split(","))
        except click.BadParameter as error:
            raise UsageError(f"--vary {text!r}: {error.message}") from error
    return varied


def parse_baseline(text: str | None) -> dict[str, str]:
    """``"labels=hard,lr=0.1"`` -> ``{"labels": "hard", "lr": "0.1"}``."""
    parts = [part.partition("=") for part in (text or "").split(",") if part]
    if any(not equals for _, equals, _ in parts):
        raise UsageError(f"--baseline {text!r}: write AXIS=VALUE, such as store=g2 or labels=hard.")
    return {axis.strip().replace("-", "_"): value.strip() for axis, _, value in parts}


def _over(draws: int) -> str:
    return "draws and seeds" if draws > 1 else "seeds"


def parse_seeds(text: str) -> tuple[int, ...]:
    """``"3"`` -> seeds 0, 1, 2; ``"3,4"`` or ``"3,"`` -> these."""
    numbers = _numbers("--seeds", text)
    if "," in text:
        return tuple(numbers)
    if numbers[0] < 1:
        raise UsageError("--seeds must be at least 1.")
    return tuple(range(numbers[0]))


def _numbers(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} {text!r}: write whole numbers with commas between, such as 300,1000.")
    return [int(part) for part in parts]


def _plot_file(asked: Path | None, out: Path) -> Path | None:
    """Where to draw; None if nothing can be drawn and nobody asked for it."""
    if asked is not None:
        check_plot_file(asked)
        return asked
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return None
    return out / "compare.png"


def print_comparison(
    rows: Sequence[dict[str, Any]],
    axes: Sequence[str],
    title: str,
    baseline: str | None = None,
    choose_on: str | None = None,
) -> None:
    """A row a condition; the best in bold."""
    shown = list(axes) or ["store"]
    facts: dict[str, tuple[str, Any]] = {
        "guidance": ("guidance", lambda value: f"{value:g}" if isinstance(value, float) else str(value)),
        "steps": ("steps", str),
        "teacher_agreement": ("agrees", lambda value: f"{value:.1%}"),
        "entropy": ("entropy", lambda value: f"{value:.2f}"),
        "p_class": ("p(class)", lambda value: f"{value:.2f}"),
    }
    known = [name for name in facts if any(row[name] is not None for row in rows)]
    others = list(rows[0]["top1_on"])[1:] if choose_on in (None, "half") else []
    cells = []
    for row in rows:
        top1 = percent(row["top1"]).removesuffix(" %")
        sd = "" if row["top1_sd"] is None else f" ± {100 * row['top1_sd']:.2f}"
        cells.append(
            [
                *(_cell(row.get(axis)) for axis in shown),
                top1 + sd,
                *([_difference(row)] if baseline else []),
                *([percent(row["chosen_by"]).removesuffix(" %")] if choose_on else []),
                *(percent(row["top1_on"][val]).removesuffix(" %") for val in others),
                str(row["seeds"] * row["draws"]),
                f"{row['calibration_error']:.3f}",
                "" if row["agreement_with_teacher"] is None else f"{row['agreement_with_teacher']:.1%}",
                f"{row['images_per_second']:,.0f}",
                *("" if row[name] is None else facts[name][1](row[name]) for name in known),
            ]
        )
    columns = [
        *shown,
        "top-1, %",
        *([f"− {baseline}, 95 %"] if baseline else []),
        *(["chosen by"] if choose_on else []),
        *(f"on {val}" for val in others),
        "runs",
        "ECE",
        "as teacher",
        "images/s",
        *(facts[name][0] for name in known),
    ]
    spare = (
        "images/s",
        "ECE",
        "as teacher",
        *(facts[name][0] for name in reversed(known) if facts[name][0] not in shown),
    )
    print_table(title, columns, cells, bold=[row["best"] for row in rows], spare=spare)


def _difference(row: dict[str, Any]) -> str:
    """In points, with its interval; ``*`` where that excludes zero."""
    if row["difference"] is None:
        return ""
    mean = f"{100 * row['difference']:+.2f}"
    if row["difference_low"] is None:
        return mean
    return f"{mean} [{100 * row['difference_low']:.2f}, {100 * row['difference_high']:.2f}]{' *' if row['differs'] else ''}"


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A line a condition, all columns; shares in [0, 1]."""
    flat = [{**row, **{f"top1_on_{val}": top1 for val, top1 in row["top1_on"].items()}} for row in rows]
    with writing(path), path.open("w", newline="") as file:
        names = [name for name in (flat[0] if flat else ["store"]) if name != "top1_on"]
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(flat)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
