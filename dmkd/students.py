"""Students: timm models made from scratch, and saved so that timm and ``load_classifier`` can load them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dmkd.classifiers import nearest_names
from dmkd.stores.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def create_student(architecture: str, num_classes: int, image_size: int) -> torch.nn.Module:
    """A timm model with random weights. Raises ``UsageError`` for an unknown name, with the nearest ones."""
    import timm

    if not timm.is_model(architecture):
        near = nearest_names(architecture, timm.list_models())
        raise UsageError(f"There is no student architecture {architecture!r}{near or '; see timm.list_models()'}")
    model = timm.create_model(architecture, num_classes=num_classes)
    config: Any = model.pretrained_cfg
    if config.get("fixed_input_size"):  # transformers are built for one image size
        model = timm.create_model(architecture, num_classes=num_classes, img_size=image_size)
    return model


def save_student(
    folder: Path, model: torch.nn.Module, architecture: str, class_names: list[str], preprocessing: dict[str, Any]
) -> None:
    """Write ``config.json`` and ``model.safetensors``, timm's local-dir format.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it; so does ``load_state_dict`` with the weights
    alone. ``preprocessing`` has input_size, interpolation, crop_pct, crop_mode, mean and std.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = preprocessing["input_size"]
    built: Any = model.pretrained_cfg
    fixed = bool(built.get("fixed_input_size"))
    config = {
        "architecture": architecture,
        "num_classes": len(class_names),
        "label_names": class_names,
        "model_args": {"img_size": size} if fixed else {},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, size, size],
            "fixed_input_size": fixed,
            "interpolation": preprocessing["interpolation"],
            "crop_pct": preprocessing["crop_pct"],
            "crop_mode": preprocessing["crop_mode"],
            "mean": list(preprocessing["mean"]),
            "std": list(preprocessing["std"]),
            "num_classes": len(class_names),
            "first_conv": built.get("first_conv"),
            "classifier": built.get("classifier"),
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
