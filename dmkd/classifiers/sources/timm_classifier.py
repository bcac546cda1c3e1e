"""A timm model as a classifier: fed as its weights were trained."""

from typing import Any

import torch
from timm.data import resolve_model_data_config

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.sources.kind import ClassifierSource
from dmkd.stores.errors import UsageError


def timm_classifier(meant: ClassifierSource, model: torch.nn.Module, wnids: list[str] | None = None) -> Classifier:
    """What a source's model is as a classifier. Raises ``UsageError`` if it does not take square images."""
    built: Any = model
    pretrained = built.pretrained_cfg
    config = resolve_model_data_config(model)
    _, height, width = config["input_size"]
    if height != width:
        raise UsageError(f"{meant.text} takes {height}x{width} images; dmkd labels square views only.")
    tag = pretrained.get("tag")
    architecture = pretrained["architecture"]
    return Classifier(
        name=meant.name,
        source=meant.text,
        architecture=f"{architecture}.{tag}" if tag else architecture,
        model=model,
        num_classes=built.num_classes,  # its pretrained configuration describes the architecture's own weights
        class_names=pretrained.get("label_names"),
        input_size=height,
        fixed_input_size=bool(pretrained.get("fixed_input_size")),
        interpolation=config["interpolation"],
        crop_pct=float(config["crop_pct"]),
        crop_mode=config.get("crop_mode", "center"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        sha256="",
        wnids=wnids,
    )
