"""Softness or relabelling? What students learn from, told apart, on the bundled digits.

    python benchmarks/regimes_study.py [--draws 3] [--seeds 5] [--images 300,1000,3000] [--updates 240] [--batch-size 64]
                                       [--workers 0] [--quick] [--json]

A teacher's logits differ from the class asked for in two ways: they are soft, and where the teacher finds another class likeliest
they relabel. So three students of the same images: of the logits (``kl``), of the teacher's likeliest class (``argmax``), of the
class asked for (``hard``); at guidance 1, 1.5, 2 and 4. Then other losses of the same logits, at guidance 2: logit
standardisation, DIST, GIFT, and a weight of the class asked for that falls from a half to nothing. Last, teachers that differ in
nothing but the number of real digits that they learned from: the same model, seed and number of steps.

Every condition is trained on several draws of images (the first, the next, ... of a store) with several seeds; differences are of
runs of the same images and seed, with 95 % intervals over draws. Stores are ``OUT/g<guidance>.zarr``, of 20 DDIM steps; writes
``OUT/regimes.csv``, ``OUT/guidance.csv``, ``OUT/losses.csv``, ``OUT/schedule.csv`` and ``OUT/teachers.csv``, and what the
teachers themselves reach in ``OUT/matched.json``. If interrupted, rerun the same command to resume.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from dmkd.cli.commands.compare import print_comparison, write_csv
from dmkd.cli.display import make_display
from dmkd.compare import make_runs
from dmkd.digits import data, heldout, measure
from dmkd.digits.train_teachers import TeacherPlan, save_teacher, train_teacher
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.runtime.progress import Display
from dmkd.training.comparison import table
from dmkd.training.conditions import Axes, plan_runs, varying_axes
from dmkd.training.execution import Execution

GUIDANCE = (1.0, 1.5, 2.0, 4.0)
TEACHER = "digits-resnet"
REGIMES = ("kl", "argmax", "hard")
LOSSES = ("kl", "standardised", "dist", "gift")
AT = 2.0  # guidance of the images by which losses and teachers are compared
LEARNED_FROM = (60, 240, 1437)  # real digits, of 1437: what the matched teachers differ in
HERE = RunOptions(workers=0, device="cpu")
AT_THE_END = Execution(evaluate_every=1_000_000)  # students are measured once


def prepare(out: Path, guidance: float, images: int, display: Display) -> str:
    """The path of a store of this guidance; makes or finishes it, and lets it grow."""
    path = str(out / f"g{guidance:g}.zarr")
    options = ImageOptions(generator="digits", images=images, sampler="ddim", guidance=guidance, steps=20)
    generate(path, options, LabelOptions(teachers=(TEACHER,)), HERE, display)
    return path


def matched_teachers(out: Path, learned_from: tuple[int, ...], steps: int) -> list[str]:
    """The folders of teachers of one architecture, trained here on so many of the real digits; none is trained again."""
    originals, class_ids = data.load_originals()
    train, _ = data.split(class_ids)
    folders, reached = [out / f"teacher-of-{number}" for number in learned_from], {}
    for number, folder in zip(learned_from, folders, strict=True):
        if not (folder / "model.safetensors").exists():
            plan = TeacherPlan("test_resnet", {}, number, steps, 2e-3, (0.5,) * 3, (0.5,) * 3, 311)
            pixels = measure.to_unit(data.upsample(originals[train]))
            model = train_teacher(plan, pixels, torch.from_numpy(class_ids[train]).long())
            save_teacher(model, plan, folder)
        images, true_ids = heldout()
        reached[folder.name] = measure.count_correct(measure.load_teacher(folder), images, true_ids) / len(true_ids)
    (out / "matched.json").write_text(json.dumps(reached, indent=2) + "\n")
    return [str(folder) for folder in folders]


def study(
    name: str, axes: Axes, more: dict[str, Any], baseline: dict[str, str], options: argparse.Namespace, display: Display
) -> list[dict[str, Any]]:
    """Make all runs of one comparison, print and write its table -> its rows."""
    runs = plan_runs(axes, {"updates": options.updates, "batch_size": options.batch_size, **more})
    outcome = make_runs(
        runs, options.out, vals=["digits"], device="cpu", workers=options.workers, display=display, execution=AT_THE_END
    )
    if outcome.failed:
        raise SystemExit(f"{len(outcome.failed)} runs failed: {outcome.failed}")
    rows = table(runs, outcome.summaries, ["digits"], baseline=baseline)
    if not options.json:
        against = ",".join(f"{axis}={value}" for axis, value in baseline.items())
        title = f"{name}: students after {options.updates} steps, on 360 held-out digits"
        print_comparison(rows, varying_axes(runs), title, against)
    write_csv(rows, options.out / f"{name}.csv")
    return rows


def study_options(description: str | None) -> argparse.Namespace:
    """The options of a study of students, with ``images`` as numbers; its folder is made."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("regimes-study"), help="folder of stores and results")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5, help="students of each draw")
    parser.add_argument("--images", default="300,1000,3000", help="numbers of images")
    parser.add_argument("--updates", type=int, default=240, help="optimiser steps of each student")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="Ray tasks, one thread each; 0: this process")
    parser.add_argument("--quick", action="store_true", help="64 images, two draws, one seed, 12 steps, in OUT/quick")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the tables")
    options = parser.parse_args()
    if options.quick:
        options.out, options.draws, options.seeds = options.out / "quick", 2, 1
        options.images, options.updates = "64", 12
    options.images = tuple(int(count) for count in options.images.split(","))
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def main() -> None:
    options = study_options(__doc__)
    guidances, at, learned_from, steps = GUIDANCE, AT, LEARNED_FROM, 500
    if options.quick:
        guidances, at, learned_from, steps = GUIDANCE[1:3], GUIDANCE[2], LEARNED_FROM[:2], 5
    images, display = options.images, make_display()
    stores = {guidance: prepare(options.out, guidance, options.draws * max(images), display) for guidance in guidances}
    teachers = matched_teachers(options.out, learned_from, steps)
    label(stores[at], LabelOptions(tuple(teachers)), HERE, display)
    many: dict[str, Any] = {"images": images, "seeds": tuple(range(options.seeds)), "draws": options.draws}
    few = {**many, "images": tuple(sorted({images[0], images[-1]}))}
    by, paths, one = (TEACHER,), tuple(stores.values()), (stores[at],)
    regimes = Axes(paths, by, vary={"loss": REGIMES}, **many)
    losses = Axes(one, by, vary={"loss": LOSSES}, **few)
    falling = Axes(one, by, vary={"hard_weight": (0.0, 0.5)}, **few)
    of_teachers = Axes(one, tuple(Path(teacher).name for teacher in teachers), **many)
    soft = Axes(paths, by, vary={"loss": ("kl",)}, **many)  # the first students again, compared by guidance
    results = {
        "regimes": study("regimes", regimes, {}, {"loss": "kl"}, options, display),
        "guidance": study("guidance", soft, {}, {"store": Path(stores[at]).stem}, options, display),
        "losses": study("losses", losses, {}, {"loss": "kl"}, options, display),
        "schedule": study("schedule", falling, {"hard_weight_end": 0.0}, {"hard_weight": "0.0"}, options, display),
        "teachers": study("teachers", of_teachers, {}, {"labels": of_teachers.labels[-1]}, options, display),
    }
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
