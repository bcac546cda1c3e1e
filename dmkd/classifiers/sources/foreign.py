"""Any torch module as a classifier. What it is, is found by trying it: its classes, its last layer, the sizes that it takes."""

from typing import Any

import torch
from torch import nn

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.sources.kind import ClassifierSource
from dmkd.classifiers.sources.preprocessing import Preprocessing
from dmkd.runtime.failures import named_line
from dmkd.stores.errors import UsageError


class ForeignModel(nn.Module):
    """A model that knows nothing of timm, with timm's names for its parts. The features are what its last linear layer of as many
    outputs as there are classes is given, whatever it and the layers before are called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.num_classes = 0

    def forward(self, pixels: torch.Tensor) -> Any:
        outputs = self.model(pixels)
        return getattr(outputs, "logits", outputs)  # those of transformers return more

    def get_classifier(self) -> nn.Linear | None:
        linear = [layer for layer in self.model.modules() if isinstance(layer, nn.Linear)]
        return next((layer for layer in reversed(linear) if layer.out_features == self.num_classes), None)

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        given: list[torch.Tensor] = []
        layer = self.get_classifier()
        assert layer is not None
        with layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0])):
            outputs = self(pixels)
        return given[-1] if given else outputs  # a layer that is there for training only

    def forward_head(self, features: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        assert pre_logits
        return features


def foreign_classifier(
    meant: ClassifierSource,
    model: nn.Module,
    fed: Preprocessing,
    *,
    architecture: str,
    class_names: list[str] | None,
    channels_last: bool = False,  # where every view of its tensors takes that
) -> Classifier:
    """A model as the classifier of a source. Raises ``UsageError`` if it does not turn images, float32 (n, 3, S, S), into finite
    logits, float (n, C), the same each time."""
    wrapped = ForeignModel(model).eval().requires_grad_(False)
    wrapped.num_classes = count = _try(wrapped, fed.input_size, meant.text)
    if class_names is not None and len(class_names) != count:
        raise UsageError(f"{meant.text} has {count:,} outputs and {len(class_names):,} class names.")
    return Classifier(
        name=meant.name,
        source=meant.text,
        architecture=architecture,
        model=wrapped,
        num_classes=count,
        class_names=class_names,
        fixed_input_size=not _takes_other_sizes(wrapped, fed.input_size),
        sha256="",
        channels_last=channels_last,
        **fed.to_dict(),
    )


@torch.inference_mode()
def _try(model: ForeignModel, size: int, source: str) -> int:
    """How many classes it has; on the meta device its shapes alone are checked."""
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    parameter = next(model.parameters(), pixels)
    pixels = pixels.to(parameter.device)
    try:
        first, again = model(pixels), model(pixels)
    except Exception as error:
        raise UsageError(f"{source} can't classify images of {size}x{size} pixels: {named_line(error)}.") from error
    if not isinstance(first, torch.Tensor) or first.ndim != 2 or len(first) != 2 or not first.is_floating_point():
        what = f"{first.dtype} {tuple(first.shape)}" if isinstance(first, torch.Tensor) else type(first).__name__
        raise UsageError(f"{source} makes {what} of 2 images; a classifier makes logits, float (2, number of classes).")
    if first.is_meta:
        return first.shape[1]
    if not first.isfinite().all():
        raise UsageError(f"{source} makes logits that are not finite, of images of {size}x{size} pixels of noise.")
    if not first.equal(again):
        raise UsageError(f"{source} says something else of the same images each time: labels could not be made again.")
    if first.shape[1] > 1 and (first >= 0).all() and torch.allclose(first.double().sum(1), torch.ones(2).double()):
        raise UsageError(f"{source} makes probabilities; return the logits, without the softmax.")
    return first.shape[1]


@torch.inference_mode()
def _takes_other_sizes(model: ForeignModel, size: int) -> bool:
    other = 2 * size if size <= 64 else size - size % 32 - 32
    try:
        outputs = model(next(model.parameters(), torch.zeros(0)).new_zeros(1, 3, other, other))
    except Exception:  # each library has its own
        return False
    return outputs.shape == (1, model.num_classes)
