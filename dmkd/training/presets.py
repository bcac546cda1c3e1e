"""Training options by name: schedules, optimisers, and whole recipes that are in print. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Any

SCHEDULES = ("step", "cosine", "linear", "poly", "constant")

# Learning rate and weight decay of optimisers that are not SGD, where none is given. Of others the rate must be given.
OPTIMIZER_DEFAULTS = {"adamw": (1e-3, 0.01)}
SGD_LIKE = ("sgd", "momentum", "nesterov")  # the presets' rate of 0.1 is theirs

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

# After SRe2L, CDA and RDED (CutMix seen by the teacher, T = 20, AdamW, cosine, 300 epochs), to be used with views such as
# rrc:50+cutmix. In print at 200 images a class, RN18 teacher and student: CDA 63.3 %. SRe2L's released script differs: batches
# of 1,024, their gradient summed over 2 parts (--batch-size 1024 --accumulate 2), and T² commented out, so that its gradients
# are 400 times smaller, which AdamW hides but for its epsilon.
CUTMIX_T20: dict[str, Any] = {
    **DM_KD,
    "temperature": 20.0,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "epochs": 300,
}


# Images of CIFAR's size: DM-KD's argparse defaults for CIFAR-100 (240 epochs, lr down at 150, 180 and 210), but for T, which
# is 10 here as on ImageNet.
DM_KD_SMALL = {
    **DM_KD,
    "weight_decay": 5e-4,
    "milestones": (0.625, 0.75, 0.875),
    "epochs": 240,
    "batch_size": 128,
}

# All of these defaults, to be used with pad:8 (RandomCrop(32, padding=4) and flip). The T of the paper's own runs is not in
# print; 4 is also RepDistiller's and mdistiller's, whose KD has lr 0.05, batch 64 and 0.1 of hard labels.
DM_KD_CIFAR = {**DM_KD_SMALL, "temperature": 4.0}


def schedule_for(generator: str | None, image_size: int) -> tuple[str, dict[str, Any]]:
    """The name and the values of the schedule that suits images of this size, of this generator."""
    from dmkd import digits

    if generator in digits.GENERATORS:
        return "digits", {**DM_KD, **digits.defaults()["training"]}
    if image_size < 96:
        return "dm-kd, small images", DM_KD_SMALL
    return "dm-kd", DM_KD


@dataclass(frozen=True)
class Preset:
    """``views``: such as its results were obtained with, as ``dmkd label --views`` makes them, where others won't do."""

    values: dict[str, Any]
    views: str | None = None


PRESETS = {
    "dm-kd": Preset(DM_KD),
    "cutmix-t20": Preset(CUTMIX_T20, views="rrc:50+cutmix"),
    "dm-kd-cifar": Preset(DM_KD_CIFAR, views="pad:8"),
}
