"""Zero-shot classifiers: an image tower, and a linear layer that a text tower makes of class names.

Such a classifier ends in a linear layer over its features as any other, so every codec and feature distillation take it.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import nn

from dmkd.recipes.zero_shot import ClassPrompts
from dmkd.runtime.precision import computing_in

TEXTS_AT_ONCE = 256


class Towers(nn.Module):
    """What a library loads: a model that takes images and texts to vectors of one space, of any length."""

    @abstractmethod
    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised float (n, 3, S, S) -> (n, d)."""

    @abstractmethod
    def texts(self, texts: list[str]) -> torch.Tensor:
        """n texts -> (n, d)."""

    @abstractmethod
    def scale_and_bias(self) -> tuple[float, float]:
        """Logits are scale · cosine + bias."""

    @abstractmethod
    def forget_texts(self) -> None:
        """Drop what :meth:`texts` needs."""


class ZeroShotModel(nn.Module):
    """Pixels, normalised float (n, 3, S, S) -> logits float32 (n, C) of the classes that prompts name. Its parts are called as
    timm calls those of a classifier.

    The texts are read when the last layer is first needed, where the model is by then, and their tower is dropped. Until then its
    weights are among the model's, and the layer's, which follow from them, are not.
    """

    head: nn.Linear | None

    def __init__(self, towers: Towers, prompts: ClassPrompts) -> None:
        super().__init__()
        self.towers, self.prompts, self.num_classes = towers, prompts, len(prompts.classes)
        self.head = None

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (n, d) of length 1."""
        return F.normalize(self.towers.images(pixels).float(), dim=-1)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Always in float32: bfloat16 would round logits of a scale of 100 to eighths."""
        if pre_logits:
            return features
        with computing_in("float32", features.device):
            return self.get_classifier()(features)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(pixels))

    def get_classifier(self) -> nn.Linear:
        if self.head is None:
            device = next(self.parameters()).device
            with torch.inference_mode(False), torch.no_grad(), computing_in("float32", device):
                scale, bias = self.towers.scale_and_bias()
                weight = scale * embed_classes(self.prompts, self.towers)
                layer = nn.Linear(weight.shape[1], len(weight), device=device).requires_grad_(False)
                layer.weight.copy_(weight)
                layer.bias.fill_(bias)
            self.towers.forget_texts()
            self.head = layer
        return self.head

    def skip_texts(self, size: int) -> None:
        """Make a last layer that is right in its shape alone, for a model on the meta device that sees size x size pixels."""
        self.towers.forget_texts()
        self.head = nn.Linear(self.towers.images(torch.empty(1, 3, size, size)).shape[-1], self.num_classes)


def embed_classes(prompts: ClassPrompts, towers: Towers) -> torch.Tensor:
    """The classes as float32 (C, d) of length 1: the mean over the templates, each text at length 1, as CLIP's authors do."""
    count = len(prompts.classes)
    texts = [text for class_id in range(count) for text in prompts.of_class(class_id)]
    parts = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
    embedded = torch.cat([F.normalize(towers.texts(part).float(), dim=-1) for part in parts])
    return F.normalize(embedded.reshape(count, len(prompts.templates), -1).mean(1), dim=-1)
