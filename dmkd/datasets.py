"""A store for PyTorch's own DataLoader, for those whose trainer brings its own: timm's script, Lightning, Accelerate.

Both can be pickled to DataLoader's workers (also to spawned ones); each worker opens the store for itself. Where the
trainer is your own, use ``dmkd.loader``: it needs no workers, and nothing is copied between processes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dmkd.loading import Batch, Loader
from dmkd.loading.api import loader
from dmkd.stores import Store
from dmkd.views.render import normalise

Sample = dict[str, Any]


def pixels_and_class(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """A ``transform`` for trainers that take (input, target) and no dict, as timm's script does: pixels and class id."""
    return sample["pixels"], sample["class_id"]


class _Dataset:
    """What both have in common: a loader on the CPU, opened when it is first needed in each process."""

    _process: int  # that opened the loader

    def __init__(
        self,
        store: Store | str,
        labels: str | None = None,
        *,
        view_set: str | None = None,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        temperature: float = 1.0,
        transform: Callable[[Sample], Any] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.path = store.path if isinstance(store, Store) else str(store)
        self.size, self.mean, self.std, self.temperature = size, mean, std, temperature
        self.transform, self.epoch_number = transform, 0
        self.options = {
            "labels": labels,
            "view_set": view_set,
            "seed": seed,
            "device": "cpu",
            "resident": None,
            **options,
        }
        self._loader: Loader | None = None
        self.loader  # wrong options are refused here, not in a worker  # noqa: B018

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loader": None}

    def set_epoch(self, epoch: int) -> None:
        """Choose the views, and the order, of an epoch. Call it before each; workers that persist between epochs
        (``persistent_workers``) do not hear of it."""
        self.epoch_number = epoch

    @property
    def loader(self) -> Loader:
        # A forked worker inherits the loader, but not the threads of the libraries below it.
        if self._loader is None or self._process != os.getpid():
            self._loader = loader(self.path, **self.options)
            self._process = os.getpid()
        return self._loader

    def _sample(self, batch: Batch) -> Sample:
        """A whole batch: id int64 (n,), pixels (n, 3, S, S), class_id int64 (n,), and if there are labels logits (n, C)."""
        pixels = batch.pixels(size=self.size)
        if self.mean is not None and self.std is not None:
            pixels = normalise(pixels, self.mean, self.std)
        sample = {"id": torch.from_numpy(batch.ids), "pixels": pixels, "class_id": batch.class_ids}
        if batch.labels:
            sample["logits"] = batch.logits(self.temperature)
        return sample


class StoreDataset(_Dataset, torch.utils.data.Dataset[Any]):
    """Map-style: index -> the sample of the n-th finished, labelled and selected image, as a dict:

    ``id`` int64, ``pixels`` the view of this epoch, the one that the labels are of, uint8 (3, S, S), or float32 if ``mean``
    and ``std`` are given, ``class_id`` int64, and, if there are labels, ``logits`` float32 (C,), for
    softmax(logits / ``temperature``). ``transform`` turns the dict into whatever the trainer takes: :func:`pixels_and_class`
    into (pixels, class id). Of views that mix images (CutMix, Mixup), ``class_id`` is that of the first image.

    ``size`` S None: the view set's. ``options`` are those of ``dmkd.loader``: ``select``, ``memory``, ``threads``. Shuffling,
    batches and ranks are the DataLoader's: a ``RandomSampler`` or a ``DistributedSampler``. Where chunks are compressed or
    remote, random access decodes a block for nearly every image: use :class:`StoreIterableDataset`, or ``resident="ram"``.
    """

    def __init__(self, store: Store | str, labels: str | None = None, **options: Any) -> None:
        super().__init__(store, labels, **options)
        self.ids = np.flatnonzero(self.loader.order_of.selected)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several at once, as DataLoader asks for them: one gather, one rendering."""
        whole = self._sample(self.loader.at(self.ids[list(indices)], self.epoch_number))
        samples: list[Sample] = [{key: rows[i] for key, rows in whole.items()} for i in range(len(indices))]
        return [self.transform(sample) for sample in samples] if self.transform else samples


class StoreIterableDataset(_Dataset, torch.utils.data.IterableDataset[Any]):
    """Ready batches, those of ``dmkd.loader`` and in its order, however many workers there are: for
    ``DataLoader(dataset, batch_size=None, num_workers=...)``.

    A batch is a dict as in :class:`StoreDataset`, each entry with a first axis of n; ``transform`` is given a whole batch.
    Ranks share the images by ``rank`` and ``world_size``; the workers of a rank take its batches in turns (each of them reads
    all blocks where these are read through a window: then one worker is best). ``batch_size`` and the other ``options`` are
    those of ``dmkd.loader``.
    """

    def __init__(self, store: Store | str, labels: str | None = None, *, batch_size: int = 256, **options: Any) -> None:
        super().__init__(store, labels, batch_size=batch_size, **options)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for batch in self.loader.epoch(self.epoch_number, first, step):
            sample = self._sample(batch)
            yield self.transform(sample) if self.transform else sample
