"""Classifiers, teachers and trained students alike: timm models with the preprocessing their weights were trained with.

A classifier is named by

    resnet34, resnet18.tv_in1k     a timm model with pretrained weights; the resolved tag is recorded
    hf-hub:timm/resnet18.a1_in1k   a timm model on the Hugging Face hub
    ./students/resnet18            a folder with config.json and model.safetensors, as timm and dmkd save them, or the
                                   folder of a training run, whose last student is meant
    resnet18=./weights.safetensors an architecture and a local checkpoint (.safetensors, or .pth read with weights_only)
    wrn_40_2=./weights.pth         the same for a network of the CIFAR papers, see :mod:`dmkd.cifar_models`
    digits-resnet                  one of the bundled digit classifiers

Its labels are named after the folder (of a student: its run) or file, or after the architecture where a file's name says
nothing (model.safetensors).
"""

import json
import pickle
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd import digits
from dmkd.cifar_models import translate_weights  # and with it timm knows these models, wherever one is created
from dmkd.recipes.classifier_source import parse_classifier
from dmkd.runtime.accelerators import upload
from dmkd.runtime.failures import named_line
from dmkd.runtime.hub_access import hub_access
from dmkd.runtime.precision import computing_in
from dmkd.runtime.spelling import nearest_names
from dmkd.runtime.weights_hash import state_dict_sha256
from dmkd.stores.errors import DmkdError, UsageError
from dmkd.views.policy import canonical_box
from dmkd.views.render import normalise

Box = tuple[float, float, float, float]


@dataclass
class Classifier:
    """A frozen classifier in eval mode on one device, with what must be known to feed it and to recognise it."""

    name: str  # short name, also the default name of its label set
    source: str  # what it was asked for by
    architecture: str  # timm's name, with the resolved pretrained tag
    model: torch.nn.Module
    num_classes: int
    class_names: list[str] | None
    input_size: int  # pixels, height and width
    fixed_input_size: bool  # whether the architecture takes no other size
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    sha256: str  # of the weights, see :func:`state_dict_sha256`
    precision: str = "float32"  # of the forward pass: one of CLASSIFIER_PRECISIONS, or float16
    wnids: list[str] | None = None  # WordNet ids of the classes, where its configuration has them
    outputs: tuple[int, ...] | None = None  # of the model's outputs, those that are its classes here; None: all

    def to_json(self) -> dict[str, Any]:
        """What a teacher is, wherever it was found: what a label set records and a later run is compared with. Where it names no
        precision that is float32, and where no outputs all of them: label sets were written so before there was a choice."""
        return {
            **({"precision": self.precision} if self.precision != "float32" else {}),
            **({"outputs": list(self.outputs)} if self.outputs is not None else {}),
            "name": self.name,
            "architecture": self.architecture,
            "sha256": self.sha256,
            "preprocessing": {
                "input_size": self.input_size,
                "interpolation": self.interpolation,
                "crop_pct": self.crop_pct,
                "crop_mode": self.crop_mode,
                "mean": list(self.mean),
                "std": list(self.std),
            },
        }

    def only(self, classes: Sequence[int] | None) -> "Classifier":
        """The same for these of its classes, in this order; None: as it is."""
        if classes is None:
            return self
        here = range(self.num_classes) if self.outputs is None else self.outputs
        return replace(
            self,
            num_classes=len(classes),
            class_names=self.class_names and [self.class_names[number] for number in classes],
            wnids=self.wnids and [self.wnids[number] for number in classes],
            outputs=tuple(here[number] for number in classes),
        )

    def canonical_box(self, image_size: tuple[int, int]) -> Box:
        """The evaluation view of an (H, W) image as (top, left, height, width), fractions of the image."""
        return canonical_box(image_size, self.input_size, self.crop_pct, self.crop_mode)

    @torch.inference_mode()
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 3, S, S) -> float32 (n, d): what the classifier's last, linear layer is given (see :meth:`head`)."""
        model: Any = self.model
        with computing_in(self.precision, pixels.device):
            maps = model.forward_features(self._inputs(pixels))
            return model.forward_head(maps, pre_logits=True).float()

    def head(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The last layer's weight float32 (C, d) and bias float32 (C,), if logits = features @ weight.T + bias; else None.

        Tried on random pixels, in float32: some models scale, normalise or average after the layer that timm calls the
        classifier.
        """
        exact = replace(self, precision="float32")
        model: Any = self.model
        layer = model.get_classifier() if hasattr(model, "get_classifier") else None
        if not isinstance(layer, torch.nn.Linear):
            return None
        weight = layer.weight.detach().float()
        bias = layer.bias.detach().float() if layer.bias is not None else weight.new_zeros(len(weight))
        noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (2, 3, self.input_size, self.input_size))
        pixels = torch.from_numpy(noise.astype(np.uint8)).to(weight.device)
        features = exact.features(pixels)
        if features.ndim != 2 or features.shape[1] != weight.shape[1]:
            return None
        weight, bias = self._of_classes(weight.T).T, self._of_classes(bias)
        if not torch.allclose(features @ weight.T + bias, exact.logits(pixels), rtol=1e-3, atol=1e-3):
            return None
        return weight.cpu().numpy(), bias.cpu().numpy()

    @torch.inference_mode()
    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 3, S, S) on the model's device -> float32 (n, C)."""
        with computing_in(self.precision, pixels.device):
            return self._of_classes(self.model(self._inputs(pixels)).float())

    def _of_classes(self, outputs: torch.Tensor) -> torch.Tensor:
        """(..., outputs of the model) -> (..., C)."""
        if self.outputs is None:
            return outputs
        return outputs.index_select(-1, upload(torch.tensor(self.outputs), outputs.device))

    def _inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalise(pixels, self.mean, self.std).contiguous(memory_format=_layout(pixels.device))


def _layout(device: torch.device) -> torch.memory_format:
    """cuDNN's fast kernels want channels last; otherwise they transpose before and after each convolution."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def load_classifier(source: str, *, device: str = "cpu", precision: str = "float32") -> Classifier:
    """Load a classifier by any of the names above, to run in a ``precision`` of ``CLASSIFIER_PRECISIONS``. Raises ``UsageError``
    for an unknown name, with the nearest ones, and ``DmkdError`` if its weights can't be had."""
    name, model = _create(source)
    digest = state_dict_sha256(model)
    model.to(device).to(memory_format=_layout(torch.device(device)))
    return replace(_classifier(source, name, model, digest), precision=precision)


def configured_classifier(source: str) -> Classifier:
    """As :func:`load_classifier`, from the configuration alone: a model on the meta device, and an empty sha256."""
    with torch.device("meta"):
        name, model = _create(source, weights=False)
    return _classifier(source, name, model, "")


def _classifier(source: str, name: str, model: torch.nn.Module, sha256: str) -> Classifier:
    from timm.data import resolve_model_data_config

    model.eval().requires_grad_(False)
    pretrained: Any = model.pretrained_cfg
    config = resolve_model_data_config(model)
    _, height, width = config["input_size"]
    if height != width:
        raise UsageError(f"{source} takes {height}x{width} images; dmkd labels square views only.")
    tag = pretrained.get("tag")
    architecture = pretrained["architecture"]
    return Classifier(
        name=name,
        source=source,
        architecture=f"{architecture}.{tag}" if tag else architecture,
        model=model,
        num_classes=_num_classes(model),
        class_names=pretrained.get("label_names"),
        input_size=height,
        fixed_input_size=bool(pretrained.get("fixed_input_size")),
        interpolation=config["interpolation"],
        crop_pct=float(config["crop_pct"]),
        crop_mode=config.get("crop_mode", "center"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        sha256=sha256,
        wnids=_saved_wnids(source),
    )


def _saved_wnids(source: str) -> list[str] | None:
    """The WordNet ids of the classes, where a folder's ``config.json`` has them."""
    meant = parse_classifier(source)
    if meant.path is None or meant.architecture is not None:
        return None
    return json.loads((meant.path / "config.json").read_text()).get("label_wnids")


def _num_classes(model: Any) -> int:
    """Of the model as it is: its pretrained configuration describes the architecture's own weights."""
    return model.num_classes


def linear_head(teacher: Classifier, codec: str) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's last layer, see :meth:`Classifier.head`, for the codec of this name; ``UsageError`` if it has no such one."""
    head = teacher.head()
    if head is None:
        raise no_linear_layer(teacher, codec)
    return head


def no_linear_layer(teacher: Classifier, codec: str) -> UsageError:
    """What to raise where a codec needs the teacher's last layer and that is not linear."""
    return UsageError(
        f"Teacher {teacher.source} does not end in a linear layer over its features, which codec {codec} needs: "
        "choose another codec, such as uint8 or klt."
    )


def _create(source: str, weights: bool = True) -> tuple[str, torch.nn.Module]:
    """Short name and model of a source; without its weights, the shapes alone are right."""
    meant = parse_classifier(source)
    if meant.architecture is None:
        assert meant.path is not None
        return meant.name, _from_folder(meant.path, source, weights)
    if meant.path is not None:
        return meant.name, _from_file(meant.architecture, meant.path, weights)
    return meant.name, pretrained_model(meant.architecture, source, weights)


def pretrained_model(name: str, source: str, weights: bool = True, **arguments: Any) -> torch.nn.Module:
    """A timm model with pretrained weights; ``arguments`` go to timm's ``create_model``. ``source``: what errors call it.

    ``weights`` False: the shapes alone. Raises ``UsageError`` for a name without weights, ``DmkdError`` if they can't be had.
    """
    import timm

    check_pretrained(name, source)
    try:
        with hub_access() if weights else nullcontext():
            return timm.create_model(name, pretrained=weights, **arguments)
    except Exception as error:  # the hub raises a dozen classes, and which ones changes between its versions
        from huggingface_hub.errors import LocalEntryNotFoundError

        offline = isinstance(error, LocalEntryNotFoundError)
        reason = "it is offline or does not answer, and its cache lacks them" if offline else named_line(error)
        repository = name.removeprefix("hf-hub:")
        raise DmkdError(
            f"The weights of {source} could not be downloaded from the hub ({reason}): download "
            f"model.safetensors of {repository} where there is a network and give ARCHITECTURE=FILE, or set HF_HOME "
            "to a cache that has it."
        ) from error


def check_pretrained(name: str, source: str) -> None:
    """Raise ``UsageError`` unless timm has weights of this name, or it is one of the hub's."""
    import timm

    if name.startswith("hf-hub:"):
        return
    base = name.split(".")[0]
    if not timm.is_model(base):
        known = timm.list_models() + list(digits.TEACHERS)
        raise UsageError(f"There is no model {source!r}{nearest_names(base, known)}")
    tags = timm.list_pretrained(f"{base}.*")
    if not tags:
        raise UsageError(f"timm has no pretrained weights for {base}: give a checkpoint as {base}=FILE.")
    if "." in name and name not in tags:
        raise UsageError(f"timm has no pretrained weights {name!r}; there are {', '.join(tags)}.")


def _from_folder(folder: Path, source: str, weights: bool) -> torch.nn.Module:
    import timm

    try:
        json.loads((folder / "config.json").read_text())["architecture"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{folder} is not a timm model folder: one holds weights, and a config.json with an architecture."
        ) from error
    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=weights)
    except Exception as error:
        raise DmkdError(f"The model in {source} could not be loaded: {named_line(error)}.") from error


def _from_file(architecture: str, file: Path, weights: bool) -> torch.nn.Module:
    import timm

    if not timm.is_model(architecture.split(".")[0]):
        raise UsageError(f"There is no architecture {architecture!r}{nearest_names(architecture, timm.list_models())}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, Any] = dict(load_file(file))
        else:
            state = torch.load(file, map_location="cpu" if weights else "meta", weights_only=True)
        for key in ("state_dict", "model"):
            state = state.get(key, state) if isinstance(state.get(key), dict) else state
        state = {key.removeprefix("module."): value for key, value in state.items()}
        state = translate_weights(architecture, state)
        classifier = timm.get_pretrained_cfg_value(architecture, "classifier") or "fc"
        classes = state[f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"].shape[0]
        model: Any = timm.create_model(architecture, num_classes=classes)
        if "." not in architecture:  # timm's default tag names weights that these are not
            model.pretrained_cfg = {**model.pretrained_cfg, "tag": ""}
        if weights:
            model.load_state_dict(state)
    except pickle.UnpicklingError as error:  # torch's own message recommends to run it
        raise DmkdError(
            f"{file} contains code or objects other than weights, and dmkd does not run it: save only the state_dict, or "
            "convert it to safetensors."
        ) from error
    except Exception as error:
        raise DmkdError(f"{file} could not be loaded as {architecture}: {named_line(error)}.") from error
    return model
