"""What the images that are there say of a student, class by class, and what follows for the next ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dmkd.recipes.rounds import image_counts
from dmkd.steering.critic import AT_ONCE, Critic
from dmkd.stores import Store

MOST_IMAGES = 10_000  # looked at
PRIOR = 10  # images of the average class that each class is credited with, so that few images say little
GAIN = 0.5  # of the step in guidance, by the log-odds that a class's agreement is from its target


@dataclass(frozen=True)
class Feedback:
    """Of each class of the store, float64 (C,), shrunk to the average of all: mean score, and share of the images whose class the
    teacher sees."""

    score: np.ndarray
    agreement: np.ndarray


def look_at(store: Store, critic: Critic, ids: Sequence[int] | np.ndarray, device: str) -> Feedback:
    """At images of these ids, at most :data:`MOST_IMAGES` of them, evenly spaced."""
    ids = np.asarray(ids)
    ids = ids[np.linspace(0, len(ids) - 1, min(len(ids), MOST_IMAGES)).astype(int)]
    classes = store.class_ids[ids]
    scores: list[np.ndarray] = []
    agreed: list[np.ndarray] = []
    for start in range(0, len(ids), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        images = torch.from_numpy(store.images[ids[part]]).to(device)
        looked = critic.look(images, torch.from_numpy(classes[part].astype(np.int64)).to(device))
        for parts, new in zip((scores, agreed), looked, strict=True):
            parts.append(new.cpu().numpy().astype(np.float64))
    return Feedback(*(_by_class(np.concatenate(rows), classes, store.num_classes) for rows in (scores, agreed)))


def class_counts(feedback: Feedback, classes: Sequence[int], share: float, images: int) -> tuple[int, ...]:
    """Images of each of these classes, of ``images``: a ``share`` of them is dealt in proportion to the classes' mean scores
    (above the smallest, where that is negative), the rest evenly."""
    score = feedback.score[list(classes)]
    score = score - min(score.min(), 0.0)
    by_score = score / score.sum() if score.sum() > 0 else np.full(len(score), 1 / len(score))
    return image_counts((1 - share) / len(score) + share * by_score, images)


def class_guidance(
    feedback: Feedback, classes: Sequence[int], before: np.ndarray, target: float, limits: tuple[float, float]
) -> tuple[float, ...]:
    """The scale of each of these classes, from those ``before`` (n,): more where the teacher sees too few of a class's images as
    of it, less where more than it needs, within the limits."""
    agreement = np.clip(feedback.agreement[list(classes)], 0.01, 0.99)
    step = np.log(target / (1 - target)) - np.log(agreement / (1 - agreement))
    return tuple(np.clip(before * np.exp(GAIN * step), *limits).round(4).tolist())


def _by_class(values: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    count = np.bincount(classes, minlength=num_classes)
    total = np.bincount(classes, weights=values, minlength=num_classes)
    return (total + PRIOR * values.mean()) / (count + PRIOR)
