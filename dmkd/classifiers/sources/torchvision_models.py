"""torchvision's classifiers, with its weights or with those of a file."""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmkd.classifiers.sources.kind import ClassifierSource, Kind
from dmkd.classifiers.sources.weight_files import holds_code, name_of_weights, read_state_dict, weight_file
from dmkd.runtime.failures import named_line
from dmkd.runtime.spelling import nearest_names
from dmkd.stores.errors import DmkdError, UsageError

if TYPE_CHECKING:
    from torch.nn import Module

    from dmkd.classifiers.classifier import Classifier
    from dmkd.recipes.zero_shot import ClassPrompts

PREFIX = "torchvision:"


class TorchvisionModel(Kind):
    example = "torchvision:resnet50"
    help = "torchvision's model, its default weights, others (resnet50@IMAGENET1K_V1), or a file's (resnet50=./weights.pth)"
    prefix = PREFIX

    def parse(self, text: str) -> ClassifierSource | None:
        if not text.startswith(PREFIX):
            return None
        model, equals, file = text.removeprefix(PREFIX).partition("=")
        name = model.replace("@", ".")
        if not equals:
            return ClassifierSource(text, name, self, model)
        path = weight_file(file)
        return ClassifierSource(text, name_of_weights(name, path), self, model, path)

    def known_classes(self, meant: ClassifierSource) -> int | None:
        weights = _weights(meant)
        return len(weights.meta["categories"]) if meant.path is None else None

    def load(self, meant: ClassifierSource, *, weights: bool, prompts: "ClassPrompts | None") -> "Classifier":
        from dmkd.classifiers.sources.foreign import foreign_classifier
        from dmkd.classifiers.sources.preprocessing import of_torchvision

        theirs = _weights(meant)
        architecture, names = _architecture(meant)[0], list(theirs.meta["categories"])
        if meant.path is not None:
            model = _from_file(architecture, meant.path, theirs, weights)
        elif weights:
            model = _downloaded(architecture, theirs, meant.text)
        else:
            model = _built(architecture, len(names), theirs)
        return foreign_classifier(
            meant,
            model,
            of_torchvision(theirs.transforms()),
            architecture=f"{PREFIX}{architecture}" + (f"@{theirs.name}" if meant.path is None else ""),
            class_names=names if meant.path is None else None,
            channels_last=True,
        )


def _architecture(meant: ClassifierSource) -> tuple[str, str]:
    """Its name, and that of its weights; empty: the default ones."""
    assert meant.architecture is not None
    architecture, _, tag = meant.architecture.partition("@")
    return architecture, tag


def _weights(meant: ClassifierSource) -> Any:
    """torchvision's entry of the weights that are meant; of a file, of those that it is fed as. Raises ``UsageError``."""
    import torchvision.models

    architecture, tag = _architecture(meant)
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise UsageError(f"torchvision has no classifier {architecture!r}{nearest_names(architecture, known)}")
    there = torchvision.models.get_model_weights(architecture)
    if tag and tag not in there.__members__:
        raise UsageError(
            f"torchvision has no weights {tag!r} of {architecture}; there are {', '.join(there.__members__)}."
        )
    return there[tag] if tag else there.DEFAULT


def _built(architecture: str, num_classes: int, weights: Any) -> "Module":
    """With random weights, and whatever else torchvision gives a model that is to have ``weights``."""
    import torch
    import torchvision.models

    more: dict[str, Any] = {}
    if architecture in ("googlenet", "inception_v3"):
        more = {"transform_input": True, "init_weights": False}
    elif architecture.startswith("vit_"):
        more = {"image_size": weights.meta["min_size"][0]}
    build = partial(torchvision.models.get_model, architecture, weights=None, num_classes=num_classes, **more)
    try:
        return build()
    except NotImplementedError:  # on the meta device: RegNets use tensors to compute their widths
        with torch.device("cpu"):
            return build().to("meta")


def _downloaded(architecture: str, weights: Any, source: str) -> "Module":
    import torch
    import torchvision.models

    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        # torch.hub says on standard output what it fetches.
        with weights_only(), redirect_stdout(sys.stderr):
            return torchvision.models.get_model(architecture, weights=weights, progress=False)
    except pickle.UnpicklingError as error:
        raise holds_code(cached) from error
    except Exception as error:
        if cached.is_file():
            raise DmkdError(f"{cached} could not be loaded as {source}: {named_line(error)}.") from error
        raise DmkdError(
            f"The weights of {source} could not be downloaded ({named_line(error)}): download {weights.url} where there is a "
            f"network and put it into {cached.parent}, or set TORCH_HOME to a cache that has it."
        ) from error


@contextmanager
def weights_only() -> Iterator[None]:
    """While torch.load is called by others, who say that it may run what is in a file: it may not."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _from_file(architecture: str, file: Path, fed_as: Any, weights: bool) -> "Module":
    import torch

    num_classes = len(fed_as.meta["categories"])
    with torch.device("meta"):
        skeleton = _built(architecture, num_classes, fed_as)
    try:
        state = read_state_dict(file, weights)
        # The last layer, which is a convolution in a few of them.
        ends = [name for name, layer in skeleton.named_modules() if len(getattr(layer, "weight", ())) == num_classes]
        model = _built(architecture, len(state[f"{ends[-1]}.weight"]), fed_as)
        if weights:
            model.load_state_dict(state)
    except DmkdError:
        raise
    except Exception as error:
        raise DmkdError(f"{file} could not be loaded as {architecture}: {named_line(error)}.") from error
    return model
