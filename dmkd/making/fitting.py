"""Fitting label codecs: the constants that a codec needs before its first block, made once and never changed."""

from collections.abc import Sequence

import numpy as np
import torch

from dmkd.classifiers.classifier import Classifier, linear_head
from dmkd.classifiers.teachers import teacher_of_labels
from dmkd.making.labelling import label_views
from dmkd.runtime.devices import make_deterministic, release_gpu_memory
from dmkd.runtime.progress import Display
from dmkd.stores import LabelSet, MissingBlockError, Store
from dmkd.views.description import ViewDescription

# Views whose logits a codec is fitted on. With the teacher's last layer known, more of them gain little (klt at step 1,
# 1000 classes: 512 views 140 bytes, 2048 views 133).
SAMPLE_VIEWS = 2048
# Of each image, if there are enough of them: views of one image are alike. Simulated (1000 classes, 50 views), klt's error on
# other images at step 2: fitted on 41 images 0.585 (0.428 with the last layer), on 512 images 0.414 (0.413), on 1024 0.412.
VIEWS_OF_AN_IMAGE = 4


def blocks_to_fit_on(num_views: int, block_size: int) -> int:
    """How many blocks hold enough views to fit a codec on."""
    return -(-SAMPLE_VIEWS // (min(num_views, VIEWS_OF_AN_IMAGE) * block_size))


def views_to_fit_on(num_views: int, images: int, block: int) -> np.ndarray:
    """Which of the views of a block's images a codec is fitted on, where so many ``images`` are there in all: int64 (k,),
    ascending. The next block shows others."""
    count = min(num_views, max(VIEWS_OF_AN_IMAGE, -(-SAMPLE_VIEWS // images)))
    return np.sort((block * count + np.arange(count)) % num_views)


def pilot_blocks(store: Store, names: Sequence[str]) -> list[int]:
    """The first blocks, whose images must be there before these label sets can be fitted; none if none needs a sample."""
    views = [store.labels[name].num_views for name in names if _needs_sample(store.labels[name])]
    count = blocks_to_fit_on(min(views), store.block_size) if views else 0
    return list(range(min(count, store.num_blocks)))


def fit_label_sets(store: Store, names: Sequence[str], device: str, cpu_threads: int | None, display: Display) -> None:
    """Fit the codecs of these label sets that are not fitted yet, on the first blocks that have images."""
    for name in names:
        label_set = store.labels[name]
        if label_set.fitted:
            continue
        make_deterministic(device, cpu_threads)
        teacher = teacher_of_labels(store, label_set, device)
        head = linear_head(teacher, label_set.codec.name) if "weight" in label_set.codec.needs else teacher.head()
        weight, bias = head if head is not None else (None, None)
        sample = sample_logits(store, label_set, teacher, device) if _needs_sample(label_set) else None
        store.refresh()
        if store.labels[name].fitted:  # by another process meanwhile, on the same images
            continue
        store.fit_label_set(name, label_set.codec.fit(label_set.num_classes, sample=sample, weight=weight, bias=bias))
        for sentence in store.labels[name].coder.notices(name):
            display.notice(sentence)
    release_gpu_memory()  # workers on the same GPU come next


def sample_logits(store: Store, label_set: LabelSet, teacher: Classifier, device: str) -> np.ndarray:
    """The teacher's logits of a few views each of the first images that can be had, float32 (m, C), ordered by image."""
    missing = set(store.missing_blocks())
    blocks = [block for block in range(store.num_blocks) if block not in missing]
    num_images = sum(len(store.block_ids(block)) for block in blocks)
    view_set = store.views[label_set.view_set]
    description = ViewDescription.of(view_set)
    rows: list[np.ndarray] = []
    for block in blocks:
        if sum(map(len, rows)) >= SAMPLE_VIEWS:
            break
        ids = np.array(store.block_ids(block))
        views = view_set[ids] if view_set.has_block(block) else description.draw(ids)
        few = views[:, views_to_fit_on(description.num_views, num_images, block)]
        images = torch.from_numpy(store.images[ids]).to(device)
        rows.append(label_views(teacher, images, few, description).reshape(-1, label_set.num_classes))
    if not rows:
        raise MissingBlockError(f"{store.path} has no images yet to fit label set {label_set.name!r} on.")
    return np.concatenate(rows)[:SAMPLE_VIEWS]


def _needs_sample(label_set: LabelSet) -> bool:
    return not label_set.fitted and "sample" in label_set.codec.needs
