"""How well a classifier does on images whose class is known."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.classifier import Classifier
from dmkd.runtime.accelerators import upload

CALIBRATION_BINS = 15


@dataclass
class Evaluation:
    """Counts over a set of images. ``confusion[i, j]``: images of class i that were taken for class j."""

    confusion: np.ndarray  # int64 (C, C)
    in_top5: np.ndarray  # int64 (C,): images of each class whose class was among the five likeliest

    @classmethod
    def of(cls, predictions: "Predictions", classes: int) -> "Evaluation":
        confusion = np.zeros((classes, classes), np.int64)
        in_top5 = np.zeros(classes, np.int64)
        np.add.at(confusion, (predictions.class_ids, predictions.top[:, 0]), 1)
        np.add.at(in_top5, predictions.class_ids, (predictions.top == predictions.class_ids[:, None]).any(1))
        return cls(confusion, in_top5)

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


@dataclass
class Predictions:
    """What a classifier says of n images whose class is known."""

    class_ids: np.ndarray  # int64 (n,)
    top: np.ndarray  # int64 (n, up to 5): the likeliest classes, likeliest first
    confidence: np.ndarray  # float32 (n,): the probability of the likeliest

    @property
    def right(self) -> np.ndarray:
        """Whether the likeliest class is the image's: bool (n,)."""
        return self.top[:, 0] == self.class_ids

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in [0, 1]: how far confidence is from accuracy, in 15 bins of equal width, weighted by their
        images (Guo et al. 2017, eq. 3). A bin holds confidences above its lower end, up to its upper one."""
        bins = np.ceil(self.confidence.astype(np.float64) * CALIBRATION_BINS).astype(int)
        gaps = np.bincount(bins, weights=self.right - self.confidence.astype(np.float64))
        return float(np.abs(gaps).sum() / max(1, len(self.class_ids)))

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """A half of the images to choose on and one to report on, bool (n,) each: in turns within each class, in their order."""
        order = np.argsort(self.class_ids, kind="stable")
        ids = self.class_ids[order]
        place = np.empty(len(ids), np.int64)
        place[order] = np.arange(len(ids)) - np.searchsorted(ids, ids)
        return place % 2 == 0, place % 2 == 1


def predict(classifier: Classifier, batches: Iterable[tuple[torch.Tensor, np.ndarray]]) -> Predictions:
    """Run a classifier over (pixels uint8 (n, 3, S, S), class ids int (n,)) batches, one canonical view an image.

    A GPU is not waited for before the last batch: what the classifier said stays there until then, 24 bytes an image.
    """
    top = min(5, classifier.num_classes)
    device = next(classifier.model.parameters()).device
    said: list[torch.Tensor] = []
    true = [np.empty(0, np.int64)]
    for pixels, class_ids in batches:
        logits = classifier.logits(upload(pixels, device))
        likeliest, classes = logits.topk(top, dim=1)
        confidence = (likeliest[:, :1] - logits.logsumexp(1, keepdim=True)).exp()
        said.append(
            torch.cat([classes.to(torch.float32), confidence], 1)
        )  # class ids are exact: there are not 2^24 classes
        true.append(class_ids)
    rows = torch.cat(said).cpu().numpy() if said else np.empty((0, top + 1), np.float32)
    return Predictions(np.concatenate(true), rows[:, :top].astype(np.int64), rows[:, top])


def evaluate(classifier: Classifier, batches: Iterable[tuple[torch.Tensor, np.ndarray]]) -> Evaluation:
    """As :func:`predict`, counted."""
    return Evaluation.of(predict(classifier, batches), classifier.num_classes)
