"""From ids to tensors: each column's rows, from wherever the column is kept, into memory that is used again."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from dmkd.loading.buffers import BufferPool
from dmkd.loading.columns import Column, Place
from dmkd.loading.disk_cache import DiskCache
from dmkd.loading.order import Chosen
from dmkd.loading.sources import (
    BlockCache,
    BlockRows,
    BlockWindow,
    DeviceRows,
    MappedRows,
    MemoryRows,
    ReadBlock,
    Source,
    mapped_array,
    reader_of,
)
from dmkd.stores import Store
from dmkd.stores.mapped import map_limit


class Gatherer:
    """The columns of a store, opened where they are kept.

    ``places``: column -> where (:func:`dmkd.loading.columns.place_columns`); ``window``: the blocks that are mixed at a time
    where a column is read through one; ``blocks``: those that will be read; ``cache``: what keeps those that can't be mapped.
    Columns kept on the device are read at once.
    """

    def __init__(
        self,
        store: Store,
        columns: Sequence[Column],
        places: Mapping[str, Place],
        window: int | None,
        blocks: np.ndarray,
        device: str,
        threads: int,
        cache: DiskCache | None = None,
    ) -> None:
        self.store, self.columns, self.cache = store, columns, cache
        self.threads = max(threads, store.chunks.tree.reads_at_once)
        self.readers: dict[str, ReadBlock] = {c.name: reader_of(store, c, cache) for c in columns}
        self.pool = BufferPool(pinned=device.startswith("cuda"))
        self._window = window
        self._through_window = [c.name for c in columns if places[c.name] == "window"]
        mapped = sum(place == "mapped" for place in places.values())
        self._sources: dict[str, Source | DeviceRows] = {}
        with ThreadPoolExecutor(self.threads) as executor:
            for column in columns:
                self._sources[column.name] = self._open(column, places[column.name], mapped, blocks, device, executor)

    def needs_window(self, batches: Sequence[Chosen]) -> bool:
        """Whether anything of these batches must be read through a window: not if a cache has all of it."""
        if not self._through_window:
            return False
        blocks = np.unique(np.concatenate([ids // self.store.block_size for ids, _ in batches]) if batches else [])
        cached = self.cache.columns if self.cache else {}
        return not all(name in cached and cached[name].has_all(blocks.tolist()) for name in self._through_window)

    @contextmanager
    def reading(self, largest: int, batches: Sequence[Chosen] | None = None) -> Iterator["Reading"]:
        """What rows are read with, ``largest`` images at a time at most. ``batches``: all that will be read, in their order, for
        a window to read ahead; None: without a window."""
        # Two sets of threads: what is held whole is small and wanted by the first batch, and would wait for a window's blocks.
        with (
            ThreadPoolExecutor(self.threads, "dmkd-loader-reading") as reading,
            ThreadPoolExecutor(self.threads, "dmkd-loader-holding") as holding,
        ):
            try:
                window = self._window_of(batches, reading) if batches else None
                sources = self._sources if window is None else {**self._sources, **window.sources}
                yield Reading(self.pool, sources, window, holding, largest)
            finally:
                for executor in (reading, holding):
                    executor.shutdown(wait=False, cancel_futures=True)

    def _window_of(self, batches: Sequence[Chosen], executor: Executor) -> BlockWindow:
        readers = {name: self.readers[name] for name in self._through_window}
        return BlockWindow(readers, batches, self.store.block_size, 2 * (self._window or 1), executor)

    def _open(
        self, column: Column, place: Place, mapped: int, blocks: np.ndarray, device: str, executor: Executor
    ) -> Source | DeviceRows:
        read = self.readers[column.name]
        match place:
            case "memory":
                return MemoryRows(self.store, column, read, blocks)
            case "mapped":
                return MappedRows(mapped_array(self.store, column, map_limit() // mapped))
            case "device":
                return DeviceRows(self.store, column, read, blocks, device, executor)
            case "window" if self.cache and column.name in self.cache.columns:
                return MappedRows(self.cache.columns[column.name])
            case "window":  # for reading in any order; an epoch has a window of its own
                return BlockRows(BlockCache(read, limit=self._window or 2), self.store.block_size)


class Reading:
    """Rows of the columns; threads may share it, unless there is a window."""

    def __init__(
        self,
        pool: BufferPool,
        sources: Mapping[str, Source | DeviceRows],
        window: BlockWindow | None,
        executor: Executor,
        largest: int,
    ) -> None:
        self._pool, self._sources, self._window, self._largest = pool, sources, window, largest
        self._held = [source for source in sources.values() if isinstance(source, MemoryRows)]
        self._executor = executor

    @contextmanager
    def blocks_of(self, chosen: Chosen) -> Iterator[None]:
        """While this lasts, the blocks of these images are there to be taken from."""
        for source in self._held:
            source.load(chosen[0], self._executor)
        if self._window:
            self._window.load(chosen)
        yield
        if self._window:
            self._window.release(chosen)

    def take(self, column: Column, ids: np.ndarray, view: np.ndarray | None) -> torch.Tensor:
        """The rows of ids int64 (n,), of a column by view the chosen view's part of each: a tensor (n, ...)."""
        source, view = self._sources[column.name], view if column.by_view else None
        if isinstance(source, DeviceRows):
            return source.pick(ids, view)
        rows = self._pool.take((len(ids), *column.taken_shape), column.dtype, self._largest)
        source.take(ids, view, rows)
        return torch.from_numpy(rows)
