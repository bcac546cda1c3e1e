"""The loader: an epoch of a store as batches, gathered and copied to the device by threads while others are in use."""

import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd.loading.batch import Batch
from dmkd.loading.columns import (
    CLASS_IDS,
    IMAGES,
    VIEWS,
    columns_of,
    fits_on_gpu_unasked,
    place_columns,
    refuse_what_does_not_fit,
    window_blocks,
)
from dmkd.loading.decoding import BatchDecoder
from dmkd.loading.disk_cache import DiskCache
from dmkd.loading.gather import Gatherer, Reading
from dmkd.loading.in_order import in_order
from dmkd.loading.order import Batches, Chosen, EpochOrder
from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.loading.transfer import Transfer
from dmkd.loading.usable import usable_images
from dmkd.runtime.accelerators import upload
from dmkd.runtime.devices import default_cpu_threads
from dmkd.runtime.space import MEMORY_BYTES
from dmkd.stores import Store, UsageError, ViewSet
from dmkd.views.shown import DrawnViews

RESIDENT = ("auto", "ram", "gpu")
MOST_THREADS = 4
# Small batches are gathered several at a time: what Python does for each would take longer than the copying.
TOGETHER_BYTES = 8 * 2**20


class Loader:
    """Batches of a store, an epoch at a time: ``for batch in loader`` is the next epoch, :meth:`epoch` any.

    ``labels`` maps label sets, all on one view set, to their weights; without any, ``view_set`` says which views to hand
    out, of the store or drawn by ``seed`` as they are needed. Which images are used, ``select`` and all, is
    :func:`dmkd.loading.usable.usable_images`'s to say; ``num_images`` counts them.

    ``class_numbers`` int64 (C,): the number that each of the store's classes has in class ids and logits; None: its own.

    Order (see :class:`dmkd.loading.order.EpochOrder`): ``batch_size`` is the largest batch of one rank; batches differ
    by one image at most and none is dropped. ``rank`` of ``world_size`` sees its part of each of the batches that a single
    rank would have. The same store, ``seed``, epoch, ``memory`` and choice of ``resident`` ("auto" and None being alike) give
    the same batches on any machine; :attr:`order_description` is what has to be equal.

    Reading: local uncompressed arrays are mapped and shuffled fully; what can't be mapped is read block by block through
    a window, a quarter of ``memory`` (bytes); small arrays are held in memory, up to half of it. ``resident``: "ram" or "gpu"
    keep the whole store there (``UsageError`` if it does not fit); "auto" uses the GPU if the store takes a quarter of its
    free memory at most. ``threads`` copy and read; ``depth`` batches (of small ones, a few MiB of them) are there or being made
    beside the one in use: None is one more than threads, 0 makes them as they are asked for.

    ``cache``: a folder on a local disk that keeps the blocks that can't be mapped where they are, ``cache_bytes`` at most (None:
    most of what is free there), for this run and others: from the second epoch on all is mapped, and the store is asked once an
    epoch whether it has changed. ``notice`` gets a sentence where not all can be kept. The order stays that of a window.

    Raises ``DamagedChunkError`` naming the chunk when a block that fails its checksum is first touched.
    """

    def __init__(
        self,
        store: Store,
        *,
        labels: Mapping[str, float] | None = None,
        view_set: str | None = None,
        batch_size: int,
        seed: int = 0,
        select: str | None = None,
        class_numbers: np.ndarray | None = None,
        device: str = "cpu",
        memory: int = MEMORY_BYTES,
        resident: str | None = "auto",
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        depth: int | None = None,
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        notice: Callable[[str], None] = warnings.warn,
    ) -> None:
        if resident not in (None, *RESIDENT):
            raise UsageError(f"resident is one of {', '.join(RESIDENT)} or None, not {resident!r}.")
        self.store, self.class_numbers = store, class_numbers
        self.threads = threads or min(MOST_THREADS, default_cpu_threads())
        self.depth = self.threads + 1 if depth is None else depth
        weights = labels or {}
        usable = usable_images(store, weights, view_set, select, view_seed=seed)
        self.label_sets = usable.label_sets
        self.selection_notice = usable.notice
        self.decoder = BatchDecoder(
            usable.view_set,
            {
                name: LabelDecoder(label_set.coder, device, class_numbers)
                for name, label_set in usable.label_sets.items()
            },
            {name: weight / sum(weights.values()) for name, weight in weights.items()},
            device,
        )
        self.columns = columns_of(store, usable.view_set, usable.label_sets)
        self.places = place_columns(self.columns, memory, resident)
        window, stretch = window_blocks(self.columns, self.places, store.block_size, memory)
        self.order_of = EpochOrder(usable.blocks, usable.selected, store.block_size, seed, window, stretch)
        self.batches = Batches(self.num_images, batch_size, rank, world_size)
        self.next_epoch = 0
        if resident in ("ram", "gpu"):
            refuse_what_does_not_fit(self.columns, resident, device)
        elif resident == "auto" and fits_on_gpu_unasked(self.columns, device):
            self.places = place_columns(self.columns, memory, "gpu")
        self._device, self._cache_at, self._notice = device, (cache, cache_bytes), notice
        self.cache: DiskCache | None = None
        self._open()
        self._just_opened = True

    @property
    def lineage(self) -> str:
        """The identity of what made the images that are read, see :meth:`dmkd.stores.reader.Reader.lineage_of`."""
        return self.store.lineage_of(np.flatnonzero(self.order_of.selected))

    def _open(self) -> None:
        """Open the columns, by way of the cache if there is one."""
        order, (folder, limit) = self.order_of, self._cache_at
        elsewhere = [column for column in self.columns if not column.plain]
        if folder is not None and any(column.part != VIEWS for column in elsewhere):
            self.cache = DiskCache(self.store, elsewhere, order.blocks, Path(folder), limit, self._notice)
        self._gatherer = Gatherer(
            self.store, self.columns, self.places, order.window, order.blocks, self._device, self.threads, self.cache
        )

    def _look_at_store(self) -> None:
        """Open everything again if the store has changed since: some of it is held in memory."""
        if self.cache and not self._just_opened and self.cache.store_has_changed():
            self.columns = columns_of(self.store, self.view_set, self.label_sets)
            self._open()
        self._just_opened = False

    @property
    def loaders(self) -> "list[Loader]":
        """The loader itself; of several stores, that of each."""
        return [self]

    @property
    def view_set(self) -> ViewSet | DrawnViews:
        """The views that the batches show."""
        return self.decoder.view_set

    @property
    def num_images(self) -> int:
        """Images an epoch, of all ranks together."""
        return self.order_of.num_images

    @property
    def window(self) -> int | None:
        """Blocks that are mixed at a time, or None: all images are."""
        return self.order_of.window

    # Epochs

    def __len__(self) -> int:
        """Batches an epoch, of this rank and of any other."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        """The next epoch's batches; the first is epoch 0, or what :meth:`set_epoch` said."""
        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        return self.epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch ``for batch in loader`` is next."""
        self.next_epoch = epoch

    @property
    def order_description(self) -> dict[str, Any]:
        """What the order of the images is a function of, beside the store: a run that is resumed must find it unchanged."""
        batch_size = self.batches.batch_size * self.batches.world_size
        return {"order": self.order_of.description, "seed": self.order_of.seed, "batch_size": batch_size}

    def batches_of(self, epoch: int) -> list[Chosen]:
        """This rank's batches of an epoch."""
        sizes = self.batches.sizes
        return list(self.order_of.batches(epoch * self.num_images, sizes, *self.batches.share(sizes)))

    def order(self, epoch: int) -> np.ndarray:
        """This rank's image ids in the order of an epoch, int64 (n,): each once."""
        return np.concatenate([ids for ids, _ in self.batches_of(epoch)])

    def views_of_epoch(self, ids: np.ndarray, epochs: np.ndarray | int) -> np.ndarray:
        """Which view of each image its epoch uses, int64 (n,): over V epochs each of V once, or in each epoch a new one."""
        epochs, num_views = np.broadcast_to(epochs, ids.shape), self.view_set.num_views
        return epochs if num_views is None else self.order_of.views(ids, epochs, num_views)

    def epoch(self, epoch: int, first_batch: int = 0, every: int = 1) -> Generator[Batch, None, None]:
        """The batches of an epoch, from ``first_batch`` on, every ``every``-th from there: the very batches of the whole epoch;
        the others are not read.

        Its threads end with the last batch, or when the generator is closed, as ``break`` does.
        """
        yield from self.read(self.batches_of(epoch)[first_batch::every])

    def read(self, batches: Sequence[Chosen]) -> Generator[Batch, None, None]:
        """These batches, read ahead by threads."""
        self._look_at_store()
        through_window = self._gatherer.needs_window(batches)
        largest = max((len(ids) for ids, _ in batches), default=1)
        # Never several through a window, which holds what single batches need.
        together = 1 if through_window else self._batches_together(largest)
        groups = [batches[first : first + together] for first in range(0, len(batches), together)]
        threads = 1 if through_window else self.threads  # the blocks of a window are decoded by all
        with ExitStack() as stack:
            reading = stack.enter_context(
                self._gatherer.reading(largest * together, batches if through_window else None)
            )
            transfer = stack.enter_context(self._transfer())
            make = partial(self._make, reading=reading, transfer=transfer)
            for made, sizes, done in stack.enter_context(closing(in_order(make, groups, threads, self.depth))):
                if transfer:
                    transfer.finish(made.tensors().values(), done)
                pieces = made.split(sizes)
                del made  # not kept while the next is waited for
                while pieces:
                    yield pieces.pop(0)

    def at(self, ids: np.ndarray, epoch: int = 0) -> Batch:
        """The batch of any ids, int64 (n,), in the order given, with the views of an epoch; on the loader's device."""
        if not self.order_of.selected[ids].all():
            raise UsageError(
                f"Not all of the images asked for are finished, labelled and selected in {self.store.path}."
            )
        with self._gatherer.reading(len(ids)) as reading, self._transfer() as transfer:
            chosen = (ids, np.full(len(ids), epoch))
            batch, _, done = self._make([chosen], reading=reading, transfer=transfer)
            if transfer:
                transfer.finish(batch.tensors().values(), done)
            return batch

    # Below: from ids to batches

    def _batches_together(self, largest: int) -> int:
        """Batches that are gathered at a time: more than one only if they are small."""
        return max(1, TOGETHER_BYTES // (largest * sum(column.taken_bytes for column in self.columns)))

    def _transfer(self) -> AbstractContextManager[Transfer | None]:
        """What copies to a GPU beside its computing, and is closed at the end."""
        device = self.decoder.device
        return closing(Transfer(device)) if device.startswith("cuda") else nullcontext()

    def _make(
        self, group: Sequence[Chosen], *, reading: Reading, transfer: Transfer | None
    ) -> tuple[Batch, list[int], Any]:
        """Some batches in one, on the device or on the way there; their sizes; the event after which they have arrived."""
        ids, epochs = (np.concatenate(part) for part in zip(*group, strict=True))
        sizes = [len(ids) for ids, _ in group]
        if transfer is None:
            batch = self._gather(ids, epochs, reading)
            moved = {name: upload(tensor, self.decoder.device) for name, tensor in batch.tensors().items()}
            return batch.with_tensors(moved), sizes, None
        with torch.cuda.stream(transfer.stream):  # what is kept on the device is picked there
            batch = self._gather(ids, epochs, reading)
        moved, done = transfer.begin(batch.tensors())
        return batch.with_tensors(moved), sizes, done

    def _gather(self, ids: np.ndarray, epochs: np.ndarray, reading: Reading) -> Batch:
        view = self.views_of_epoch(ids, epochs)
        with reading.blocks_of((ids, epochs)):
            batch = self._rows_of(ids, view, reading, with_labels=True)
            if "partner" in self.view_set.components:
                # A partner is a row of the same block, so nothing more is read.
                rows = batch.views[:, self.view_set.components.index("partner")].round().astype(np.int64)
                partner_ids = ids // self.store.block_size * self.store.block_size + rows
                batch.partners = self._rows_of(partner_ids, view, reading, with_labels=False)
        return batch

    def _rows_of(self, ids: np.ndarray, view: np.ndarray, reading: Reading, with_labels: bool) -> Batch:
        taken: dict[str, torch.Tensor] = {}
        labels: dict[str, dict[str, torch.Tensor]] = {}
        for column in self.columns:
            if column.label_set is None:
                taken[column.part] = reading.take(column, ids, view)
            elif with_labels:
                labels.setdefault(column.label_set, {})[column.part] = reading.take(column, ids, view)
        # Copies: a few kilobytes, so that numpy's slices of them are safe too.
        shown = self.view_set
        views = shown.draw(ids, view) if isinstance(shown, DrawnViews) else taken[VIEWS].numpy().copy()
        class_ids = taken[CLASS_IDS].long()
        if self.class_numbers is not None:
            class_ids = upload(self.class_numbers, class_ids.device)[class_ids]
        return Batch(self.decoder, ids, taken[IMAGES], class_ids, views, labels)
