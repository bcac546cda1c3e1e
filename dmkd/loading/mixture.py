"""Several stores in one: each batch takes its share of every store, whatever the number of ranks."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from dmkd.loading.batch import Batch
from dmkd.loading.ingredient import Ingredient
from dmkd.loading.loader import MOST_THREADS, Loader
from dmkd.loading.order import Batches, Chosen, in_proportion
from dmkd.recipes.label_choice import parse_labels
from dmkd.recipes.randomness import key64
from dmkd.runtime.devices import default_cpu_threads
from dmkd.runtime.space import MEMORY_BYTES
from dmkd.stores import Store, UsageError


@dataclass
class MixedBatch:
    """n images of several stores: a :class:`~dmkd.loading.Batch` of each that has images in it, one after another."""

    parts: list[Batch]
    stores: list[str]  # the path of each part's store
    size: int  # pixels, height and width, of the first store's views

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def class_ids(self) -> torch.Tensor:
        """int64 (n,), the first store's numbers."""
        return torch.cat([part.class_ids for part in self.parts])

    def pixels(self, *, size: int | None = None, interpolation: str | None = None) -> torch.Tensor:
        """The views, uint8 (n, 3, S, S). ``size`` S None: that of the first store's views; ``interpolation`` None: each part's
        own, as its teachers saw it."""
        size = size or self.size
        return torch.cat([part.pixels(size=size, interpolation=interpolation) for part in self.parts])

    def logits(self, temperature: float = 1.0) -> torch.Tensor:
        """The teachers' logits, float32 (n, C), as a batch has them. Raises ``UsageError`` if a part has no labels."""
        for part, store in zip(self.parts, self.stores, strict=True):
            if not part.labels:
                raise UsageError(f"There are no logits of {store}, which is learnt from without labels: go by .parts.")
        return torch.cat([part.logits(temperature) for part in self.parts])


class Mixture:
    """Batches of several stores, with the face of a :class:`~dmkd.loading.Loader`.

    ``weights``: shares of each batch, one for each store; None: as many images as each has, so that each comes once an epoch.
    An epoch is as many images as the stores hold together. A store that is used up goes on with its next epoch, in another order
    and with other views; one that is not goes on there in the next epoch of all. Shares are exact over an epoch, and in each
    batch to an image or so. Batches are those of a single rank, whatever ``world_size``, and each rank has its share of each
    store's part in them.

    Classes are matched by name: ``class_ids`` and logits have the first store's numbers. ``memory`` is shared in proportion to
    the stores' pixels, ``threads`` evenly; other ``options`` are those of each :class:`~dmkd.loading.Loader`.

    Raises ``UsageError`` for a store that is named twice, for classes that don't match, and for a weight that leaves a store
    less than one image an epoch.
    """

    def __init__(
        self,
        ingredients: Sequence[Ingredient],
        weights: Sequence[float] | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        memory: int = MEMORY_BYTES,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ) -> None:
        stores = [one.store for one in ingredients]
        pixels = [store.num_images * prod(store.image_shape) for store in stores]
        threads = max(1, (threads or min(MOST_THREADS, default_cpu_threads())) // len(stores))
        self.loaders = [
            loader_of(
                one,
                class_numbers=one.class_numbers(stores[0]),
                batch_size=batch_size,
                # Stores that were made alike would be read alike: the same classes and noises side by side.
                seed=seed if number == 0 else int(key64(seed, f"store {number}")),
                memory=memory * of_store // sum(pixels),
                threads=threads,
                **options,
            )
            for number, (one, of_store) in enumerate(zip(ingredients, pixels, strict=True))
        ]
        self.images = images_an_epoch([loader.num_images for loader in self.loaders], weights, stores)
        self.batches = Batches(int(self.images.sum()), batch_size, rank, world_size)
        self.next_epoch = 0

    @property
    def num_images(self) -> int:
        """Images an epoch, of all stores and ranks together."""
        return self.batches.num_images

    @property
    def selection_notice(self) -> str | None:
        return " ".join(filter(None, (loader.selection_notice for loader in self.loaders))) or None

    @property
    def order_description(self) -> dict[str, Any]:
        """What the order of the images is a function of, beside the stores."""
        each = [loader.order_description for loader in self.loaders]
        batch_size = self.batches.batch_size * self.batches.world_size
        return {**each[0], "order": ", ".join(one["order"] for one in each), "batch_size": batch_size}

    def __len__(self) -> int:
        """Batches an epoch, of this rank and of any other."""
        return len(self.batches)

    def __iter__(self) -> Iterator[MixedBatch]:
        """The next epoch's batches; the first is epoch 0, or what :meth:`set_epoch` said."""
        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        return self.epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch ``for batch in mixture`` is next."""
        self.next_epoch = epoch

    def epoch(self, epoch: int, first_batch: int = 0, every: int = 1) -> Generator[MixedBatch, None, None]:
        """The batches of an epoch, from ``first_batch`` on, every ``every``-th from there."""
        chosen = [batches[first_batch::every] for batches in self._batches_of(epoch)]
        size = self.loaders[0].view_set.attributes["size"]
        with ExitStack() as stack:
            running = [
                stack.enter_context(closing(loader.read([batch for batch in batches if len(batch[0])])))
                for loader, batches in zip(self.loaders, chosen, strict=True)
            ]
            for of_stores in zip(*chosen, strict=True):
                there = [number for number, (ids, _) in enumerate(of_stores) if len(ids)]
                yield MixedBatch(
                    [next(running[number]) for number in there],
                    [self.loaders[number].store.path for number in there],
                    size,
                )

    def _batches_of(self, epoch: int) -> list[list[Chosen]]:
        """Each store's part of each of this rank's batches."""
        sizes = self.batches.sizes
        until = in_proportion(self.images[None], np.cumsum(sizes))
        parts = np.diff(until, axis=0, prepend=0)  # (batches, stores)
        first, last = (in_proportion(parts, border) for border in self.batches.share(sizes))
        return [
            list(loader.order_of.batches(epoch * images, parts[:, n], first[:, n], last[:, n]))
            for n, (loader, images) in enumerate(zip(self.loaders, self.images.tolist(), strict=True))
        ]


def loader_of(one: Ingredient, **options: Any) -> Loader:
    """The loader of one store, which may be one of several; ``options`` are those of :class:`~dmkd.loading.Loader`."""
    return Loader(one.store, labels=parse_labels(one.labels), view_set=one.view_set, select=one.select, **options)


def images_an_epoch(there: Sequence[int], weights: Sequence[float] | None, stores: Sequence[Store]) -> np.ndarray:
    """Images that an epoch takes of each store, int64 (stores,), of as many as are ``there`` in all."""
    for store in stores:
        if sum(store.path == other.path for other in stores) > 1:
            raise UsageError(f"{store.path} is named twice: name each store once, with a weight if you like.")
    if weights is None:
        return np.array(there)
    until = np.round(np.cumsum(weights) / sum(weights) * sum(there)).astype(np.int64)
    images = np.diff(until, prepend=0)
    for store, weight, taken in zip(stores, weights, images, strict=True):
        if not taken:
            raise UsageError(f"{store.path}={weight:g} leaves this store less than one image an epoch: give it more.")
    return images
