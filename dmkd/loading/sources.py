"""Where rows come from: an array in memory, chunk files mapped into it, a window of blocks read ahead, or the GPU.

All have ``take(ids, view, out)``: copy the rows of ids int64 (n,), in any order, to ``out`` (n, ...); of a column by view, the
part of ``view`` int64 (n,).
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Protocol

import numpy as np
import torch

from dmkd.loading.buffers import aligned_empty
from dmkd.loading.columns import Column, ReadBlock
from dmkd.loading.disk_cache import DiskCache
from dmkd.loading.order import Chosen
from dmkd.runtime.accelerators import upload
from dmkd.stores import Store
from dmkd.stores.mapped import MappedArray, MappedBlocks

EPOCH = 2**32  # more than there are blocks


class Source(Protocol):
    def take(self, ids: np.ndarray, view: np.ndarray | None, out: np.ndarray) -> None: ...


def reader_of(store: Store, column: Column, cache: DiskCache | None) -> ReadBlock:
    """Reads a block's rows (n, ...), verified: straight from the file where that can be done, without Zarr's work for each
    chunk; else by way of the cache, if there is one."""
    if cache and column.name in cache.columns:
        return cache.columns[column.name].block
    if not column.plain or column.label_set is not None:  # labels are verified together, by way of the store
        return column.read
    mapped = mapped_array(store, column)
    return lambda block: mapped.read(block)[: len(store.block_ids(block))]


def mapped_array(store: Store, column: Column, max_maps: int = 2**30) -> MappedArray:
    return MappedArray(store.chunks, column.node, max_maps, column.prove)


class MappedRows:
    """A column whose blocks are mapped: from the store's files, or from a cache's."""

    def __init__(self, array: MappedBlocks) -> None:
        self._array = array

    def take(self, ids: np.ndarray, view: np.ndarray | None, out: np.ndarray) -> None:
        self._array.take(ids, out, view)


class MemoryRows:
    """A column held whole; each of ``blocks`` is read when it is first asked for."""

    def __init__(self, store: Store, column: Column, read: ReadBlock, blocks: np.ndarray) -> None:
        self._store, self._read = store, read
        # Not touched before it is filled, so blocks that are never asked for take no memory.
        self._rows = aligned_empty(column.shape, column.dtype)
        self._missing = set(blocks.tolist())
        self._filling = threading.Lock()

    def load(self, ids: np.ndarray, executor: Executor) -> None:
        """Read the blocks of these ids that are not there yet, several at a time."""
        if not self._missing or self._missing.isdisjoint(blocks := np.unique(ids // self._store.block_size).tolist()):
            return
        with self._filling:
            list(executor.map(self._load, self._missing.intersection(blocks)))

    def take(self, ids: np.ndarray, view: np.ndarray | None, out: np.ndarray) -> None:
        # "raise" would go through a buffer; the ids are known to exist.
        if view is None:
            self._rows.take(ids, 0, out, "clip")
        else:
            self._rows.reshape(-1, *self._rows.shape[2:]).take(ids * self._rows.shape[1] + view, 0, out, "clip")

    def _load(self, block: int) -> None:
        ids = self._store.block_ids(block)
        self._rows[ids.start : ids.stop] = self._read(block)
        self._missing.discard(block)


class DeviceRows:
    """A column on the device, read at once: rows are picked there, and nothing is copied any more."""

    def __init__(
        self, store: Store, column: Column, read: ReadBlock, blocks: np.ndarray, device: str, executor: Executor
    ) -> None:
        # Bytes: torch knows no index_select of uint16.
        self._dtype, self._taken_shape = column.dtype, column.taken_shape
        self._num_views = column.shape[1] if column.by_view else 1
        width = column.row_bytes // self._num_views
        self._rows = torch.empty(column.shape[0] * self._num_views, width, dtype=torch.uint8, device=device)
        on_gpu = self._rows.device.type == "cuda"

        def load(block: int) -> None:
            ids = store.block_ids(block)
            content = np.ascontiguousarray(read(block)).reshape(len(ids), -1).view(np.uint8)
            there = self._rows[ids.start * self._num_views : ids.stop * self._num_views]
            here = torch.empty(there.shape, dtype=torch.uint8, pin_memory=on_gpu)
            here.numpy()[...] = content.reshape(-1, width)
            there.copy_(here, non_blocking=on_gpu)

        list(executor.map(load, blocks.tolist()))
        if on_gpu:  # rows are picked on other streams than those that were copied on
            torch.cuda.synchronize(self._rows.device)

    def pick(self, ids: np.ndarray, view: np.ndarray | None) -> torch.Tensor:
        """(n, ...) on the device."""
        rows = ids if view is None else ids * self._num_views + view
        taken = self._rows[upload(rows, self._rows.device)]
        dtype = torch.from_numpy(np.empty(0, self._dtype)).dtype
        return taken.view(dtype).reshape(len(ids), *self._taken_shape)


class BlockWindow:
    """Blocks of some columns, read ahead by threads in the order of their use, and dropped after their last in an epoch."""

    def __init__(
        self,
        readers: Mapping[str, ReadBlock],
        batches: Sequence[Chosen],
        block_size: int,
        limit: int,
        executor: Executor,
    ) -> None:
        """``batches``: all that will be asked for, batch by batch. ``limit``: blocks held at most, those being read included;
        more only if a single batch needs more."""
        self.block_size, self.limit = block_size, limit
        self._readers, self._executor = readers, executor
        visits = np.concatenate([self._visits(chosen) for chosen in batches]) if batches else np.zeros(0, np.int64)
        self._unused: Counter[int] = Counter(visits.tolist())
        _, first = np.unique(visits, return_index=True)
        self._to_read = visits[np.sort(first)].tolist()[::-1]
        self._begun: set[int] = set()  # visits that are not over
        self._visiting: Counter[int] = (
            Counter()
        )  # how many there are of a block: one epoch may begin before another ends
        self._held: dict[int, Future[dict[str, np.ndarray]]] = {}
        self._read_ahead()

    def load(self, chosen: Chosen) -> None:
        """Wait until the blocks of these images are there."""
        for visit in np.unique(self._visits(chosen)).tolist():
            while visit not in self._begun:
                self._submit()
            self._held[visit % EPOCH].result()

    def release(self, chosen: Chosen) -> None:
        """These images have been used."""
        visits = self._visits(chosen)
        self._unused.subtract(visits.tolist())
        for visit in np.unique(visits).tolist():
            if not self._unused[visit]:
                self._begun.remove(visit)
                self._visiting[visit % EPOCH] -= 1
                if not self._visiting[visit % EPOCH]:
                    del self._held[visit % EPOCH]
        self._read_ahead()

    def _visits(self, chosen: Chosen) -> np.ndarray:
        """An epoch's visit to a block, as a number, of each image."""
        ids, epochs = chosen
        return epochs * EPOCH + ids // self.block_size

    @property
    def sources(self) -> dict[str, Source]:
        """Each column of the blocks that are there."""
        return {name: BlockRows(partial(self._column, name), self.block_size) for name in self._readers}

    def _column(self, name: str, block: int) -> np.ndarray:
        return self._held[block].result()[name]

    def _read_ahead(self) -> None:
        while self._to_read and len(self._held) < self.limit:
            self._submit()

    def _submit(self) -> None:
        visit = self._to_read.pop()
        self._begun.add(visit)
        if not self._visiting[visit % EPOCH]:
            self._held[visit % EPOCH] = self._executor.submit(self._read, visit % EPOCH)
        self._visiting[visit % EPOCH] += 1

    def _read(self, block: int) -> dict[str, np.ndarray]:
        return {name: read(block) for name, read in self._readers.items()}


class BlockCache:
    """The blocks of a column that were used last, for access in any order."""

    def __init__(self, read: ReadBlock, limit: int) -> None:
        self._read, self._limit = read, limit
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, block: int) -> np.ndarray:
        with self._lock:
            if block not in self._blocks:
                self._blocks[block] = self._read(block)
            self._blocks.move_to_end(block)
            rows = self._blocks[block]
            while len(self._blocks) > self._limit:
                self._blocks.popitem(last=False)
            return rows


class BlockRows:
    """Rows out of blocks (n, ...), wherever these come from."""

    def __init__(self, block: ReadBlock, block_size: int) -> None:
        self._block, self._block_size = block, block_size

    def take(self, ids: np.ndarray, view: np.ndarray | None, out: np.ndarray) -> None:
        blocks = ids // self._block_size
        for block in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == block)
            rows = ids[here] - block * self._block_size
            out[here] = self._block(block)[rows] if view is None else self._block(block)[rows, view[here]]
