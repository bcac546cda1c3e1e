"""Host memory that batches are gathered into, used again and again: fresh pages for each batch halve the speed."""

import weakref
from collections import defaultdict, deque
from typing import Any

import numpy as np

# Chunk files are mapped at page borders. Where source and target differ by 16 bytes, numpy's usual offset, a copy takes twice as
# long (measured: 29,000 against 55,000 rows of 196,608 bytes a second of CPU time).
ALIGNMENT = 4096
KEPT = 8  # free buffers of one size that are kept; what a burst needed beyond goes back to the system


class BufferPool:
    """Buffers that come back by themselves when nothing refers to them any more, so a batch that is kept stays as it is.

    ``pinned``: in page-locked memory, which a GPU copies from while the program runs on.
    """

    def __init__(self, pinned: bool = False) -> None:
        self.pinned = pinned
        self.made = 0
        self._free: dict[int, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=KEPT))

    def take(self, shape: tuple[int, ...], dtype: np.dtype, largest: int) -> np.ndarray:
        """An uninitialised array. ``largest``: the most rows that a request like this may have, so that sizes repeat.

        The memory is free again when the array object is gone. A tensor made of it by ``torch.from_numpy`` keeps that very
        object, and so do the tensor's own views; a numpy slice of the array does not.
        """
        row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        capacity = max(1, max(largest, shape[0]) * row_bytes)
        try:
            buffer = self._free[capacity].popleft()
        except IndexError:
            buffer = self._allocate(capacity)
        array = buffer[: shape[0] * row_bytes].view(dtype).reshape(shape)
        weakref.finalize(array, self._free[capacity].append, buffer).atexit = False
        return array

    def _allocate(self, capacity: int) -> np.ndarray:
        self.made += 1
        if not self.pinned:
            return aligned_empty((capacity,), np.dtype(np.uint8))
        import torch

        pinned: Any = torch.empty(capacity, dtype=torch.uint8, pin_memory=True)  # begins at a page border
        return pinned.numpy()


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """``np.empty`` that begins at a page border."""
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(num_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)
