"""What a classifier is, teachers and trained students alike: a frozen model, with the preprocessing of its weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dmkd.recipes.zero_shot import ClassPrompts
from dmkd.runtime.accelerators import upload
from dmkd.runtime.precision import computing_in
from dmkd.stores.errors import UsageError
from dmkd.views.policy import canonical_box
from dmkd.views.render import normalise, render
from dmkd.views.resampling import resampling_matrix

Box = tuple[float, float, float, float]


@dataclass
class Classifier:
    """A frozen classifier in eval mode on one device, with what must be known to feed it and to recognise it."""

    name: str  # short name, also the default name of its label set
    source: str  # what it was asked for by
    architecture: str  # as its library calls it: timm's name, with the resolved pretrained tag
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
    sha256: str  # of the weights, see :func:`dmkd.runtime.weights_hash.state_dict_sha256`
    precision: str = "float32"  # of the forward pass: one of CLASSIFIER_PRECISIONS, or float16
    wnids: list[str] | None = None  # WordNet ids of the classes, where its configuration has them
    channels_last: bool = True  # whether it may be fed channels last on a GPU
    outputs: tuple[int, ...] | None = None  # of the model's outputs, those that are its classes here; None: all
    prompts: ClassPrompts | None = None  # that its last layer was made of, if it was

    def to_json(self) -> dict[str, Any]:
        """What a teacher is, wherever it was found: what a label set records and a later run is compared with. Where it names no
        precision that is float32, and where no outputs all of them: label sets were written so before there was a choice."""
        return {
            **({"prompts": self.prompts.to_json()} if self.prompts is not None else {}),
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

    def to(self, device: str) -> "Classifier":
        """It, with its model moved to a device."""
        self.model.to(device).to(memory_format=self._layout(torch.device(device)))
        return self

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

    def differentiable_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Images, float32 (n, 3, H, W) in [0, 1] on the model's device, as its evaluation view shows them -> float32 (n, C),
        through which gradients flow back. The pixels are not rounded between the steps, as those of :meth:`logits` are."""
        height, width = images.shape[2:]
        top, left, tall, wide = self.canonical_box((height, width))
        down, across = (
            upload(resampling_matrix(start, extent, length, self.input_size, self.interpolation), images.device)
            for start, extent, length in ((top, tall, height), (left, wide, width))
        )
        seen = (down @ (images @ across.T).clamp(0, 1)).clamp(0, 1)
        mean, std = upload(torch.tensor([self.mean, self.std])[..., None, None], seen.device)
        with computing_in(self.precision, images.device):
            inputs = ((seen - mean) / std).contiguous(memory_format=self._layout(seen.device))
            return self._of_classes(self.model(inputs).float())

    def evaluation_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Images, uint8 (n, H, W, 3) on the model's device, through its evaluation view -> float32 (n, C)."""
        view = np.array([(*self.canonical_box((images.shape[1], images.shape[2])), 0.0)], np.float32)
        views = np.repeat(view, len(images), 0)
        return self.logits(render(images, views, size=self.input_size, interpolation=self.interpolation))

    def _of_classes(self, outputs: torch.Tensor) -> torch.Tensor:
        """(..., outputs of the model) -> (..., C)."""
        if self.outputs is None:
            return outputs
        return outputs.index_select(-1, upload(torch.tensor(self.outputs), outputs.device))

    def _inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalise(pixels, self.mean, self.std).contiguous(memory_format=self._layout(pixels.device))

    def _layout(self, device: torch.device) -> torch.memory_format:
        """cuDNN's fast kernels want channels last; otherwise they transpose before and after each convolution."""
        return torch.channels_last if self.channels_last and device.type == "cuda" else torch.contiguous_format


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
