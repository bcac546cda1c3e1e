"""What determines a student: its architecture, the labels it learns from, and the schedule."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from dmkd import digits
from dmkd.stores import Store, UsageError

LOSSES = ("kl", "hard")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "cosine")


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that determines a student, given a store."""

    student: str  # timm architecture
    labels: str | None  # label set; None: class ids alone
    view_set: str  # views that the student sees, those of the labels
    loss: str  # "kl": stored logits at a temperature; "hard": cross-entropy with the class asked for
    temperature: float
    optimizer: str
    lr: float
    momentum: float  # of SGD
    weight_decay: float
    schedule: str
    milestones: tuple[float, ...]  # of the step schedule: shares of the epochs at which lr falls tenfold
    warmup_epochs: int
    epochs: int
    batch_size: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "milestones": list(self.milestones)}


# DM-KD's released ImageNet script: KL at T = 10 alone, SGD, 100 epochs, lr tenfold down at 30, 60 and 90, batch 256.
DM_KD = {
    "student": "resnet18",
    "loss": "kl",
    "temperature": 10.0,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (0.3, 0.6, 0.9),
    "warmup_epochs": 0,
    "epochs": 100,
    "batch_size": 256,
}

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
        return "DM-KD, small images", DM_KD_SMALL
    return "DM-KD", DM_KD


def resolve_training(store: Store, given: dict[str, Any]) -> tuple[str, TrainingRecipe]:
    """Options that were given (``None`` = not) over the defaults that suit the store -> preset's name and recipe."""
    preset, values = defaults_for(store)
    values = {**values, "seed": 0, **{key: value for key, value in given.items() if value is not None}}
    if values.get("optimizer") == "adamw" and given.get("lr") is None and values["lr"] > 0.01:
        values = {**values, "lr": 1e-3, "weight_decay": given.get("weight_decay") or 0.01}
    for key, known in (("loss", LOSSES), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        if values[key] not in known:
            raise UsageError(f"--{key} must be one of {', '.join(known)}, not {values[key]!r}.")
    for key in ("temperature", "lr", "epochs", "batch_size"):
        if not values[key] > 0:
            raise UsageError(f"--{key.replace('_', '-')} must be greater than 0, not {values[key]}.")
    values["labels"], values["view_set"] = _choose_labels(store, values)
    return preset, TrainingRecipe(**{**values, "milestones": tuple(values["milestones"])})


def _choose_labels(store: Store, values: dict[str, Any]) -> tuple[str | None, str]:
    label_sets, views = store.labels, store.views
    if values["loss"] == "hard":
        view_set = values.get("view_set") or next(iter(views), None)
        if view_set not in views:
            raise UsageError(f"{store.path} has no view set {view_set!r}; it has {', '.join(views) or 'none'}.")
        return None, view_set
    wanted = values.get("labels")
    if wanted is None and len(label_sets) == 1:
        wanted = next(iter(label_sets))
    if not label_sets:
        raise UsageError(f"{store.path} has no labels yet: run `dmkd label --teacher NAME`, or train with --loss hard.")
    if wanted is None:
        raise UsageError(f"{store.path} has several label sets: choose one with --labels ({', '.join(label_sets)}).")
    if wanted not in label_sets:
        raise UsageError(f"{store.path} has no label set {wanted!r}; it has {', '.join(label_sets)}.")
    return wanted, label_sets[wanted].view_set
