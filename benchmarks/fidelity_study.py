"""How faithful should generated images be, and which teacher teaches best? DM-KD's two questions, on the bundled digits.

    python benchmarks/fidelity_study.py [--seeds 5] [--updates 240] [--workers 0] [--quick] [--json]

Li et al. 2023 (arXiv:2305.12954) found that images of low fidelity (a small guidance scale, few sampling steps) and relatively
weak teachers teach best. Here: stores of 3,000 digits by DDIM at guidance 1, 1.5, 2, 4 and 10, 20, 50, 100 steps, students that
learn from the first 300, 1,000 and 3,000 images of each; and three teachers on the store of guidance 2, 20 steps. All
students take the same number of optimiser steps; reported are mean and standard deviation (n - 1) over seeds of the top-1
accuracy on the 360 held-out digits. Seeds are the student's: images are drawn once.

Writes ``OUT/fidelity.csv`` and ``OUT/teachers.csv``, tables as ``dmkd compare --csv`` writes them, and a plot (.png) of each.
``notebooks/03_fidelity_and_teachers.ipynb`` shows the copies of the two next to it.

Stores are ``OUT/g<guidance>-s<steps>.zarr``; existing ones are used as they are, unfinished ones finished. If interrupted,
rerun the same command to resume. On a shared machine: OMP_WAIT_POLICY=PASSIVE.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from dmkd.cli.commands.compare import print_comparison, write_csv
from dmkd.cli.compare_plot import draw
from dmkd.cli.display import make_display
from dmkd.compare import make_runs
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.runtime.progress import Display
from dmkd.stores import Store, open_store, store_exists
from dmkd.training.comparison import table
from dmkd.training.conditions import Axes, plan_runs, varying_axes

GUIDANCE, STEPS = (1.0, 1.5, 2.0, 4.0), (10, 20, 50, 100)
IMAGES = (300, 1000, 3000)
TEACHERS = ("digits-resnet", "digits-vit", "digits-weak")
TEACHERS_AT = (2.0, 20)  # guidance and steps of the store that the teachers are compared on
HERE = RunOptions(workers=0, device="cpu")


def prepare(out: Path, guidance: float, steps: int, images: int, display: Display) -> Store:
    """The store of a guidance and a number of steps; makes whatever is missing."""
    path = str(out / f"g{guidance:g}-s{steps}.zarr")
    if store_exists(path):
        store = open_store(path)
        if (
            not store.missing_blocks()
            and TEACHERS[0] in store.labels
            and not store.labels[TEACHERS[0]].missing_blocks()
        ):
            return store
    options = ImageOptions(
        generator="digits",
        images=images,
        sampler="ddim",
        guidance=guidance,
        steps=steps,
        seed=0,
        block_size=128,
        sub_batch=64,
    )
    store, _ = generate(path, options, LabelOptions(teachers=TEACHERS[:1]), HERE, display)
    return store


def add_teachers(store: Store, teachers: tuple[str, ...], display: Display) -> Store:
    """The same store with the labels of all these teachers, on the views that are there."""
    for teacher in teachers:
        if teacher not in store.labels or store.labels[teacher].missing_blocks():
            label(store.path, LabelOptions((teacher,)), HERE, display)
            store = open_store(store.path)
    return store


def study(name: str, axes: Axes, options: argparse.Namespace, out: Path, display: Display) -> list[dict[str, Any]]:
    """Make all runs of one comparison; print, write (as ``dmkd compare --csv`` does) and plot its table -> its rows."""
    runs = plan_runs(axes, {"updates": options.updates})
    outcome = make_runs(runs, out, vals=["digits"], device="cpu", workers=options.workers, display=display)
    if outcome.failed:
        raise SystemExit(f"{len(outcome.failed)} runs failed: {outcome.failed}")
    rows, varying = table(runs, outcome.summaries, ["digits"]), varying_axes(runs)
    title = f"{name}: students after {options.updates} steps, on 360 held-out digits"
    if not options.json:
        print_comparison(rows, varying, title)
    write_csv(rows, out / f"{name}.csv")
    draw(rows, varying, out / f"{name}.png", title=title)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("fidelity-study"), help="folder of stores and results")
    parser.add_argument("--seeds", type=int, default=5, help="students a condition")
    parser.add_argument("--updates", type=int, default=240, help="optimiser steps of each")
    parser.add_argument("--workers", type=int, default=0, help="Ray tasks, one thread each; 0: this process")
    parser.add_argument("--stores-only", action="store_true", help="make the stores and stop")
    parser.add_argument(
        "--quick", action="store_true", help="two stores of 300 images, one seed, 12 steps, in OUT/quick"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the tables")
    options = parser.parse_args()
    guidances, step_counts, images, teachers, at = GUIDANCE, STEPS, IMAGES, TEACHERS, TEACHERS_AT
    if options.quick:
        guidances, step_counts, images, teachers, at = (1.0, 4.0), (10,), (128, 300), TEACHERS[::2], (4.0, 10)
        options.out, options.seeds, options.updates = options.out / "quick", 1, 12
    options.out.mkdir(parents=True, exist_ok=True)
    display, seeds = make_display(), tuple(range(options.seeds))

    stores = {
        (guidance, steps): prepare(options.out, guidance, steps, max(images), display)
        for steps, guidance in itertools.product(step_counts, guidances)
    }
    add_teachers(stores[at], teachers, display)
    if options.stores_only:
        return
    paths = tuple(store.path for store in stores.values())
    fidelity = Axes(paths, labels=TEACHERS[:1], images=images, seeds=seeds)
    of_teachers = Axes((stores[at].path,), labels=teachers, images=images, seeds=seeds)
    results = {
        "fidelity": study("fidelity", fidelity, options, options.out, display),
        "teachers": study("teachers", of_teachers, options, options.out, display),
    }
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
