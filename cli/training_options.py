"""Options of a training run that ``train-student`` and ``compare`` share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dmkd.training.execution import AMP
from dmkd.training.loss_table import HARD_LABELS, LOSSES
from dmkd.training.presets import OPTIMIZER_DEFAULTS, PRESETS, SCHEDULES

from .completion import ListingOption, folders, words
from .help import MAIN, RUN, heading

if TYPE_CHECKING:
    from dmkd.training.execution import Execution


def _trackers() -> list[str]:
    from dmkd.training.trackers import TRACKERS

    return list(TRACKERS)


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What determines a student beside its architecture, its labels and its seed: for ``resolve_training``."""
    for option in reversed(
        (
            heading("Student"),
            click.option(
                "--student-arg",
                "student_args",
                multiple=True,
                metavar="KEY=VALUE",
                help="Passed to timm's create_model, such as drop_path_rate=0.1. May be repeated.",
            ),
            click.option("--pretrained", is_flag=True, default=None, help="Start from timm's pretrained weights."),
            click.option(
                "--start-from",
                shell_complete=folders,
                metavar="FOLDER",
                help="Start from the weights of another student of this architecture: its folder, or its run's.",
            ),
            heading(MAIN),
            click.option(
                "--preset",
                shell_complete=words(*PRESETS),
                metavar="NAME",
                help=f"Recipe that supplies the defaults: {' or '.join(PRESETS)}. Default: dm-kd, adapted to the image size.",
            ),
            click.option(
                "--size",
                type=int,
                metavar="PIXELS",
                help="Height and width at which the student sees the views. Default: as the teacher saw them, or the images' "
                "own size if that is less than half.",
            ),
            click.option(
                "--select", metavar="RULE", help='Images to use, such as "entropy<2.5 and agree". Default: all.'
            ),
            heading("Loss"),
            click.option(
                "--loss",
                cls=ListingOption,
                listing=lambda: ", ".join(f"{name} ({loss.help})" for name, loss in LOSSES.items()),
                shell_complete=words(later=lambda: LOSSES),
                metavar="KIND",
                help="{}. Default: kl.",
            ),
            click.option(
                "--temperature",
                cls=ListingOption,
                listing=lambda: "; ".join(
                    f"{name}: {loss.temperature:g}" for name, loss in LOSSES.items() if loss.temperature
                ),
                type=float,
                metavar="T",
                help="Temperature of both softmaxes in the loss. Default: 10; cutmix-t20: 20; dm-kd-cifar: 4; {}.",
            ),
            click.option(
                "--temperature-end",
                type=float,
                metavar="T",
                help="Lower the temperature to this by the end of the run. Default: constant.",
            ),
            *(
                click.option(
                    f"--{name}-{word}",
                    type=float,
                    metavar="X",
                    help=f"With --loss {name}: {option.help} Default: {option.default:g}.",
                )
                for name, loss in LOSSES.items()
                for word, option in loss.options.items()
            ),
            click.option(
                "--hard-weight",
                type=float,
                metavar="W",
                help="Weight of a hard label's cross-entropy beside the loss, 0 to 1. Default: 0.",
            ),
            click.option(
                "--hard-weight-end",
                type=float,
                metavar="W",
                help="Move that weight to this by the end of the run: 0 to learn from soft labels last, 1 from hard ones. "
                "Default: constant.",
            ),
            click.option(
                "--hard-labels",
                shell_complete=words(*HARD_LABELS),
                metavar="WHOSE",
                help="Whose class the hard label is: asked (the class asked for) or argmax (the teacher's likeliest). "
                "Default: asked.",
            ),
            click.option("--label-smoothing", type=float, metavar="X", help="Smoothing of hard labels. Default: 0."),
            click.option(
                "--feature-weight",
                type=float,
                metavar="W",
                help="Weight of the features' squared error; needs labels with --codec features. Default: 0.",
            ),
            heading(MAIN),
            click.option(
                "--epochs",
                type=int,
                metavar="N",
                help="How often each image is seen. Default: 100; 240 for images below 96 pixels; cutmix-t20: 300. More "
                "epochs than a finished run had continue it.",
            ),
            click.option(
                "--updates",
                type=int,
                metavar="N",
                help="Exact number of optimiser steps, instead of --epochs: the same for any number of images.",
            ),
            heading("Optimisation"),
            click.option(
                "--batch-size",
                type=int,
                metavar="N",
                help="Images per optimiser step, over all workers. Default: 256; 128 for images below 96 pixels.",
            ),
            click.option(
                "--accumulate", type=int, metavar="N", help="Split each batch into N parts to save memory. Default: 1."
            ),
            click.option(
                "--optimizer",
                shell_complete=words("sgd", *OPTIMIZER_DEFAULTS),
                metavar="NAME",
                help="sgd (plain momentum 0.9), adamw, or any name that timm.optim knows. Default: sgd; cutmix-t20: adamw.",
            ),
            click.option(
                "--lr", type=float, metavar="X", help="Highest learning rate. Default: 0.1 for sgd, 0.001 for adamw."
            ),
            click.option(
                "--weight-decay",
                type=float,
                metavar="X",
                help="Default: 1e-4 for sgd, 5e-4 for images below 96 pixels; 0.01 for adamw.",
            ),
            click.option(
                "--clip-grad", type=float, metavar="NORM", help="Clip the gradient to this norm. Default: no clipping."
            ),
            click.option(
                "--schedule",
                shell_complete=words(*SCHEDULES),
                metavar="NAME",
                help="Learning-rate schedule: step, cosine, linear, poly (power 0.9) or constant. Default: step; cutmix-t20: "
                "cosine.",
            ),
            click.option(
                "--warmup-epochs",
                type=int,
                metavar="N",
                help="Epochs in which the learning rate rises. Default: 0; "
                "digits: 2 of 22, and the same share of a shorter run.",
            ),
            click.option(
                "--ema",
                type=float,
                metavar="DECAY",
                help="Save a moving average of the weights with this decay, such as 0.9999, as the student. It is warmed "
                "up: after t optimiser steps the decay is at most 1 - (1 + t)^(-2/3), which is 0.9995 after 80,000 "
                "steps and 0.9999 after a million. Default: the weights themselves.",
            ),
        )
    ):
        function = option(function)
    return function


def take_training(options: dict[str, Any], *without: str) -> dict[str, Any]:
    """Take the values of :func:`training_options`, but for those ``without``, out of a command's."""
    names = [option.name for option in training_options(lambda: None).__click_params__]  # type: ignore[attr-defined]
    return {name: options.pop(name) for name in names if name not in without}


def execution_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """How a run is carried out: for :func:`take_execution`."""
    for option in reversed(
        (
            heading(RUN),
            click.option(
                "--evaluate-every",
                type=int,
                default=1,
                show_default=True,
                metavar="N",
                help="Measure on the --val images every N epochs.",
            ),
            click.option(
                "--data-workers",
                type=int,
                metavar="N",
                help="Threads that decode the images to measure on, once. Default: one a core, at most 8.",
            ),
            click.option(
                "--memory",
                type=float,
                metavar="GIB",
                help="Of the store that each worker may hold. Default: 4. Compressed and remote images are mixed in windows of "
                "a quarter of it.",
            ),
            click.option(
                "--cache",
                type=click.Path(file_okay=False),
                metavar="DIR",
                help="Keep what is read of stores in buckets, and of compressed ones, in this folder on a local disk: from the "
                "second epoch on nothing is downloaded or decompressed.",
            ),
            click.option(
                "--cache-gb",
                type=float,
                metavar="GB",
                help="Size of the cache at most, other runs' and stores' included. Default: most of what is free on its disk.",
            ),
            click.option(
                "--log",
                cls=ListingOption,
                multiple=True,
                shell_complete=words(later=_trackers),
                listing=lambda: ", ".join(_trackers()),
                metavar="TOOL",
                help="Keep the curves there as well: {}; may be repeated. Default: metrics.jsonl and TensorBoard's file alone.",
            ),
            click.option(
                "--checkpoint-every",
                type=float,
                default=10.0,
                show_default=True,
                metavar="MINUTES",
                help="Minutes between checkpoints; each epoch also ends with one.",
            ),
            click.option(
                "--amp",
                shell_complete=words(*AMP),
                metavar="KIND",
                help="Arithmetic of the student: bfloat16, float16, tf32 or off (float32). Default: bfloat16 on a GPU, else off.",
            ),
            click.option(
                "--channels-last/--no-channels-last",
                default=None,
                help="Memory layout. Default: channels last on a GPU.",
            ),
            click.option(
                "--compile",
                "compile_student",
                is_flag=True,
                help="Run the student through torch.compile: minutes to start, then faster.",
            ),
        )
    ):
        function = option(function)
    return function


def take_execution(options: dict[str, Any], group: str | None = None) -> "Execution":
    """Take the values of :func:`execution_options` out of a command's, whose runs are the ``group`` if there are several."""
    from dmkd.training.execution import Execution

    return Execution(
        options.pop("amp"),
        options.pop("channels_last"),
        options.pop("compile_student", False),
        options.pop("checkpoint_every"),
        options.pop("evaluate_every"),
        options.pop("data_workers"),
        options.pop("memory"),
        options.pop("cache"),
        options.pop("cache_gb"),
        options.pop("log"),
        group,
    )
