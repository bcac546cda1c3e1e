"""``dmkd push``"""

import json
import tempfile
from pathlib import Path

import click

from dmkd.stores.errors import UsageError
from dmkd.stores.locations import hub_path
from dmkd.training.run_folder import STUDENTS

from ..completion import files, words
from ..options import existing_store, json_option


@click.command("push", short_help="Publish a store or a student on the Hugging Face hub.")
@click.argument("source", shell_complete=files)
@click.argument("target", shell_complete=words("hf://datasets/", "hf://"), metavar="HUB")
@click.option("--create", is_flag=True, help="Make the repository if there is none, for everybody to see.")
@click.option("--private", is_flag=True, help="Make it if there is none, for those whom you let in.")
@click.option(
    "--tag",
    metavar="NAME",
    help="Name what is pushed, such as v1: hf://…@v1 stays what it is now. A store is tagged so too (`dmkd tag`).",
)
@click.option(
    "--licence",
    metavar="TEXT",
    help="Licence to name on a store's card, such as cc-by-4.0. Default: as `dmkd card` has it.",
)
@click.option(
    "--runs", is_flag=True, help="Publish a store's run log too, which names machines. Default: it stays here."
)
@click.option(
    "--which",
    shell_complete=words(*STUDENTS),
    metavar="NAME",
    help="Of a student: student (of the last epoch) or best (chosen on the --val images). Default: student.",
)
@json_option
def command(
    source: str,
    target: str,
    create: bool,
    private: bool,
    tag: str | None,
    licence: str | None,
    runs: bool,
    which: str | None,
    as_json: bool,
) -> None:
    """Publish SOURCE at HUB: a store, in a local folder, at hf://datasets/USER/NAME; a student, the folder of a finished
    train-student or of export-student, at hf://USER/NAME.

    A store is packed first (see `dmkd pack`). What the repository has already is not sent; if interrupted, rerun the same command
    to resume. Published are the store's files, its card as README.md, and a preview of 300 images for the hub's viewer.

    \b
    Examples:
      dmkd push imnet.zarr hf://datasets/me/imnet --private
      dmkd push imnet.zarr hf://datasets/me/imnet --create --licence cc-by-nc-4.0 --tag v1
      dmkd push students/first hf://me/resnet18-imnet --create
    """
    from dmkd.runtime.hub_upload import Visibility

    from ..display import make_display

    visibility, display = Visibility(create, private), make_display()
    if hub_path(target).kind == "dataset":
        from dmkd.push import push_store

        if which:
            raise UsageError("--which is for students; they go to hf://USER/NAME.")
        pushed = push_store(existing_store(source), target, visibility, display, tag=tag, licence=licence, runs=runs)
    else:
        from dmkd.push import push_student

        if licence or runs:
            raise UsageError("--licence and --runs are for stores; they go to hf://datasets/USER/NAME.")
        if (Path(source) / "model.safetensors").exists():
            pushed = push_student(Path(source), target, visibility, display, tag=tag)
        else:
            from dmkd.export_student import export_student

            with tempfile.TemporaryDirectory() as folder:
                export_student(Path(source), Path(folder) / "student", which=which or STUDENTS[0])
                pushed = push_student(Path(folder) / "student", target, visibility, display, tag=tag)
    if as_json:
        click.echo(json.dumps(pushed.to_json()))
    else:
        sent = f"{pushed.sent:,} of {pushed.files:,} files were sent" if pushed.sent else "nothing had to be sent"
        click.echo(f"{target}: commit {pushed.commit[:12]}{f', tag {tag}' if tag else ''}; {sent}.")
