"""``dmkd train-student``"""

import json
from pathlib import Path
from typing import Any

import click

from .options import device_option, find_store, json_option, store_option


@click.command("train-student", short_help="Train a student on a store alone.")
@store_option
@click.option(
    "--student",
    metavar="NAME",
    help="timm architecture, or wrn_16_2, cifar_resnet20, ... Default: resnet18, or a small one for small images.",
)
@click.option(
    "--student-arg",
    "student_args",
    multiple=True,
    metavar="KEY=VALUE",
    help="Given to timm's create_model, such as drop_path_rate=0.1; as many as you like.",
)
@click.option("--pretrained", is_flag=True, default=None, help="Begin with timm's pretrained weights.")
@click.option("--preset", metavar="NAME", help="dm-kd or cutmix-t20. Default: what suits the store's image size.")
@click.option("--labels", metavar="NAMES", help="Label sets to learn from, a or a,b or a=2,b=1. Default: the only one.")
@click.option("--select", metavar="RULE", help='Images to use, such as "entropy<2.5 and agree". Default: all.')
@click.option("--loss", metavar="KIND", help="kl, dkd (decoupled), or hard: only the class asked for. Default: kl.")
@click.option("--temperature", type=float, metavar="T", help="Of the KL. Default: 10, as DM-KD.")
@click.option("--temperature-end", type=float, metavar="T", help="Let the temperature fall to this. Default: it stays.")
@click.option(
    "--dkd-alpha", type=float, metavar="X", help="Of dkd: weight of the target class. Default: 1, as its authors."
)
@click.option(
    "--dkd-beta",
    type=float,
    metavar="X",
    help="Of dkd: weight of the other classes. Its authors: 8 on CIFAR-100 at T=4, 0.5 on ImageNet at T=1. Default: 8.",
)
@click.option(
    "--hard-weight", type=float, metavar="W", help="Share of the class asked for in the loss, 0 to 1. Default: 0."
)
@click.option("--label-smoothing", type=float, metavar="X", help="Of the class asked for. Default: 0.")
@click.option("--feature-weight", type=float, metavar="W", help="Of the features' squared error (codec features).")
@click.option("--epochs", type=int, metavar="N", help="Default: 100 for ImageNet-sized images.")
@click.option(
    "--batch-size", type=int, metavar="N", help="Of a step, all workers together. Default: 256, or 128 if small."
)
@click.option("--accumulate", type=int, metavar="N", help="Run each batch in N parts, to save memory. Default: 1.")
@click.option("--optimizer", metavar="NAME", help="sgd (plain momentum 0.9), adamw, or any name that timm.optim knows.")
@click.option("--lr", type=float, metavar="X", help="Learning rate at the start.")
@click.option("--weight-decay", type=float, metavar="X")
@click.option("--clip-grad", type=float, metavar="NORM", help="Cut the gradient's norm to this. Default: no.")
@click.option("--schedule", metavar="NAME", help="step, cosine, linear, poly (power 0.9) or constant.")
@click.option("--warmup-epochs", type=int, metavar="N")
@click.option(
    "--ema", type=float, metavar="DECAY", help="The student is the moving average of the weights, say 0.9999."
)
@click.option("--seed", type=int, metavar="N", help="Of the weights and of the order. Default: 0.")
@click.option(
    "--val",
    metavar="DATA",
    help="Real images to measure on: a folder of class folders, WebDataset tars, a store, or digits.",
)
@click.option(
    "--evaluate-every", type=int, default=1, show_default=True, metavar="N", help="Epochs between measurements."
)
@click.option(
    "--data-workers", type=int, default=0, metavar="N", help="Processes that decode the images to measure on."
)
@click.option("--out", metavar="FOLDER", help="Default: students/STORE-STUDENT-LABELS.")
@click.option(
    "--checkpoint-every",
    type=float,
    default=10.0,
    show_default=True,
    metavar="MINUTES",
    help="Between checkpoints within an epoch; each epoch ends with one.",
)
@click.option("--amp", metavar="KIND", help="bfloat16, float16 or off. Default: bfloat16 on a GPU, off on a CPU.")
@click.option(
    "--channels-last/--no-channels-last", default=None, help="Memory layout. Default: channels last on a GPU."
)
@click.option("--compile", "compile_student", is_flag=True, help="Compile the student with torch.compile.")
@click.option("--workers", type=int, default=1, show_default=True, metavar="N", help="Processes, one a GPU.")
@click.option("--sync-bn", is_flag=True, default=None, help="Batch statistics of all workers together (GPUs).")
@device_option
@json_option
def command(
    store: str | None,
    student_args: tuple[str, ...],
    preset: str | None,
    val: str | None,
    evaluate_every: int,
    data_workers: int,
    out: str | None,
    checkpoint_every: float,
    amp: str | None,
    channels_last: bool | None,
    compile_student: bool,
    workers: int,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a student on a store's files alone: images, stored views and stored logits. No teacher runs.

    What is not said is chosen to fit the store and printed. Stopped at any moment, the same command goes on.

    The folder holds student (the last epoch's), best (chosen on the --val images, so its accuracy on them flatters), the
    curves and summary.json.

    \b
    Examples:
      dmkd train-student
      dmkd train-student --student resnet50 --labels resnet34 --val /data/imagenet/val --workers 8
      dmkd train-student --optimizer adamw --schedule cosine --epochs 300 --temperature 20
      dmkd train-student --preset cutmix-t20 --labels resnet34,resnet18
      dmkd train-student --temperature 20 --temperature-end 2 --select "entropy<2.5 and agree"
      dmkd train-student --student wrn_16_2 --loss dkd --dkd-beta 8 --temperature 4
      dmkd train-student --student vit_small_patch16_224 --student-arg drop_path_rate=0.1 --ema 0.9999 --clip-grad 1
      dmkd train-student --loss hard                                  the same images, without a teacher
    """
    from dmkd.devices import choose_device
    from dmkd.execution import Execution
    from dmkd.stores import open_store
    from dmkd.training_recipe import parse_labels, parse_student_args, resolve_training

    from .display import make_display
    from .training import check_workers, leads, print_recipe, print_result, train_with_progress

    execution = Execution(amp, channels_last, compile_student, checkpoint_every, evaluate_every, data_workers)
    chosen = choose_device(device)
    check_workers(workers, chosen)
    opened = open_store(find_store(store))
    options["student_args"] = parse_student_args(student_args) or None
    preset, recipe = resolve_training(opened, options, preset)
    stem = Path(opened.path.rstrip("/")).stem
    labels = "hard" if recipe.labels is None else "+".join(parse_labels(recipe.labels))
    folder = Path(out or f"students/{stem}-{recipe.student}-{labels}")
    display = make_display()
    if not as_json and leads():
        print_recipe(preset, recipe, opened, folder)
    if val is None and opened.recipe.get("generator") == "digits":
        val = "digits"
    summary = train_with_progress(recipe, opened, folder, chosen, val, display, execution=execution, workers=workers)
    if not leads():
        return
    if as_json:
        click.echo(json.dumps(summary))
    else:
        print_result(summary)
