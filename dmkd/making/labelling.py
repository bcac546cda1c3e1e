"""Labels of a block: what a teacher says of its views, and of its own evaluation view in three numbers."""

import numpy as np
import torch

from dmkd.classifiers.classifier import Classifier
from dmkd.runtime.devices import default_cpu_threads
from dmkd.stores import Store
from dmkd.views.description import ViewDescription
from dmkd.views.render import render_block

# Views rendered and labelled at once. Fixed, so that a block's logits do not depend on who made it.
VIEWS_AT_ONCE = 256


def labelling_threads(store: Store, device: str) -> int | None:
    """Threads that a store's labels are made with: its recipe's, else on a CPU those of this machine."""
    return store.recipe.get("cpu_threads") or (default_cpu_threads() if device == "cpu" else None)


def label_views(
    teacher: Classifier, images: torch.Tensor, views: np.ndarray, description: ViewDescription, what: str = "logits"
) -> np.ndarray:
    """A block's images uint8 (n, H, W, 3), their views float32 (n, V, P), drawn as described or as many others -> float32
    (n, V, C) logits of the teacher, or (n, V, d) of its features, if that is ``what``."""
    label = teacher.features if what == "features" else teacher.logits
    count, num_views, _ = views.shape
    at_once = max(1, VIEWS_AT_ONCE // count)
    labels = []
    for first in range(0, num_views, at_once):
        pixels = render_block(
            images,
            views[:, first : first + at_once],
            components=description.components,
            size=description.size,
            interpolation=description.interpolation,
            padding=description.policy.padding or 0,
        )
        rows = torch.cat([label(part) for part in pixels.flatten(0, 1).split(VIEWS_AT_ONCE)])
        labels.append(rows.reshape(count, -1, rows.shape[1]))
    return torch.cat(labels, 1).cpu().numpy()


def label_quality(logits: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Logits (n, C) of the teacher's evaluation view, class ids (n,) -> float32 (n, 3): top-1, p(class id), entropy in nats."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    entropy = -(np.exp(log_p) * log_p).sum(1)
    p_class = np.exp(log_p[np.arange(len(logits)), class_ids])
    return np.stack([logits.argmax(1), p_class, entropy], 1).astype(np.float32)
