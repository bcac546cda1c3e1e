"""The teachers: small timm classifiers of real digits, of three families and two strengths."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from dmkd.digits.augment import jitter

BATCH = 64
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class TeacherPlan:
    """One teacher: timm model, arguments, the training images it may see (None: all), steps, and its normalisation."""

    model: str
    model_args: dict
    images: int | None
    steps: int
    learning_rate: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    seed: int


# The normalisations differ on purpose: feeding all teachers the same numbers shows up in the accuracies.
PLANS = {
    "digits-resnet": TeacherPlan("test_resnet", {}, None, 1400, 2e-3, IMAGENET_MEAN, IMAGENET_STD, 301),
    "digits-vit": TeacherPlan("test_vit", {"img_size": 32, "patch_size": 8}, None, 1000, 1e-3, HALF, HALF, 302),
    "digits-weak": TeacherPlan("test_efficientnet", {}, 120, 250, 2e-3, IMAGENET_MEAN, IMAGENET_STD, 303),
}


def normalize(pixels: torch.Tensor, mean: tuple, std: tuple) -> torch.Tensor:
    """float32 (n, 3, h, w) in [-1, 1] -> the same, minus mean over std, both in units of [0, 1]."""
    return ((pixels + 1) / 2 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def train_teacher(plan: TeacherPlan, pixels: torch.Tensor, class_ids: torch.Tensor, log=print):
    """Train one teacher with cross-entropy on pixels, float32 (n, 3, 32, 32) in [-1, 1], and class ids, int64 (n,).

    The jitter zooms by up to a quarter, so that the teacher knows what a random-resized crop looks like.
    """
    import timm

    torch.manual_seed(plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    if plan.images is not None:
        chosen = torch.randperm(len(pixels), generator=generator)[: plan.images]
        pixels, class_ids = pixels[chosen], class_ids[chosen]
    model = timm.create_model(plan.model, num_classes=10, **plan.model_args).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, plan.steps, pct_start=0.1)
    for step in range(plan.steps):
        rows = torch.randint(len(pixels), (BATCH,), generator=generator)
        views = jitter(pixels[rows], generator, degrees=8.0, scale=0.25, shift=3.0)
        loss = F.cross_entropy(model(normalize(views, plan.mean, plan.std)), class_ids[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == plan.steps - 1:
            log(f"{plan.model} step {step}: loss {loss.item():.4f}")
    return model.eval().requires_grad_(False)


def save_teacher(model, plan: TeacherPlan, folder: Path) -> None:
    """Write the folder that ``timm.create_model("local-dir:<folder>", pretrained=True)`` reads; weights in float16."""
    from timm.models import save_for_hf

    save_for_hf(
        model.half(),
        str(folder),
        safe_serialization=True,
        model_config={
            "label_names": [str(digit) for digit in range(10)],
            "pretrained_cfg": {"tag": "digits", "license": None},
        },
        data_config={
            "input_size": (3, 32, 32),
            "mean": plan.mean,
            "std": plan.std,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        },
    )
