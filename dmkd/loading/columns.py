"""What a batch is made of, array by array, and where each array is kept while an epoch runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import numpy as np

from dmkd.runtime.space import available_memory
from dmkd.stores import LabelSet, Store, UsageError, ViewSet, layout
from dmkd.stores.mapped import MappedArray, can_be_mapped
from dmkd.stores.rows import Rows
from dmkd.views.shown import DrawnViews

IMAGES, CLASS_IDS, VIEWS = "images", "class_ids", "views"

# Rows longer than this are copied as fast out of mapped files as out of one array in memory: the copy outweighs finding them.
SHORT_ROW_BYTES = 16 * 2**10
# Of the GPU's free memory, the share that a store may take unasked.
GPU_SHARE = 0.25

# Read at a time from where each request costs time, unless the window would hold too few such stretches to mix images well.
STRETCH_BYTES = 8 * 2**20
FEWEST_STRETCHES = 32

# Blocks of labels that are kept while their arrays are asked for one after the other.
KEPT_LABEL_BLOCKS = 8

ReadBlock = Callable[[int], np.ndarray]
Place = Literal["memory", "mapped", "window", "device"]


@dataclass(frozen=True)
class Column:
    """One array, of which a batch takes a row for each image, or the chosen view's part of that row."""

    label_set: str | None  # whose labels these are; None: no labels
    part: str  # images, class_ids or views; of a label set, the codec's array
    node: str
    read: ReadBlock  # a block's rows, verified, by way of the store
    shape: tuple[int, ...]  # (N, ...)
    dtype: np.dtype
    plain: bool  # local, uncompressed, and stored as it is read
    # Raises DamagedChunkError unless rows (n, ...), straight from the file, are those of ids (n,).
    prove: Callable[[np.ndarray, np.ndarray], object]

    @property
    def name(self) -> str:
        """A name that no other column of the loader has."""
        return self.part if self.label_set is None else f"{self.label_set}/{self.part}"

    @property
    def by_view(self) -> bool:
        """Whether axis 1 is the views of an image, of which a batch takes one."""
        return self.label_set is not None or self.part == VIEWS

    @property
    def taken_shape(self) -> tuple[int, ...]:
        """What a batch gets of each image."""
        return self.shape[1 + self.by_view :]

    @property
    def row_bytes(self) -> int:
        """Bytes that an image takes."""
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    @property
    def taken_bytes(self) -> int:
        return int(np.prod(self.taken_shape)) * self.dtype.itemsize


def columns_of(store: Store, view_set: ViewSet | DrawnViews, label_sets: Mapping[str, LabelSet]) -> list[Column]:
    """Everything that is read to make batches of these views and labels."""
    plain: list[tuple[str, str, Rows]] = [
        (IMAGES, layout.IMAGES, store.images),
        (CLASS_IDS, layout.CLASS_IDS, store.class_ids),
    ]
    if isinstance(view_set, ViewSet):
        plain.append((VIEWS, view_set.node, view_set.rows))
    columns = [_column(store, None, part, node, rows.block, rows.shape, rows.prove) for part, node, rows in plain]
    for name, label_set in label_sets.items():
        # The arrays of a label set are read, and verified, together: asked for one after the other they are read once.
        read = lru_cache(KEPT_LABEL_BLOCKS)(_reader_of_labels(store, label_set))
        prove = partial(_prove_labels, read, store.block_size)
        for part, node in label_set.array_nodes.items():
            shape = store.chunks.shape(node)
            columns.append(_column(store, name, part, node, partial(_part, read, part), shape, prove))
    return columns


def _column(
    store: Store,
    label_set: str | None,
    part: str,
    node: str,
    read: ReadBlock,
    shape: tuple[int, ...],
    prove: Callable[[np.ndarray, np.ndarray], object],
) -> Column:
    plain = can_be_mapped(store.chunks, node) and store.chunks.shape(node) == shape
    return Column(label_set, part, node, read, shape, store.chunks.dtype(node), plain, prove)


def _reader_of_labels(store: Store, label_set: LabelSet) -> Callable[[int], dict[str, np.ndarray]]:
    """Reads a block's arrays, verified together; as they lie in the files, mapped, where all of them can be: labels of many
    views are larger than the images, and are not copied to be verified."""
    if not all(can_be_mapped(store.chunks, node) for node in label_set.array_nodes.values()):
        return lambda block: label_set.encoded(np.array(store.block_ids(block)))
    mapped = {
        part: MappedArray(store.chunks, node, prove=_proved_later) for part, node in label_set.array_nodes.items()
    }

    def read(block: int) -> dict[str, np.ndarray]:
        ids = np.array(store.block_ids(block))
        arrays = {part: array.read(block)[: len(ids)] for part, array in mapped.items()}
        label_set.prove(ids, arrays)
        return arrays

    return read


def _proved_later(ids: np.ndarray, rows: np.ndarray) -> None:
    """Of one array alone nothing can be said."""


def _prove_labels(
    read: Callable[[int], dict[str, np.ndarray]], block_size: int, ids: np.ndarray, rows: np.ndarray
) -> None:
    """Labels are proved by all their arrays together, and by the views: the block is read once by way of the store."""
    read(int(ids[0]) // block_size)


def _part(read: Callable[[int], dict[str, np.ndarray]], part: str, block: int) -> np.ndarray:
    return read(block)[part]


def place_columns(columns: Sequence[Column], memory: int, resident: str | None) -> dict[str, Place]:
    """Where each column is kept, by name: a function of the store and of these options, never of the machine.

    ``memory`` bytes bound what the loader holds of the store: one half is for columns that are held whole, smallest first; the
    other for the window. Columns of short rows, and those that can't be mapped, are held if they fit. What does not fit is
    mapped if it can be, else read through the window. Views are always held: 20 bytes each.
    """
    if resident in ("ram", "gpu"):  # views are used on the host
        return {c.name: "device" if resident == "gpu" and c.name != VIEWS else "memory" for c in columns}
    places: dict[str, Place] = {c.name: "mapped" if c.plain else "window" for c in columns}
    left = memory // 2
    for column in sorted(columns, key=lambda column: (column.name != VIEWS, column.row_bytes)):
        total = column.shape[0] * column.row_bytes
        fits = total <= left and (not column.plain or column.taken_bytes <= SHORT_ROW_BYTES)
        if fits or column.name == VIEWS:
            places[column.name] = "memory"
            left -= total
    return places


def window_blocks(
    columns: Sequence[Column], places: Mapping[str, Place], block_size: int, memory: int
) -> tuple[int | None, int]:
    """Blocks that are mixed at a time, None if all images can be: when nothing is read through a window; and how many
    neighbouring ones of them are worth being read together.

    A quarter of ``memory``: the window that is being read ahead may take as much again.
    """
    block_bytes = block_size * sum(column.row_bytes for column in columns if places[column.name] == "window")
    if not block_bytes:
        return None, 1
    window = max(2, memory // 4 // block_bytes)
    return window, max(1, min(STRETCH_BYTES // block_bytes, window // FEWEST_STRETCHES))


def total_bytes(columns: Sequence[Column]) -> int:
    return sum(column.shape[0] * column.row_bytes for column in columns)


def refuse_what_does_not_fit(columns: Sequence[Column], resident: str, device: str) -> None:
    """Raise ``UsageError`` if the store can't be resident where it was asked to be."""
    needed = total_bytes(columns)
    if resident == "gpu":
        if not device.startswith("cuda"):
            raise UsageError(f"resident='gpu' needs a GPU, and the device is {device}.")
        where, free = f"the memory of {device}", _free_gpu_memory(device)
    else:
        where, free = "the machine's memory", available_memory()
    if needed > free:
        raise UsageError(
            f"The store takes {needed / 2**30:.1f} GiB and {where} has {free / 2**30:.1f} GiB to spare: "
            "leave resident out, and it is read as it is needed."
        )


def fits_on_gpu_unasked(columns: Sequence[Column], device: str) -> bool:
    """Whether the store is small beside what the GPU has free."""
    return device.startswith("cuda") and total_bytes(columns) <= GPU_SHARE * _free_gpu_memory(device)


def _free_gpu_memory(device: str) -> int:
    import torch

    return torch.cuda.mem_get_info(device)[0]
