"""Classifiers, teachers and trained students alike: how they are named, loaded, made, saved and measured."""

from dmkd.classifiers.classifier import (
    Classifier,
    configured_classifier,
    linear_head,
    load_classifier,
    nearest_names,
    pretrained_model,
    state_dict_sha256,
)

__all__ = [
    "Classifier",
    "configured_classifier",
    "linear_head",
    "load_classifier",
    "nearest_names",
    "pretrained_model",
    "state_dict_sha256",
]
