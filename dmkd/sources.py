"""Names of generators: ``digits`` is the bundled one, everything else is a folder or a hub id."""

from pathlib import Path
from typing import Any

from dmkd import digits

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


def generator_source(name: str) -> str:
    """Where the weights of a generator are: a folder (its whole path) or a hub id."""
    if name == "digits":
        return str(digits.PIPELINE)
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def generator_defaults(name: str) -> dict[str, Any]:
    """What a store of this generator is made with, where nothing else is said."""
    return {**DM_KD_DEFAULTS, **digits.defaults()} if name == "digits" else DM_KD_DEFAULTS
