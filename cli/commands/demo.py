"""``dmkd demo``"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..completion import folders
from ..options import device_option, json_option

if TYPE_CHECKING:
    from dmkd.generate import RunOptions
    from dmkd.runtime.progress import Display

# name -> the table's words, its loss
STUDENTS = {
    "student": ("student, from the store's logits", "kl"),
    "argmax_student": ("student, the teacher's likeliest class", "argmax"),
    "hard_label_student": ("student, the class asked for", "hard"),
}


@click.command("demo", short_help="Everything on a laptop: images, labels, student, test.")
@click.option(
    "--out",
    shell_complete=folders,
    default="dmkd-demo",
    show_default=True,
    metavar="FOLDER",
    help="Folder for the store and the students.",
)
@click.option("--images", type=int, metavar="N", help="Images to generate. Default: 3000.")
@click.option(
    "--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the images and of the students."
)
@click.option("--workers", type=int, default=0, show_default=True, metavar="N", help="Ray actors; 0: this process.")
@device_option
@json_option
def command(out: str, images: int | None, seed: int, workers: int, device: str | None, as_json: bool) -> None:
    """Everything on a laptop: images of digits, a teacher's labels, a student, and a test on real digits.

    A bundled diffusion model draws handwritten digits, a bundled teacher labels them, and a student learns from that store
    alone. Two more learn from the same views with hard labels: the class that the teacher finds likeliest, which tells what
    its soft labels add to a relabelling, and the class asked for. None has seen a real digit; all are tested on 360 that
    nothing was trained on. If interrupted, rerun the same command to resume.

    \b
    Examples:
      dmkd demo
      dmkd demo --seed 1 --json
    """
    from dmkd.making.asked import check_images
    from dmkd.recipes.image_options import ImageOptions

    asked = ImageOptions(generator="digits", images=images, seed=seed)
    check_images(asked)

    from dmkd.classifiers.evaluate import evaluate
    from dmkd.classifiers.evaluation_data import evaluation_batches
    from dmkd.classifiers.load import load_classifier
    from dmkd.generate import LabelOptions, RunOptions, generate
    from dmkd.runtime.devices import choose_device
    from dmkd.training.loss_table import LOSSES
    from dmkd.training.run_folder import make_folder
    from dmkd.training.training_recipe import resolve_training

    from ..display import duration, make_display, percent, print_table
    from ..training_progress import train_with_progress

    display, chosen = make_display(), choose_device(device)
    folder = Path(out) / f"seed{seed}"
    make_folder(folder)
    seconds: dict[str, float] = {}

    start = time.perf_counter()
    store, (labels, *_) = generate(
        str(folder / "digits.zarr"),
        asked,
        LabelOptions(),
        RunOptions(workers, chosen),
        display,
    )
    seconds["generate and label"] = time.perf_counter() - start

    top1: dict[str, float] = {}
    for name, (_, loss) in STUDENTS.items():
        start = time.perf_counter()
        learnt = labels if LOSSES[loss].from_labels else None
        _, recipe = resolve_training(store, {"loss": loss, "labels": learnt, "seed": seed})
        run = folder / name.replace("_", "-")
        summary = train_with_progress(recipe, store, run, chosen, "digits", display, name.replace("_", " "))
        top1[name] = summary["top1"]
        seconds[name] = time.perf_counter() - start
    start = time.perf_counter()
    teacher = load_classifier(store.labels[labels].source, device=chosen)
    top1["teacher"] = evaluate(teacher, evaluation_batches("digits", teacher)).top1
    seconds["teacher"] = time.perf_counter() - start

    real = str(folder / "real.zarr")
    label_real(real, folder, {"teacher": store.labels[labels].source}, RunOptions(0, chosen), display)

    result: dict[str, Any] = {**top1, "seconds": sum(seconds.values()), "store": store.path, "seed": seed}
    if as_json:
        click.echo(json.dumps(result))
        return
    student = recipe.student
    print_table(
        f"On 360 real digits that nothing was trained on ({store.num_images:,} generated images)",
        ["", "model", "top-1", "time"],
        [
            ["teacher, trained on real digits", labels, percent(top1["teacher"]), ""],
            *([shown, student, percent(top1[name]), duration(seconds[name])] for name, (shown, _) in STUDENTS.items()),
            ["images and labels", "", "", duration(seconds["generate and label"])],
        ],
    )
    click.echo(f"What the teacher makes of the generated digits:  dmkd browse {store.path}")
    click.echo(f"Which real digits the students get wrong:        dmkd browse {real}")


def label_real(path: str, folder: Path, teachers: dict[str, str], run: "RunOptions", display: "Display") -> None:
    """A store of the real digits, labelled by the teacher and by every student: which of them fail can then be looked at."""
    from dmkd.formats.heldout_digits import write_heldout
    from dmkd.generate import LabelOptions, label
    from dmkd.import_images import ImportOptions, import_images

    write_heldout(folder / "real")
    import_images(path, str(folder / "real"), ImportOptions(), display)
    students = {name.replace("_", "-"): str(folder / name.replace("_", "-")) for name in STUDENTS}
    for name, source in {**teachers, **students}.items():
        label(path, LabelOptions((source,), "center", name=name), run, display)
