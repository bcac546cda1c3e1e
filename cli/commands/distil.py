"""``dmkd distil``"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..completion import files, folders
from ..help import MAIN, HeadedCommand, heading
from ..options import find_store, json_option, without
from ..recipe_options import read_recipe_options, recipe_options
from ..round_options import ROUND, read_steering, steering_options
from ..training_options import execution_options, take_execution, take_training, training_options

if TYPE_CHECKING:
    from dmkd.stores import Store


@click.command("distil", cls=HeadedCommand, short_help="Images in rounds that follow the student, and the student.")
@recipe_options
@heading(ROUND)
@click.option(
    "--rounds",
    type=int,
    default=5,
    show_default=True,
    metavar="N",
    help="Make the images in N rounds, as many in each: the first follows no student, each other one the student of all images "
    "so far.",
)
@steering_options
@heading(MAIN)
@click.option("--student", metavar="NAME", help="timm architecture. Default: resnet18; digits: a small one.")
@without("--preset", "--size")
@training_options
@heading("Student")
@click.option(
    "--follow-epochs", type=int, metavar="N", help="Epochs of the students that rounds follow. Default: as --epochs."
)
@click.option("--follow-updates", type=int, metavar="N", help="The same in optimiser steps.")
@click.option(
    "--warm",
    is_flag=True,
    help="Each student that a round follows goes on from the one before. The last student begins afresh all the same.",
)
@heading(MAIN)
@click.option(
    "--val",
    shell_complete=files,
    metavar="DATA",
    help="Real images to measure the students on; they choose nothing. Default: none, and nothing looks at real images.",
)
@click.option(
    "--out", shell_complete=folders, metavar="FOLDER", help="Folder of the students. Default: students/STORE-rounds."
)
@without("--compile")
@execution_options
@json_option
def command(
    store: str | None,
    rounds: int,
    student: str | None,
    follow_epochs: int | None,
    follow_updates: int | None,
    warm: bool,
    val: str | None,
    out: str | None,
    workers: int | None,
    device: str | None,
    ray_address: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make images in rounds, each for what the student of the rounds before has not learned, and train a student on them all.

    Each image of a round is the one of four candidates, sampled with few steps, that teacher and student disagree on most, unless
    the options of rounds say otherwise. Every round is part of the store's recipe: its student is kept in
    the store, verify --regenerate makes it again, and --select "round <= 1" trains on the first ones alone.

    If interrupted at any point, rerun the same command to resume.

    \b
    Examples:
      dmkd distil --store imnet.zarr --preset fast --images 200000 --rounds 5 --student resnet18
      dmkd distil --store pets.zarr --images 50000 --candidates 4 --candidate-steps 10 --class-shares 0.5 --val /data/pets/val
      dmkd distil --store digits.zarr --generator digits --images 300 --rounds 2 --updates 240 --val digits
    """
    from dmkd.formats.find import check_data
    from dmkd.training.training_recipe import parse_student_args

    path = find_store(store)
    if val is not None:
        check_data(val)
    folder = Path(out or f"students/{Path(path.rstrip('/')).stem}-rounds")
    execution = take_execution(options, folder.name)
    training = {"student": student, **take_training(options, "preset", "size")}
    training["student_args"] = parse_student_args(training["student_args"]) or None
    steering = read_steering(options, follow="the student of the round before")
    images, labels = read_recipe_options(options)

    from dmkd.distil import DistilOptions, distil
    from dmkd.generate import RunOptions
    from dmkd.runtime.devices import choose_device
    from dmkd.training.training_recipe import resolve_training

    from ..display import make_display
    from ..training_progress import train_with_progress

    display, chosen = make_display(), choose_device(device)

    def train_student(of: "Store", given: Mapping[str, Any], of_student: Path, name: str) -> Mapping[str, Any]:
        _, recipe = resolve_training(of, dict(given))
        return train_with_progress(recipe, of, of_student, chosen, val, display, name, execution)

    result = distil(
        path,
        folder,
        images,
        labels,
        steering,
        DistilOptions(rounds, warm, follow_epochs, follow_updates),
        training,
        RunOptions(workers, device, ray_address),
        display,
        train_student,
        lambda toml: click.echo(toml, err=True),
    )
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print(result)


def _print(result: Mapping[str, Any]) -> None:
    from ..display import duration, percent, print_table

    rows = [
        [
            str(line["round"]),
            f"{line['images']:,}",
            duration(line.get("generation_seconds", 0.0)),
            duration(line.get("training_seconds", 0.0)),
            percent(line["agreement"]),
            "" if line["score"] is None else f"{line['score']:.3f}",
            percent(line["top1"]),
        ]
        for line in result["rounds"]
    ]
    columns = ["round", "images", "made in", "student in", "teacher agrees", "score", "top-1 so far"]
    print_table(f"{result['store']}, in rounds", columns, rows)
    click.echo(f"The student is in {result['student']['student']}.")
