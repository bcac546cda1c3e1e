"""Loading a classifier by any name that :mod:`dmkd.classifiers.sources` reads."""

from dataclasses import replace

import torch

import dmkd.cifar_models  # noqa: F401  # with it timm knows these models, wherever one is created
from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.sources import parse_classifier
from dmkd.recipes.zero_shot import ClassPrompts
from dmkd.runtime.weights_hash import state_dict_sha256


def load_classifier(
    source: str, *, device: str = "cpu", precision: str = "float32", prompts: ClassPrompts | None = None
) -> Classifier:
    """Load a classifier, to run in a ``precision`` of ``CLASSIFIER_PRECISIONS``; ``prompts``: for those that are made of words.

    Raises ``UsageError`` for an unknown name, with the nearest ones, and ``DmkdError`` if its weights can't be had.
    """
    loaded = _load(source, weights=True, prompts=prompts)
    digest = state_dict_sha256(loaded.model)
    return replace(loaded.to(device), sha256=digest, precision=precision)


def configured_classifier(source: str, *, prompts: ClassPrompts | None = None) -> Classifier:
    """As :func:`load_classifier`, from the configuration alone: a model on the meta device, and an empty sha256."""
    with torch.device("meta"):
        return _load(source, weights=False, prompts=prompts)


def _load(source: str, *, weights: bool, prompts: ClassPrompts | None) -> Classifier:
    meant = parse_classifier(source)
    loaded = meant.kind.load(meant, weights=weights, prompts=prompts)
    loaded.model.eval().requires_grad_(False)
    return loaded
