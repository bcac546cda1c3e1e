"""Students: timm models made from scratch, and saved so that timm and ``load_classifier`` can load them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import dmkd.cifar_models  # noqa: F401  # with it timm knows these models, wherever one is created
from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.sources.timm_weights import pretrained_model
from dmkd.runtime.failures import named_line
from dmkd.runtime.spelling import nearest_names
from dmkd.runtime.whole_files import write_file
from dmkd.stores.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_architecture(architecture: str) -> None:
    """Raise ``UsageError`` for an unknown name, with the nearest ones."""
    import timm

    if not timm.is_model(architecture):
        near = nearest_names(architecture, timm.list_models())
        raise UsageError(f"There is no student architecture {architecture!r}{near or '; see timm.list_models()'}")


def create_student(
    architecture: str,
    num_classes: int,
    image_size: int,
    pretrained: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> torch.nn.Module:
    """A timm model with random weights, or with timm's pretrained ones and a new last layer.

    ``arguments`` go to timm's ``create_model``. Raises ``UsageError`` for an unknown name, with the nearest ones, and for
    arguments that the architecture does not take; ``DmkdError`` if pretrained weights can't be had.
    """
    import timm

    check_architecture(architecture)
    given = {"num_classes": num_classes, **(arguments or {})}
    if given["num_classes"] != num_classes:
        raise UsageError(f"--student-arg num_classes: the store has {num_classes} classes, and so has its student.")
    fixed = timm.get_pretrained_cfg_value(architecture, "fixed_input_size")
    if fixed:  # transformers are built for one image size
        given["img_size"] = given.get("img_size", image_size)
    try:
        model = timm.create_model(architecture, **given)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        asked = ", ".join(f"{key}={value}" for key, value in (arguments or {}).items()) or f"img_size={image_size}"
        raise UsageError(f"{architecture} can't be built with {asked}: {named_line(error)}.") from error
    if pretrained:
        with torch.random.fork_rng(devices=[]):  # what is drawn here does not depend on what the cache holds
            return pretrained_model(architecture, architecture, **given)
    return model


def preprocessing_of(
    view_attributes: Mapping[str, Any], model: torch.nn.Module | None = None, pretrained: bool = False
) -> dict[str, Any]:
    """How a student that learns from a view set is fed: its size, its interpolation, its canonical view.

    Normalised as ImageNet's images are, or as the pretrained weights that it begins with were trained.
    """
    built: Any = model.pretrained_cfg if model is not None and pretrained else {}
    return {
        "input_size": view_attributes["size"],
        "interpolation": view_attributes["interpolation"],
        "crop_pct": view_attributes["crop_pct"],
        "crop_mode": view_attributes["crop_mode"],
        "mean": tuple(built.get("mean", IMAGENET_MEAN)),
        "std": tuple(built.get("std", IMAGENET_STD)),
    }


def as_classifier(
    model: torch.nn.Module,
    architecture: str,
    class_names: list[str],
    preprocessing: Mapping[str, Any],
    wnids: Sequence[str] | None = None,
) -> Classifier:
    """A student as the classifier that it is to be, before it is trained or saved: for checks, so without a sha256."""
    return Classifier(
        name=architecture,
        source=architecture,
        architecture=architecture,
        model=model,
        num_classes=len(class_names),
        class_names=class_names,
        fixed_input_size=False,
        sha256="",
        wnids=None if wnids is None else list(wnids),
        **preprocessing,
    )


def save_student(
    folder: Path,
    model: torch.nn.Module,
    architecture: str,
    class_names: list[str],
    preprocessing: dict[str, Any],
    arguments: Mapping[str, Any] | None = None,
    wnids: Sequence[str] | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors``, timm's local-dir format, each file whole.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it; so does ``load_state_dict`` with the weights
    alone. ``preprocessing`` has input_size, interpolation, crop_pct, crop_mode, mean and std; ``arguments`` are those
    that the model was created with; ``wnids`` the classes' WordNet ids, if they are known. Raises ``StoreWriteError`` if
    the disk fails.
    """
    size = preprocessing["input_size"]
    built: Any = model.pretrained_cfg
    fixed = bool(built.get("fixed_input_size"))
    config = {
        "architecture": architecture.split(".")[0],
        "num_classes": len(class_names),
        "label_names": class_names,
        **({"label_wnids": list(wnids)} if wnids is not None else {}),
        "model_args": {**({"img_size": size} if fixed else {}), **(arguments or {})},
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
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    write_file(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    write_file(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
