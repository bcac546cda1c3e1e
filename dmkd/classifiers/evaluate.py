"""How well a classifier does on images whose class is known."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.classifier import Classifier
from dmkd.runtime.accelerators import upload


@dataclass
class Evaluation:
    """Counts over a set of images. ``confusion[i, j]``: images of class i that were taken for class j."""

    confusion: np.ndarray  # int64 (C, C)
    in_top5: np.ndarray  # int64 (C,): images of each class whose class was among the five likeliest

    @property
    def num_images(self) -> int:
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of images whose class was the likeliest, in [0, 1]."""
        return float(np.trace(self.confusion) / self.num_images)

    @property
    def top5(self) -> float:
        """Share of images whose class was among the five likeliest (of all, if there are fewer classes)."""
        return float(self.in_top5.sum() / self.num_images)

    @property
    def per_class(self) -> np.ndarray:
        """Top-1 of each class, float64 (C,); NaN for a class of which there were no images."""
        counts = self.confusion.sum(1)
        return np.where(counts > 0, np.diag(self.confusion) / np.maximum(counts, 1), np.nan)

    def to_json(self, class_names: list[str]) -> dict[str, Any]:
        per_class = {name: None if np.isnan(a) else a for name, a in zip(class_names, self.per_class, strict=True)}
        return {
            "images": self.num_images,
            "top1": self.top1,
            "top5": self.top5,
            "per_class": per_class,
            "confusion": self.confusion.tolist(),
        }


def evaluate(classifier: Classifier, batches: Iterable[tuple[torch.Tensor, np.ndarray]]) -> Evaluation:
    """Run a classifier over (pixels uint8 (n, 3, S, S), class ids int (n,)) batches, one canonical view an image.

    A GPU is not waited for before the last batch: what the classifier said stays there until then, 40 bytes an image.
    """
    classes = classifier.num_classes
    device = next(classifier.model.parameters()).device
    said: list[torch.Tensor] = []
    true: list[np.ndarray] = []
    for pixels, class_ids in batches:
        said.append(classifier.logits(upload(pixels, device)).topk(min(5, classes), dim=1).indices)
        true.append(class_ids)
    confusion = np.zeros((classes, classes), np.int64)
    in_top5 = np.zeros(classes, np.int64)
    if said:
        top, class_ids = torch.cat(said).cpu().numpy(), np.concatenate(true)
        np.add.at(confusion, (class_ids, top[:, 0]), 1)
        np.add.at(in_top5, class_ids, (top == class_ids[:, None]).any(1))
    return Evaluation(confusion, in_top5)
