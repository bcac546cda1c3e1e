"""What determines a student: its architecture, the labels it learns from, and the schedule."""

import ast
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmkd import digits
from dmkd.recipes.label_choice import parse_labels
from dmkd.recipes.selection import parse_selection
from dmkd.stores import Store, UsageError

LOSSES = ("kl", "dkd", "hard")
SCHEDULES = ("step", "cosine", "linear", "poly", "constant")

# Learning rate and weight decay of optimisers that are not SGD, where none is given. Others must be told theirs.
OPTIMIZER_DEFAULTS = {"adamw": (1e-3, 0.01)}
SGD_LIKE = ("sgd", "momentum", "nesterov")  # the presets' rate of 0.1 is theirs


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that determines a student, given a store."""

    student: str  # timm architecture
    student_args: dict[str, Any]  # what timm's create_model is told beside the name, such as drop_path_rate
    pretrained: bool  # begin with timm's pretrained weights
    labels: str | None  # label sets, "resnet34" or "resnet34=2,resnet18=1"; None: class ids alone
    view_set: str  # views that the student sees, those of the labels
    select: str | None  # which images, by their ids or the first teacher's opinion of them; None: all
    loss: str  # "kl": stored logits at a temperature; "dkd": the same, decoupled; "hard": the class asked for
    temperature: float
    temperature_end: float | None  # the temperature falls to this over the run; None: it stays
    hard_weight: float  # share of the cross-entropy with the class asked for, in [0, 1]
    feature_weight: float  # of the squared error of the features, where the labels hold features
    dkd_alpha: float  # of decoupled KD: weight of the target class against all others
    dkd_beta: float  # of decoupled KD: weight of the other classes among themselves
    label_smoothing: float  # of the cross-entropy with the class asked for, in [0, 1)
    optimizer: str  # sgd is plain momentum; else a name that timm.optim knows
    lr: float
    momentum: float  # of SGD
    weight_decay: float
    schedule: str
    milestones: tuple[float, ...]  # of the step schedule: shares of the epochs at which lr falls tenfold
    warmup_epochs: int
    epochs: int
    batch_size: int  # images an optimiser step, of all workers together
    accumulate: int  # parts that a worker's share of a batch is run in, one after another
    clip_grad: float | None  # the gradient's norm is cut to this; None: it is not
    ema: float | None  # the student is the moving average of the weights with this decay; None: the weights themselves
    sync_bn: bool  # batch statistics of all workers together
    seed: int

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "milestones": list(self.milestones)}


# DM-KD's released ImageNet script (Li et al. 2023): KL at T = 10 alone, SGD, 100 epochs, lr tenfold down at 30, 60 and 90,
# batch 256, random resized crops. In print, RN18 teacher and 200 epochs: 200,000 images RN18 61.6 %, RN50 68.6 %.
DM_KD: dict[str, Any] = {
    "student": "resnet18",
    "student_args": {},
    "pretrained": False,
    "loss": "kl",
    "temperature": 10.0,
    "temperature_end": None,
    "hard_weight": 0.0,
    "feature_weight": 0.0,
    "dkd_alpha": 1.0,
    "dkd_beta": 8.0,
    "label_smoothing": 0.0,
    "select": None,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (0.3, 0.6, 0.9),
    "warmup_epochs": 0,
    "epochs": 100,
    "batch_size": 256,
    "accumulate": 1,
    "clip_grad": None,
    "ema": None,
    "sync_bn": False,
}

# The recipe of SRe2L, CDA and RDED (CutMix seen by the teacher, T = 20, AdamW, cosine, 300 epochs), to be used with views
# such as rrc:50+cutmix. In print at 200 images a class, RN18 teacher and student: CDA 63.3 %.
CUTMIX_T20: dict[str, Any] = {
    **DM_KD,
    "temperature": 20.0,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "epochs": 300,
}

PRESETS = {"dm-kd": DM_KD, "cutmix-t20": CUTMIX_T20}

# Images of CIFAR's size: DM-KD's argparse defaults for CIFAR-100 (240 epochs, lr down at 150, 180 and 210).
DM_KD_SMALL = {
    **DM_KD,
    "weight_decay": 5e-4,
    "milestones": (0.625, 0.75, 0.875),
    "epochs": 240,
    "batch_size": 128,
}


def defaults_for(store: Store) -> tuple[str, dict[str, Any]]:
    """The name and the values of the schedule that suits a store's images."""
    if store.recipe.get("generator") == "digits":
        return "digits", {**DM_KD, **digits.defaults()["training"]}
    if max(store.image_shape[:2]) < 96:
        return "dm-kd, small images", DM_KD_SMALL
    return "dm-kd", DM_KD


def resolve_training(store: Store, given: dict[str, Any], preset: str | None = None) -> tuple[str, TrainingRecipe]:
    """Options that were given (``None`` = not) over a preset, or over what suits the store -> preset's name and recipe."""
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"There is no preset {preset!r}; there are {', '.join(PRESETS)}.")
    name, values = (preset, PRESETS[preset]) if preset else defaults_for(store)
    values = {**values, "seed": 0, **{key: value for key, value in given.items() if value is not None}}
    _check(values)
    if values["optimizer"] not in SGD_LIKE and given.get("lr") is None and values["lr"] > 0.01:
        if values["optimizer"] not in OPTIMIZER_DEFAULTS:
            raise UsageError(
                f"--optimizer {values['optimizer']}: say --lr as well; SGD's {values['lr']:g} is not for it."
            )
        lr, weight_decay = OPTIMIZER_DEFAULTS[values["optimizer"]]
        decay = given.get("weight_decay")
        values |= {"lr": lr, "weight_decay": weight_decay if decay is None else decay}
    values["labels"], values["view_set"] = _choose_labels(store, values)
    if "partner" in store.views[values["view_set"]].components and values["loss"] == "dkd":
        raise UsageError("--loss dkd needs one class an image, and the views of these labels mix two: use --loss kl.")
    return name, TrainingRecipe(**{**values, "milestones": tuple(values["milestones"])})


def parse_student_args(pairs: Sequence[str]) -> dict[str, Any]:
    """``["drop_path_rate=0.1", "act_layer=silu"]`` -> arguments of timm's ``create_model``; Python's literals, else text."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--student-arg {pair!r}: write NAME=VALUE, such as drop_path_rate=0.1.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        if not isinstance(value, str | int | float | list | tuple | None):  # it is kept in JSON files
            raise UsageError(f"--student-arg {pair!r}: a value is a number, True, False, None, a list or a word.")
        arguments[key] = list(value) if isinstance(value, tuple) else value
    return arguments


def _check(values: dict[str, Any]) -> None:
    for key, known in (("loss", LOSSES), ("schedule", SCHEDULES)):
        if values[key] not in known:
            raise UsageError(f"--{key} must be one of {', '.join(known)}, not {values[key]!r}.")
    for key in ("temperature", "temperature_end", "lr", "epochs", "batch_size", "accumulate", "clip_grad"):
        if values[key] is not None and not 0 < values[key] < float("inf"):
            raise UsageError(f"--{key.replace('_', '-')} must be greater than 0, not {values[key]}.")
    for key in ("feature_weight", "dkd_alpha", "dkd_beta", "weight_decay", "warmup_epochs"):
        if not 0 <= values[key] < float("inf"):
            raise UsageError(f"--{key.replace('_', '-')} must be 0 or more, not {values[key]}.")
    if values["select"] is not None:
        parse_selection(values["select"])
    if not 0 <= values["hard_weight"] <= 1:
        raise UsageError(f"--hard-weight must be from 0 to 1, not {values['hard_weight']}.")
    if not 0 <= values["label_smoothing"] < 1:
        raise UsageError(f"--label-smoothing must be from 0 to below 1, not {values['label_smoothing']}.")
    if values["label_smoothing"] and values["loss"] != "hard" and not values["hard_weight"]:
        raise UsageError("--label-smoothing is of the class asked for: use it with --loss hard or --hard-weight.")
    if values["ema"] is not None and not 0 < values["ema"] < 1:
        raise UsageError(f"--ema must be a decay between 0 and 1, such as 0.9999, not {values['ema']}.")


def _choose_labels(store: Store, values: dict[str, Any]) -> tuple[str | None, str]:
    label_sets, views = store.labels, store.views
    wanted = values.get("labels")
    select = values["select"]
    opinion = select is not None and parse_selection(select).needs_teacher
    if values["loss"] == "hard" and wanted is None and not opinion:
        view_set = values.get("view_set") or next(iter(views), None)
        if view_set not in views:
            raise UsageError(f"{store.path} has no view set {view_set!r}; it has {', '.join(views) or 'none'}.")
        return None, view_set
    if not label_sets:
        raise UsageError(f"{store.path} has no labels yet: run `dmkd label --teacher NAME`, or train with --loss hard.")
    if wanted is None and len(label_sets) == 1:
        wanted = next(iter(label_sets))
    if wanted is None:
        raise UsageError(f"{store.path} has several label sets: choose with --labels ({', '.join(label_sets)}).")
    names = list(parse_labels(wanted))
    for name in names:
        if name not in label_sets:
            raise UsageError(f"{store.path} has no label set {name!r}; it has {', '.join(label_sets)}.")
    if values["feature_weight"] and any(label_sets[name].codec.input != "features" for name in names[:1]):
        raise UsageError(
            f"--feature-weight needs labels that hold features, and {names[0]!r} does not (--codec features)."
        )
    return wanted, label_sets[names[0]].view_set
