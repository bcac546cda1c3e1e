"""What a store's arrays take on disk, before there are any: bytes of each, how exactly they are known, and files."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dmkd.stores import Codec, LabelSet, Store
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

if TYPE_CHECKING:
    from dmkd.classifiers.classifier import Classifier

CHECKSUM_BYTES = 4  # of each chunk
RAW = Share("exact", 1.0)


@dataclass(frozen=True)
class StoreSize:
    """How much a store holds or is to hold, labels apart."""

    num_images: int
    block_size: int
    image_shape: tuple[int, int, int]
    image_codec: str
    store: Store | None  # None: there is none yet

    @classmethod
    def of(cls, store: Store) -> "StoreSize":
        """That of a store as it is."""
        return cls(store.num_images, store.block_size, store.image_shape, str(store.image_codec), store)

    @classmethod
    def with_images(cls, store: Store) -> "StoreSize":
        """That of the blocks of a store that have images."""
        made = (store.num_blocks - len(store.missing_blocks())) * store.block_size
        return replace(cls.of(store), num_images=min(store.num_images, made))

    @property
    def num_blocks(self) -> int:
        return -(-self.num_images // self.block_size)


@dataclass(frozen=True)
class PlannedLabels:
    """One label set that is there or would be made."""

    name: str
    view_set: ViewDescription
    codec: Codec
    find_teacher: "Callable[[], Classifier]"  # one without weights will do
    stored: LabelSet | None
    quality_view: ViewDescription | None  # looked at once more for the quality; None: that is view 0's

    @property
    def num_classes(self) -> int:
        return self.stored.num_classes if self.stored is not None else self.find_teacher().num_classes

    @property
    def views(self) -> int:
        """Views that the teacher looks at, its own one included."""
        return self.view_set.num_views + (self.quality_view is not None)

    @property
    def fitted(self) -> bool:
        return self.stored is not None and self.stored.fitted

    @property
    def coder(self) -> Coder:
        """The label set's; before the codec is fitted, one with constants of the largest shapes that a fit can give."""
        if self.stored is not None and self.stored.fitted:
            return self.stored.coder
        teacher = self.find_teacher()
        constants = self.codec.largest_constants(teacher.num_classes, self._num_features(teacher))
        return self.codec.bind(teacher.num_classes, constants)

    def _num_features(self, teacher: "Classifier") -> int:
        """Inputs of the teacher's last layer; where that is not linear, its classes bound what it can say."""
        import torch

        from dmkd.classifiers.classifier import no_linear_layer

        model: Any = teacher.model
        layer = model.get_classifier() if hasattr(model, "get_classifier") else None
        if isinstance(layer, torch.nn.Linear):
            return layer.in_features
        if "weight" in self.codec.needs:
            raise no_linear_layer(teacher, self.codec.name)
        return teacher.num_classes


def disk_sizes(size: StoreSize, label_sets: Sequence[PlannedLabels]) -> dict[str, Any]:
    """``arrays``: node -> ``bytes``, ``bytes_are`` ("exact", "at most", "about") and ``files``, its metadata's file among them;
    the same of all together, the bytes without metadata."""
    specs: dict[str, tuple[ArraySpec, Share]] = {
        IMAGES: (images_spec(size.image_shape), parse_image_codec(size.image_codec).expected_share),
        CLASS_IDS: (class_ids_spec(), RAW),
        CHECKS: (checks_spec(), RAW),
    }
    view_sets = {one.view_set.name: one.view_set for one in label_sets}
    if size.store is not None:
        view_sets |= {name: ViewDescription.of(view_set) for name, view_set in size.store.views.items()}
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
            taken = values.nbytes + CHECKSUM_BYTES
            constants[f"{node}/{CONSTANTS}/{part}"] = {"bytes": taken, "bytes_are": bytes_are, "files": 2}
    arrays: dict[str, dict[str, Any]] = {}
    for node, (spec, share) in specs.items():
        rows = size.block_size * math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        taken = size.num_blocks * (math.ceil(rows * share.of_raw) + CHECKSUM_BYTES)
        arrays[node] = {"bytes": taken, "bytes_are": share.exactness, "files": size.num_blocks + 1}
    arrays |= constants
    found = {array["bytes_are"] for array in arrays.values()}
    return {
        "arrays": arrays,
        "bytes": sum(array["bytes"] for array in arrays.values()),
        "bytes_are": next(loosest for loosest in ("about", "at most", "exact") if loosest in found),
        "files": sum(array["files"] for array in arrays.values()) + _groups(size, label_sets),
    }


def _groups(size: StoreSize, label_sets: Sequence[PlannedLabels]) -> int:
    """Files of the groups' metadata: root, views, labels, each label set, and its constants."""
    has_views = bool(label_sets) or bool(size.store and size.store.views)
    return 1 + has_views + bool(label_sets) + sum(1 + bool(one.codec.constants) for one in label_sets)


def missing_bytes(size: StoreSize, label_sets: Sequence[PlannedLabels]) -> Counter[str]:
    """Bytes of :func:`disk_sizes` that are not in the store yet, by how exactly they are known."""
    missing: Counter[str] = Counter()
    for node, array in disk_sizes(size, label_sets)["arrays"].items():
        chunks = array["files"] - 1
        there = len(size.store.chunks.tree.present_blocks(node)) if size.store and _has(size.store, node) else 0
        missing[array["bytes_are"]] += array["bytes"] * max(0, chunks - there) // max(1, chunks)
    return missing


def _has(store: Store, node: str) -> bool:
    """Whether a store has this array, with blocks or without."""
    parent, _, name = node.rpartition("/")
    return name in store.chunks.tree.children(parent)
