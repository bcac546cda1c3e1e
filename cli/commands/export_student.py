"""``dmkd export-student``"""

import json
from pathlib import Path

import click

from dmkd.training.run_folder import STUDENTS

from ..completion import files, folders, words
from ..options import json_option


@click.command("export-student", short_help="A student as a folder that others can use.")
@click.argument("run", shell_complete=files)
@click.option("--to", shell_complete=folders, required=True, metavar="FOLDER", help="A new folder, the model's.")
@click.option(
    "--which",
    shell_complete=words(*STUDENTS),
    default="student",
    show_default=True,
    metavar="NAME",
    help="student (of the last epoch) or best (chosen on the --val images).",
)
@click.option(
    "--onnx", is_flag=True, help="Write model.onnx too, and compare its logits where onnxruntime is installed."
)
@json_option
def command(run: str, to: str, which: str, onnx: bool, as_json: bool) -> None:
    """Write the student of RUN, the folder of a finished train-student, as a model folder: weights (safetensors), timm's
    config.json, and a model card that says how it was made. timm loads it: timm.create_model("local-dir:FOLDER",
    pretrained=True).

    \b
    Examples:
      dmkd export-student students/imnet-resnet18-resnet34.tv_in1k --to my-resnet18
      dmkd export-student students/imnet-resnet18-resnet34.tv_in1k --which best --to my-resnet18-best --onnx
    """
    from dmkd.export_student import export_student

    from ..display import print_facts

    written = export_student(Path(run), Path(to), which=which, onnx=onnx)
    if as_json:
        click.echo(json.dumps(written))
        return
    facts = [("files", ", ".join(written["files"])), ("model", written["architecture"]), ("sha256", written["sha256"])]
    if onnx:
        difference = written["onnx_difference"]
        compared = (
            "not compared: onnxruntime is not installed"
            if difference is None
            else f"logits within {difference:.1e} of torch's"
        )
        facts.append(("onnx", compared))
    print_facts(f"Exported to {written['folder']}", facts)
