"""What a store's arrays take on disk, before there are any: bytes of each, how exactly they are known, and files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.classifier import Classifier, no_linear_layer
from dmkd.making.resolve import WantedImages
from dmkd.stores import Codec, LabelSet
from dmkd.stores.codecs import Coder
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.stores.layout import (
    CHECKS,
    CLASS_IDS,
    CONSTANTS,
    IMAGES,
    LABELS,
    VIEWS,
    ArraySpec,
    Share,
    checks_spec,
    class_ids_spec,
    images_spec,
    label_specs,
    views_spec,
)
from dmkd.views.description import ViewDescription

CHECKSUM_BYTES = 4  # of each chunk
RAW = Share("exact", 1.0)


@dataclass(frozen=True)
class PlannedLabels:
    """One label set that is there or would be made."""

    name: str
    view_set: ViewDescription
    codec: Codec
    teacher: Classifier  # on the meta device
    stored: LabelSet | None

    @property
    def views(self) -> int:
        """Views that the teacher looks at, its own one included."""
        return self.view_set.num_views + (not self.view_set.has_canonical)

    @property
    def fitted(self) -> bool:
        return self.stored is not None and self.stored.fitted

    @property
    def coder(self) -> Coder:
        """The label set's; before the codec is fitted, one with constants of the largest shapes that a fit can give."""
        if self.stored is not None and self.stored.fitted:
            return self.stored.coder
        classes = self.teacher.num_classes
        return self.codec.bind(classes, self.codec.largest_constants(classes, self._num_features()))

    def _num_features(self) -> int:
        """Inputs of the teacher's last layer; where that is not linear, its classes bound what it can say."""
        model: Any = self.teacher.model
        layer = model.get_classifier() if hasattr(model, "get_classifier") else None
        if isinstance(layer, torch.nn.Linear):
            return layer.in_features
        if "weight" in self.codec.needs:
            raise no_linear_layer(self.teacher, self.codec.name)
        return self.teacher.num_classes


def disk_sizes(wanted: WantedImages, label_sets: Sequence[PlannedLabels]) -> dict[str, Any]:
    """``arrays``: node -> ``bytes``, ``bytes_are`` ("exact", "at most", "about") and ``files``, its metadata's file among them;
    the same of all together, the bytes without metadata."""
    specs: dict[str, tuple[ArraySpec, Share]] = {
        IMAGES: (images_spec(wanted.image_shape), parse_image_codec(wanted.recipe.image_codec).expected_share),
        CLASS_IDS: (class_ids_spec(), RAW),
        CHECKS: (checks_spec(), RAW),
    }
    view_sets = {one.view_set.name: one.view_set for one in label_sets}
    if wanted.store is not None:
        view_sets |= {name: ViewDescription.of(view_set) for name, view_set in wanted.store.views.items()}
    for name, view_set in view_sets.items():
        specs[f"{VIEWS}/{name}"] = (views_spec(view_set.num_views, len(view_set.components)), RAW)
    constants: dict[str, dict[str, Any]] = {}
    for one in label_sets:
        node, coder = f"{LABELS}/{one.name}", one.coder
        encoded = coder.arrays(one.view_set.num_views)
        for part, spec in label_specs(encoded).items():
            share = one.codec.expected_share(part, spec) if part in encoded else RAW
            specs[f"{node}/{part}"] = (spec, share)
        bytes_are = "at most" if "sample" in one.codec.needs and not one.fitted else "exact"
        for part, values in coder.constants.items():
            size = values.nbytes + CHECKSUM_BYTES
            constants[f"{node}/{CONSTANTS}/{part}"] = {"bytes": size, "bytes_are": bytes_are, "files": 2}
    chunks = -(-wanted.num_images // wanted.block_size)
    arrays: dict[str, dict[str, Any]] = {}
    for node, (spec, share) in specs.items():
        rows = wanted.block_size * math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        size = chunks * (math.ceil(rows * share.of_raw) + CHECKSUM_BYTES)
        arrays[node] = {"bytes": size, "bytes_are": share.exactness, "files": chunks + 1}
    arrays |= constants
    found = {array["bytes_are"] for array in arrays.values()}
    return {
        "arrays": arrays,
        "bytes": sum(array["bytes"] for array in arrays.values()),
        "bytes_are": next(loosest for loosest in ("about", "at most", "exact") if loosest in found),
        "files": sum(array["files"] for array in arrays.values()) + _groups(wanted, label_sets),
    }


def _groups(wanted: WantedImages, label_sets: Sequence[PlannedLabels]) -> int:
    """Files of the groups' metadata: root, views, labels, each label set, and its constants."""
    has_views = bool(label_sets) or bool(wanted.store and wanted.store.views)
    return 1 + has_views + bool(label_sets) + sum(1 + bool(one.codec.constants) for one in label_sets)
