"""Names of generators: ``digits`` is the bundled one, everything else is a folder or a hub id. What they are made with."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dmkd import digits
from dmkd.recipes.class_names import IMAGENET, class_names_from

if TYPE_CHECKING:
    import torch

DEFAULT_GENERATOR = "facebook/DiT-XL-2-256"

# DM-KD's low-fidelity recipe (Li et al. 2023): guidance 2, 100 steps of DiT's ancestral sampler, 200,000 images,
# torchvision's ResNet-18 as the teacher.
DM_KD_DEFAULTS: dict[str, Any] = {
    "sampler": "ddpm",
    "steps": 100,
    "guidance": 2.0,
    "images": 200_000,
    "teacher": "resnet18.tv_in1k",
    "views": "rrc:8",
}


class GeneratorFacts(Protocol):
    """What every generator tells of itself."""

    @property
    def name(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class ImageGenerator(Protocol):
    """What makes images: of n class ids from n seeds, uint8 (n, H, W, 3) on its device."""

    @property
    def info(self) -> GeneratorFacts: ...

    def sample(
        self,
        class_ids: np.ndarray,
        seeds: np.ndarray,
        *,
        sampler: str,
        steps: int,
        guidance: np.ndarray,
        guided_channels: Any,  # int, or None where there is no such choice
        guidance_interval: tuple[float, float] | None,
    ) -> "torch.Tensor": ...


def generator_source(name: str) -> str:
    """Where the weights of a generator are: a folder (its whole path) or a hub id."""
    if name == "digits":
        return str(digits.PIPELINE)
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def generator_defaults(name: str) -> dict[str, Any]:
    """What a store of this generator is made with, where nothing else is said."""
    return {**DM_KD_DEFAULTS, **digits.defaults()} if name == "digits" else DM_KD_DEFAULTS


def text_to_image_defaults(steps: int, guidance: float, class_names: Sequence[str], num_chosen: int) -> dict[str, Any]:
    """As ``generator_defaults`` for a text-to-image generator, whose pipeline has its own ``steps`` and ``guidance``.

    As many images of each of the ``num_chosen`` classes as DM-KD made.
    """
    per_class = DM_KD_DEFAULTS["images"] // 1000
    return {
        **DM_KD_DEFAULTS,
        "sampler": "pipeline",
        "steps": steps,
        "guidance": guidance,
        "images": per_class * num_chosen,
        "teacher": teacher_of(class_names),
    }


def teacher_of(class_names: Sequence[str]) -> str:
    """The default teacher of classes that a generator does not bring itself: DM-KD's for ImageNet's, else ``none``."""
    return DM_KD_DEFAULTS["teacher"] if tuple(class_names) == class_names_from(IMAGENET) else "none"
