"""SPINE 1: ids -> class ids and seeds -> pixels -> views -> logits -> one block of the store."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.classifier import Classifier, linear_head
from dmkd.classifiers.teachers import teacher_of_labels
from dmkd.generators.interface import ImageGenerator
from dmkd.generators.load import load_generator
from dmkd.making.critics import critic_of
from dmkd.making.images import make_images
from dmkd.making.labelling import label_quality, label_views
from dmkd.recipes.dtypes import vae_dtype
from dmkd.recipes.recipe import Recipe
from dmkd.recipes.rounds import Round, by_round
from dmkd.runtime.accelerators import upload
from dmkd.runtime.devices import make_deterministic
from dmkd.runtime.own_code import look_in
from dmkd.runtime.versions import machine
from dmkd.steering.critic import Critic
from dmkd.stores import LabelSet, MismatchError, Store, locations, open_store
from dmkd.stores.layout import ROUND, SCORE
from dmkd.views.description import ViewDescription


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
    """What a worker must know (a :class:`dmkd.engine.stages.Order`); small and picklable."""

    store_path: str
    label_sets: tuple[str, ...]
    device: str
    cpu_threads: int | None
    generator: str | None  # ``GeneratorSource.weights``; None: no images are made, those that are there are labelled
    endpoint_url: str | None = field(default_factory=locations.endpoint)  # S3 server; workers may be on other machines
    folder: str = field(default_factory=os.getcwd)  # where the user's own functions are looked for, as here

    @property
    def reads(self) -> bool:
        """Whether blocks are made from images that the store holds."""
        return self.generator is None

    def for_actor(self) -> "WorkOrder":
        """The same order in a process that sees one GPU only, as its first."""
        return replace(self, device="cuda") if self.device.startswith("cuda") else self

    def new_worker(self) -> "BlockWorker":
        """Load the models."""
        return BlockWorker(self)

    def new_writer(self) -> Callable[[MadeBlock], int]:
        """What writes blocks that other processes have made; it loads no models."""
        return partial(write_made, open_store(self.store_path))


@dataclass(frozen=True)
class StoredInputs:
    """What a block that has images is labelled from."""

    images: np.ndarray  # uint8 (n, H, W, 3)
    class_ids: np.ndarray  # int32 (n,)
    views: dict[str, np.ndarray]  # those that the teachers look at
    new_views: dict[str, np.ndarray]  # those of them that are not in the store yet


@dataclass(frozen=True)
class MadeImages:
    """Images that are still to be labelled, on the device."""

    block: int
    ids: np.ndarray  # int64 (n,)
    images: torch.Tensor  # uint8 (n, H, W, 3)
    class_ids: np.ndarray  # int32 (n,)
    columns: dict[str, np.ndarray]  # of rounds, float64 (n,)
    made: "torch.cuda.Event"  # after which the images are there


class BlockWorker:
    """Holds the models of a work order on one device and makes blocks (a :class:`dmkd.engine.stages.Worker`)."""

    def __init__(self, order: WorkOrder) -> None:
        locations.set_endpoint(order.endpoint_url)
        look_in(order.folder)
        make_deterministic(order.device, order.cpu_threads)
        self.order = order
        self.store = open_store(order.store_path)
        self.labels = self.store.labels
        self.view_sets = self.store.views
        looked_at = self.view_sets if order.generator else {self.labels[name].view_set for name in order.label_sets}
        self.views = {name: ViewDescription.of(self.view_sets[name]) for name in looked_at}
        self.generator: ImageGenerator | None = None
        if order.generator:
            self.recipe = Recipe.from_json(self.store.recipe)
            self.generator = self._load_generator(order.generator)
        self.teachers = {name: self._load_teacher(self.labels[name]) for name in order.label_sets}
        by_features = [name for name in order.label_sets if self.labels[name].codec.input == "features"]
        self.quality_views = {
            name: self.views[self.labels[name].view_set].quality_view(self.labels[name].quality_view)
            for name in self.teachers
        }
        self.rounds = [Round.from_json(one.description) for one in self.store.rounds] if order.generator else []
        self.critics: dict[int, Critic] = {}
        self.heads = {name: linear_head(self.teachers[name], self.labels[name].codec.name) for name in by_features}
        self.beside = self._stream_beside()

    def _stream_beside(self) -> "torch.cuda.Stream | None":
        """A stream for labels of one block while the next one is sampled; None: labels are made before. On a CPU both would
        compete for the same cores, and a thread has its own number of threads, on which pixels depend."""
        if self.generator is None or not self.order.device.startswith("cuda"):
            return None
        if any(one.student for one in self.rounds):  # the teacher is at work while images are sampled
            return None
        dtype = self.recipe.dtype
        if dtype is None or "float32" in (dtype, vae_dtype(dtype, self.recipe.vae_dtype)):
            # How float32 products are rounded is a setting of the process, and teachers change it.
            return None
        return torch.cuda.Stream(self.order.device)

    def facts(self) -> dict[str, Any]:
        """The machine, for the run log."""
        return machine(self.order.device)

    def read(self, block: int) -> StoredInputs | None:
        """The images to be labelled; None if they are to be made."""
        if self.generator is not None:
            return None
        ids = np.array(self.store.block_ids(block))
        return StoredInputs(self.store.images[ids], self.store.class_ids[ids], *self._views(block, ids))

    def make(self, block: int, inputs: StoredInputs | None) -> "MadeBlock | MadeImages":
        """Pixels (if there is a generator), and unless :meth:`finish` makes them views and labels of one block."""
        ids = np.array(self.store.block_ids(block))
        if inputs is not None:
            images = upload(inputs.images, self.order.device)
            labels = self._label(ids, images, inputs.class_ids, inputs.views)
            return MadeBlock(block, len(ids), {"views": inputs.new_views, "labels": labels})
        assert self.generator is not None
        images, class_ids, columns = self.make_images(ids)
        if self.beside is None:
            return self._labelled(block, ids, images, class_ids, columns)
        made = torch.cuda.Event()
        made.record(torch.cuda.current_stream(images.device))
        return MadeImages(block, ids, images, class_ids, columns, made)

    def make_images(self, ids: np.ndarray) -> tuple[torch.Tensor, np.ndarray, dict[str, np.ndarray]]:
        """Consecutive ids (n,) -> images uint8 (n, H, W, 3) on the device, class ids int32 (n,), and in a store with rounds the
        columns of these, float64 (n,), by name."""
        assert self.generator is not None
        parts = list(by_round(self.rounds, ids))
        made = [
            make_images(
                self.generator, self.recipe, part, self.rounds[number - 1] if number else None, self._critic(number)
            )
            for number, part in parts
        ]
        images, class_ids, scores = zip(*made, strict=True)
        numbers = np.repeat([float(number) for number, _ in parts], [len(part) for _, part in parts])
        columns = {ROUND: numbers, SCORE: np.concatenate(scores)} if self.rounds else {}
        return torch.cat(images), np.concatenate(class_ids), columns

    def _critic(self, number: int) -> Critic | None:
        """Of a round; None if it follows no student."""
        if not number or self.rounds[number - 1].student is None:
            return None
        if number not in self.critics:
            name = self.rounds[number - 1].labels
            self.critics[number] = critic_of(self.store, number, self.order.device, self.teachers.get(name or ""))
        return self.critics[number]

    def finish(self, made: "MadeBlock | MadeImages") -> MadeBlock:
        """Copy the images to the host and label them, on a stream of their own: the GPU samples the next block meanwhile."""
        if isinstance(made, MadeBlock):
            return made
        assert self.beside is not None
        with torch.cuda.stream(self.beside):
            self.beside.wait_event(made.made)
            return self._labelled(made.block, made.ids, made.images, made.class_ids, made.columns)

    def _labelled(
        self,
        block: int,
        ids: np.ndarray,
        images: torch.Tensor,
        class_ids: np.ndarray,
        columns: dict[str, np.ndarray],
    ) -> MadeBlock:
        pixels = images.cpu().numpy()
        if self.store.image_codec.lossy:  # the teacher labels what a reader will decode
            images = torch.from_numpy(self.store.as_stored(pixels)).to(images.device)
        views = {name: description.draw(ids) for name, description in self.views.items()}
        labels = self._label(ids, images, class_ids, views)
        arrays = {"views": views, "labels": labels, "class_ids": class_ids, "images": pixels, "columns": columns}
        return MadeBlock(block, len(ids), arrays)

    def write(self, made: MadeBlock) -> int:
        """Encode the labels and write the block; returns its number of images."""
        return write_made(self.store, made)

    def _label(
        self, ids: np.ndarray, images: torch.Tensor, class_ids: np.ndarray, views: dict[str, np.ndarray]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        labels = {}
        for name, teacher in self.teachers.items():
            label_set = self.labels[name]
            description, what = self.views[label_set.view_set], label_set.codec.input
            values = label_views(teacher, images, views[description.name], description, what)
            labels[name] = (values, self.quality(name, ids, images, class_ids, values))
        return labels

    def quality(
        self, name: str, ids: np.ndarray, images: torch.Tensor, class_ids: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """A block's quality in label set ``name``, float32 (n, 3). ``values`` (n, V, ...): the labels of its views."""
        own, what = self.quality_views[name], self.labels[name].codec.input
        seen = (values if own is None else label_views(self.teachers[name], images, own.draw(ids), own, what))[:, 0]
        if what == "features":
            weight, bias = self.heads[name]
            seen = seen @ weight.T + bias
        return label_quality(seen, class_ids)

    def _views(self, block: int, ids: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The views that the teachers look at, and those of them that must be written: the stored ones count."""
        views, new = {}, {}
        for name, description in self.views.items():
            view_set = self.view_sets[name]
            if view_set.has_block(block):
                views[name] = view_set.rows.block(block)
            else:
                views[name] = new[name] = description.draw(ids)
        return views, new

    def _load_generator(self, source: str) -> ImageGenerator:
        generator = load_generator(
            source,
            device=self.order.device,
            dtype=self.recipe.dtype,
            vae_dtype=self.recipe.vae_dtype,
            compile=self.recipe.compile,
            wording=self.recipe.wording(self.store.class_names),
            image_size=self.recipe.image_size,
            arguments=self.recipe.generator_args,
        )
        if generator.info.sha256 != self.recipe.generator_sha256:
            raise MismatchError(
                f"The weights of generator {source} have changed since {self.order.store_path} was begun "
                f"(sha256 {generator.info.sha256[:12]}…, the store has {self.recipe.generator_sha256[:12]}…): "
                "bring the old weights back, or begin another store."
            )
        return generator

    def _load_teacher(self, label_set: LabelSet) -> Classifier:
        teacher = teacher_of_labels(self.store, label_set, self.order.device)
        if teacher.sha256 != label_set.teacher["sha256"]:
            raise MismatchError(
                f"The weights of teacher {teacher.source} have changed since label set {label_set.name!r} of "
                f"{self.order.store_path} was begun (sha256 {teacher.sha256[:12]}…, the store has "
                f"{label_set.teacher['sha256'][:12]}…): bring the old weights back, or label under another --name."
            )
        return teacher
