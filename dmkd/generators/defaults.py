"""The defaults of stores, by what makes their images."""

from collections.abc import Sequence
from typing import Any

from dmkd.generators.samplers import OWN_SCHEDULER
from dmkd.recipes.class_list import NUM_IMAGENET
from dmkd.recipes.class_names import IMAGENET, class_names_from

BUNDLED = "digits"
DEFAULT_GENERATOR = "facebook/DiT-XL-2-256"
DIT_CHECKPOINT = "dit:"  # before a file of DiT's own code

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


def defaults_for_classes(class_names: Sequence[str]) -> dict[str, Any]:
    """DM-KD's defaults where classes are any: as many images of each as DM-KD made, and a teacher that knows them."""
    per_class = DM_KD_DEFAULTS["images"] // NUM_IMAGENET
    return {**DM_KD_DEFAULTS, "images": per_class * len(class_names), "teacher": teacher_of(class_names)}


def text_to_image_defaults(steps: int, guidance: float, class_names: Sequence[str]) -> dict[str, Any]:
    """The defaults of a text-to-image generator, given those of its pipeline or checkpoint: ``steps`` and ``guidance``."""
    own = {"sampler": OWN_SCHEDULER, "steps": steps, "guidance": guidance}
    return {**defaults_for_classes(class_names), **own}


def teacher_of(class_names: Sequence[str]) -> str:
    """The default teacher for classes given by the user: DM-KD's for ImageNet's, else ``none``."""
    imagenet = len(class_names) == NUM_IMAGENET and tuple(class_names) == class_names_from(IMAGENET)
    return DM_KD_DEFAULTS["teacher"] if imagenet else "none"


def cpu_sub_batch(image_size: int) -> int:
    """Images sampled at once on a CPU, where they may be large: by pixels, and a power of two, as blocks are."""
    most = max(1, 8 * 256**2 // image_size**2)
    return 1 << (most.bit_length() - 1)
