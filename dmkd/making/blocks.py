"""SPINE 1: ids -> class ids and seeds -> pixels -> views -> logits -> one block of the store."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.classifier import Classifier, linear_head, load_classifier
from dmkd.generators.interface import ImageGenerator
from dmkd.generators.load import load_generator
from dmkd.making.label_sets import ViewPlan
from dmkd.recipes.recipe import Recipe
from dmkd.runtime.devices import make_deterministic
from dmkd.runtime.versions import machine
from dmkd.stores import LabelSet, MismatchError, Store, ViewSet, locations, open_store
from dmkd.views.draw import draw_views
from dmkd.views.policy import VIEW_COMPONENTS, ViewPolicy
from dmkd.views.render import render_block

# Views rendered and labelled at once. Fixed, so that a block's logits do not depend on who made it.
VIEWS_AT_ONCE = 256


@dataclass(frozen=True)
class MadeBlock:
    """A block on the host: what :meth:`dmkd.stores.Store.write_block` takes, and how many images it is."""

    block: int
    num_images: int
    arrays: dict[str, Any]


def write_made(store: Store, made: MadeBlock) -> int:
    """Encode the labels and write the block; returns its number of images."""
    store.write_block(made.block, **made.arrays)
    return made.num_images


@dataclass(frozen=True)
class WorkOrder:
    """What a worker must know; small and picklable."""

    store_path: str
    label_sets: tuple[str, ...]
    device: str
    cpu_threads: int | None
    generator: str | None  # folder or hub id; None: no images are made, those that are there are labelled
    endpoint_url: str | None = field(default_factory=locations.endpoint)  # S3 server; workers may be on other machines

    @property
    def reads(self) -> bool:
        """Whether blocks are made from images that the store holds."""
        return self.generator is None

    def for_actor(self) -> "WorkOrder":
        """The same order in a process that sees one GPU only, as its first."""
        return replace(self, device="cuda") if self.device.startswith("cuda") else self

    def new_worker(self) -> "BlockWorker":
        return BlockWorker(self)

    def new_writer(self) -> Callable[[MadeBlock], int]:
        return partial(write_made, open_store(self.store_path))


@dataclass(frozen=True)
class StoredInputs:
    """What a block that has images is labelled from."""

    images: np.ndarray  # uint8 (n, H, W, 3)
    class_ids: np.ndarray  # int32 (n,)
    views: dict[str, np.ndarray]  # those that the teachers look at
    new_views: dict[str, np.ndarray]  # those of them that are not in the store yet


class BlockWorker:
    """Holds the models of a work order on one device and makes blocks (a :class:`dmkd.engine.stages.Worker`)."""

    def __init__(self, order: WorkOrder) -> None:
        locations.set_endpoint(order.endpoint_url)
        make_deterministic(order.device, order.cpu_threads)
        self.order = order
        self.store = open_store(order.store_path)
        self.views = self.store.views
        self.labels = self.store.labels
        self.generator: ImageGenerator | None = None
        if order.generator:
            self.recipe = Recipe.from_json(self.store.recipe)
            self.generator = self._load_generator(order.generator)
        self.teachers = {name: self._load_teacher(self.labels[name]) for name in order.label_sets}
        by_features = [name for name in order.label_sets if self.labels[name].codec.input == "features"]
        self.heads = {name: linear_head(self.teachers[name], self.labels[name].codec.name) for name in by_features}

    def facts(self) -> dict[str, Any]:
        """The machine, for the run log."""
        return machine(self.order.device)

    def read(self, block: int) -> StoredInputs | None:
        """The images to be labelled; None if they are to be made."""
        if self.generator is not None:
            return None
        ids = np.array(self.store.block_ids(block))
        return StoredInputs(self.store.images[ids], self.store.class_ids[ids], *self._views(block, ids))

    def make(self, block: int, inputs: StoredInputs | None) -> MadeBlock:
        """Pixels (if there is a generator), views and labels of one block.

        Copying pixels to the host makes the GPU wait: 12 MB, a millisecond of a block's many seconds.
        """
        ids = np.array(self.store.block_ids(block))
        if inputs is not None:
            images = torch.from_numpy(inputs.images).to(self.order.device)
            labels = self._label(images, inputs.class_ids, inputs.views)
            return MadeBlock(block, len(ids), {"views": inputs.new_views, "labels": labels})
        assert self.generator is not None
        images, class_ids = make_images(self.generator, self.recipe, ids)
        pixels = images.cpu().numpy()
        if self.store.image_codec.lossy:  # the teacher labels what a reader will decode
            images = torch.from_numpy(self.store.as_stored(pixels)).to(images.device)
        views = {name: views_of_block(view_set, ids) for name, view_set in self.views.items()}
        labels = self._label(images, class_ids, views)
        arrays = {"views": views, "labels": labels, "class_ids": class_ids, "images": pixels}
        return MadeBlock(block, len(ids), arrays)

    def write(self, made: MadeBlock) -> int:
        """Encode the labels and write the block; returns its number of images."""
        return write_made(self.store, made)

    def _label(
        self, images: torch.Tensor, class_ids: np.ndarray, views: dict[str, np.ndarray]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        labels = {}
        for name, teacher in self.teachers.items():
            label_set = self.labels[name]
            view_set = self.views[label_set.view_set]
            values = label_views(teacher, images, views[view_set.name], view_set, label_set.codec.input)
            canonical = values[:, 0]
            if not has_canonical_view(view_set):
                plan, boxes = canonical_views(view_set, len(images))
                canonical = label_views(teacher, images, boxes, plan, label_set.codec.input)[:, 0]
            if label_set.codec.input == "features":
                weight, bias = self.heads[name]
                canonical = canonical @ weight.T + bias
            labels[name] = (values, label_quality(canonical, class_ids))
        return labels

    def _views(self, block: int, ids: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The views that the teachers look at, and those of them that must be written: the stored ones count."""
        views, new = {}, {}
        for name in {self.labels[label_set].view_set for label_set in self.order.label_sets}:
            view_set = self.views[name]
            if view_set.has_block(block):
                views[name] = view_set.rows.block(block)
            else:
                views[name] = new[name] = views_of_block(view_set, ids)
        return views, new

    def _load_generator(self, source: str) -> ImageGenerator:
        generator = load_generator(
            source,
            device=self.order.device,
            dtype=self.recipe.dtype,
            compile=self.recipe.compile,
            wording=self.recipe.wording(self.store.class_names),
            image_size=self.recipe.image_size,  # of use to text-to-image generators only, as the wording
        )
        if generator.info.sha256 != self.recipe.generator_sha256:
            raise MismatchError(
                f"The weights of generator {source} have changed since {self.order.store_path} was begun "
                f"(sha256 {generator.info.sha256[:12]}…, the store has {self.recipe.generator_sha256[:12]}…): "
                "bring the old weights back, or begin another store."
            )
        return generator

    def _load_teacher(self, label_set: LabelSet) -> Classifier:
        teacher = load_classifier(label_set.source, device=self.order.device)
        if teacher.sha256 != label_set.teacher["sha256"]:
            raise MismatchError(
                f"The weights of teacher {teacher.source} have changed since label set {label_set.name!r} of "
                f"{self.order.store_path} was begun (sha256 {teacher.sha256[:12]}…, the store has "
                f"{label_set.teacher['sha256'][:12]}…): bring the old weights back, or label under another --name."
            )
        return teacher


def make_images(generator: ImageGenerator, recipe: Recipe, ids: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Consecutive ids (n,) -> images uint8 (n, H, W, 3) on the generator's device, class ids int32 (n,).

    Sampled in sub-batches of one fixed size, the last one filled up with the ids that follow: a convolution may choose
    another algorithm for another batch size, so only equal shapes give equal bits.
    """
    parts = []
    for start in range(0, len(ids), recipe.sub_batch):
        sampled = np.arange(ids[start], ids[start] + recipe.sub_batch)
        parts.append(
            generator.sample(
                recipe.class_ids(sampled),
                recipe.image_seeds(sampled),
                sampler=recipe.sampler,
                steps=recipe.steps,
                guidance=recipe.image_guidance(sampled),
                guidance_interval=recipe.guidance_interval,
                guided_channels=recipe.guided_channels,
            )
        )
    return torch.cat(parts)[: len(ids)], recipe.class_ids(ids)


def views_of_block(view_set: ViewSet | ViewPlan, ids: np.ndarray) -> np.ndarray:
    """The views of a whole block of ids (n,), as its view set's attributes say: float32 (n, V, P)."""
    description = view_set.attributes
    return draw_views(
        ViewPolicy.from_json(description["policy"]),
        description["seed"],
        ids,
        canonical=tuple(description["canonical"]),
        first=description["first"],
        image_size=tuple(description["image_size"]),
        output_size=description["size"],
        block_size=description["block_size"],
        num_in_block=len(ids),
    )


def has_canonical_view(view_set: ViewSet | ViewPlan) -> bool:
    """Whether view 0 is the evaluation view: in a store's first view set, and in sets of kind center."""
    return view_set.num_views > ViewPolicy.from_json(view_set.attributes["policy"]).num_random


def canonical_views(view_set: ViewSet, count: int) -> tuple[ViewPlan, np.ndarray]:
    """The evaluation view alone, for ``count`` images: a plan of one unmixed view, and float32 (count, 1, 5)."""
    box = np.array([*view_set.attributes["canonical"], 0], np.float32)
    return ViewPlan("canonical", 1, VIEW_COMPONENTS, view_set.attributes), np.tile(box, (count, 1, 1))


def label_views(
    teacher: Classifier, images: torch.Tensor, views: np.ndarray, view_set: ViewSet | ViewPlan, what: str = "logits"
) -> np.ndarray:
    """A block's images uint8 (n, H, W, 3), their views float32 (n, V, P) -> float32 (n, V, C) logits of the teacher, or
    (n, V, d) of its features, if that is ``what``."""
    label = teacher.features if what == "features" else teacher.logits
    count, num_views, _ = views.shape
    at_once = max(1, VIEWS_AT_ONCE // count)
    labels = []
    for first in range(0, num_views, at_once):
        pixels = render_block(
            images,
            views[:, first : first + at_once],
            components=view_set.components,
            size=view_set.attributes["size"],
            interpolation=view_set.attributes["interpolation"],
        )
        rows = torch.cat([label(part) for part in pixels.flatten(0, 1).split(VIEWS_AT_ONCE)])
        labels.append(rows.reshape(count, -1, rows.shape[1]))
    return torch.cat(labels, 1).cpu().numpy()


def label_quality(logits: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Logits (n, C) of the canonical view, class ids (n,) -> float32 (n, 3): top-1, p(class id), entropy in nats."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    entropy = -(np.exp(log_p) * log_p).sum(1)
    p_class = np.exp(log_p[np.arange(len(logits)), class_ids])
    return np.stack([logits.argmax(1), p_class, entropy], 1).astype(np.float32)
