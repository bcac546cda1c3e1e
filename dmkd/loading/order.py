"""Which image when: the order of an epoch, a function of the store, the seed, the epoch and the rank alone.

Two orders. **full**: all images are shuffled. **window**: blocks come in a random order, and images are shuffled within a
window of a few blocks at a time, so that a block is read once an epoch and memory is bounded. Blocks are i.i.d. samples of
the data set (the class order sees to that), so a window of a few thousand images shuffles well.

What the machine is like (its memory, its threads, where images are kept) changes nothing.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from dmkd.recipes.randomness import key64, mix64
from dmkd.stores import UsageError


@dataclass(frozen=True)
class EpochOrder:
    """The order in which one rank of ``world_size`` sees its share of the images.

    ``blocks`` int64 (number of blocks to read,); ``selected`` bool (N,), the images that are used. ``window``: blocks that are
    mixed at a time, None: all. Every image belongs to exactly one rank in each epoch; every rank has the same number of
    batches. All batches, of all ranks, differ in size by one image at most: none is dropped, none is tiny. A batch holds
    ``batch_size`` images at most (one more only where a rank would get an empty one otherwise: a ``batch_size`` of 1, or fewer
    images than twice the ranks).
    """

    blocks: np.ndarray
    selected: np.ndarray
    block_size: int
    batch_size: int
    seed: int = 0
    window: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"A batch holds at least one image, not {self.batch_size}.")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"Ranks of {self.world_size} are 0 to {self.world_size - 1}, there is no {self.rank}.")
        if self.num_images < self.world_size:
            raise UsageError(f"{self.num_images} images can't be shared among {self.world_size} ranks.")

    @property
    def num_images(self) -> int:
        """Images an epoch, of all ranks together."""
        return int(self.selected.sum())

    @property
    def num_batches(self) -> int:
        """Batches an epoch, the same for each rank."""
        smallest, largest = self.num_images // self.world_size, -(-self.num_images // self.world_size)
        return min(smallest, -(-largest // self.batch_size))

    def batch_images(self) -> np.ndarray:
        """Images of each batch of an epoch, any epoch, with those of the other ranks: int64 (num_batches,)."""
        shared = [self.num_images] if self.window is None else _even(self.num_images, self.world_size).tolist()
        return np.sum([_even(images, self.num_batches) for images in shared], axis=0)

    def ids(self, epoch: int) -> np.ndarray:
        """This rank's image ids in the order of an epoch, int64 (n,)."""
        return np.concatenate(self.batches(epoch))

    def batches(self, epoch: int) -> list[np.ndarray]:
        """This rank's batches: ids int64 (n,), ascending within a batch, so that rows of one block are copied together."""
        shuffled = self._shuffled if self.window is None else self._shuffled_by_window
        return [np.sort(ids) for ids in shuffled(epoch)]

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        """Each rank has its part of the very batches that a single one would have: how many there are changes nothing."""
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        ids = rng.permutation(self._ids_of(rng.permutation(self.blocks)))
        return [self._share(together) for together in np.array_split(ids, self.num_batches)]

    def _shuffled_by_window(self, epoch: int) -> list[np.ndarray]:
        """Each rank has neighbouring blocks of the epoch's order: only those on the border of two ranks are read twice."""
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        mine = self._share(self._ids_of(rng.permutation(self.blocks)))
        if self.world_size > 1:
            rng = np.random.Generator(np.random.PCG64([self.seed, epoch, self.rank]))
        starts = np.flatnonzero(np.diff(mine // self.block_size, prepend=-1))
        ids = np.concatenate([rng.permutation(part) for part in np.split(mine, starts[:: self.window][1:])])
        return np.array_split(ids, self.num_batches)

    def views(self, ids: np.ndarray, epoch: int, num_views: int) -> np.ndarray:
        """Which stored view of each image an epoch uses, int64 (n,): over V epochs each view once."""
        start = mix64(ids.astype(np.uint64) ^ _view_key(self.seed))
        return ((start + np.uint64(epoch)) % np.uint64(num_views)).astype(np.int64)

    def _ids_of(self, blocks: np.ndarray) -> np.ndarray:
        ids = (blocks[:, None] * self.block_size + np.arange(self.block_size)).ravel()
        ids = ids[ids < len(self.selected)]
        return ids[self.selected[ids]]

    def _share(self, ids: np.ndarray) -> np.ndarray:
        return np.array_split(ids, self.world_size)[self.rank]


def _even(total: int, parts: int) -> np.ndarray:
    """The sizes of ``np.array_split``'s parts."""
    return total // parts + (np.arange(parts) < total % parts)


@cache
def _view_key(seed: int) -> np.uint64:
    return key64(seed, "view of epoch")
