"""Which generator a user means, where its weights are, and the defaults of its stores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmkd import digits
from dmkd.generators.samplers import OWN_SCHEDULER
from dmkd.recipes.class_names import IMAGENET, class_names_from

BUNDLED = "digits"
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


@dataclass(frozen=True)
class GeneratorSource:
    """A generator as the user named it, parsed once by :func:`parse_source`."""

    text: str  # as a store records it: digits, a folder's full path or a hub id
    weights: str  # where its weights are: a folder or a hub id
    name: str | None  # of the bundled one; None: the name of its folder or repository
    defaults: Mapping[str, Any]  # what a store of it is made with unless options say otherwise


def parse_source(text: str) -> GeneratorSource:
    """``digits``, a folder or a hub id."""
    if text == BUNDLED:
        return GeneratorSource(BUNDLED, str(digits.PIPELINE), BUNDLED, {**DM_KD_DEFAULTS, **digits.defaults()})
    folder = Path(text).expanduser()
    place = str(folder.resolve()) if folder.is_dir() else text
    return GeneratorSource(place, place, None, DM_KD_DEFAULTS)


def source_defaults(text: str | None) -> Mapping[str, Any]:
    """The defaults of a source as a store records it; None: no generator made it."""
    return DM_KD_DEFAULTS if text is None else parse_source(text).defaults


def text_to_image_defaults(steps: int, guidance: float, class_names: Sequence[str]) -> dict[str, Any]:
    """The defaults of a text-to-image generator, given those of its pipeline or checkpoint: ``steps`` and ``guidance``.

    As many images of each class as DM-KD made.
    """
    per_class = DM_KD_DEFAULTS["images"] // 1000
    return {
        **DM_KD_DEFAULTS,
        "sampler": OWN_SCHEDULER,
        "steps": steps,
        "guidance": guidance,
        "images": per_class * len(class_names),
        "teacher": teacher_of(class_names),
    }


def teacher_of(class_names: Sequence[str]) -> str:
    """The default teacher for classes given by the user: DM-KD's for ImageNet's, else ``none``."""
    return DM_KD_DEFAULTS["teacher"] if tuple(class_names) == class_names_from(IMAGENET) else "none"
