"""Which image when: the order of an epoch, a function of the store, the seed and the epoch alone.

Two orders. **full**: all images are shuffled. **window**: blocks are read once an epoch and memory is bounded. Neighbouring
blocks that are worth one large read form a *stretch*. Stretches are shuffled and dealt into *lanes*, as many as the window has
room for; a lane goes through one stretch at a time, in an order of its own, and all lanes advance together, so that a batch has
images of each of them. Stretches are i.i.d. samples of the data set (the class order sees to that), so lanes of a few thousand
images in all shuffle well.

Ranks share the very batches that a single one would have: how many there are changes nothing but who reads what. What the
machine is like (its memory, its threads, where images are kept) changes nothing either.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from dmkd.recipes.randomness import key64, mix64
from dmkd.stores import UsageError

GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class EpochOrder:
    """The order in which one rank of ``world_size`` sees its share of the images.

    ``blocks`` int64 (number of blocks to read,); ``selected`` bool (N,), the images that are used. ``window``: blocks that are
    mixed at a time, None: all; ``stretch``: neighbouring blocks of which it takes all or none. Every image belongs to exactly
    one rank in each epoch; every rank has the same number of batches. All batches, of all ranks, differ in size by one image at
    most: none is dropped, none is tiny. A batch holds ``batch_size`` images at most (one more only where a rank would get an
    empty one otherwise: a ``batch_size`` of 1, or fewer images than twice the ranks).
    """

    blocks: np.ndarray
    selected: np.ndarray
    block_size: int
    batch_size: int
    seed: int = 0
    window: int | None = None
    stretch: int = 1
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

    @property
    def description(self) -> str:
        """Which of the two orders this is, in words."""
        if self.window is None:
            return "full"
        blocks = "a block" if self.stretch == 1 else f"{self.stretch} neighbouring blocks"
        return f"{self.window // self.stretch} lanes of {blocks}"

    def batch_images(self) -> np.ndarray:
        """Images of each batch of an epoch, any epoch, with those of the other ranks: int64 (num_batches,)."""
        smallest, larger = divmod(self.num_images, self.num_batches)
        return smallest + (np.arange(self.num_batches) < larger)  # the sizes of np.array_split's parts

    def ids(self, epoch: int) -> np.ndarray:
        """This rank's image ids in the order of an epoch, int64 (n,)."""
        return np.concatenate(self.batches(epoch))

    def batches(self, epoch: int) -> list[np.ndarray]:
        """This rank's batches: ids int64 (n,), ascending within a batch, so that rows of one block are copied together."""
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        together = self._shuffled(rng) if self.window is None else self._in_lanes(rng, self.window // self.stretch)
        return [np.sort(np.array_split(ids, self.world_size)[self.rank]) for ids in together]

    def _shuffled(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The batches of all ranks together."""
        ids = rng.permutation(self._ids_of(rng.permutation(self.blocks)))
        return np.array_split(ids, self.num_batches)

    def _in_lanes(self, rng: np.random.Generator, lanes: int) -> list[np.ndarray]:
        """The batches of all ranks together, each in the order of its lanes: a rank's share of it is that of a few neighbouring
        lanes, and other ranks read the blocks of no more than the lanes on its borders."""
        first = np.flatnonzero(np.diff(self.blocks // self.stretch, prepend=-1))
        stretches = np.split(self.blocks, first[1:])
        shuffled = [rng.permutation(self._ids_of(stretches[i])) for i in rng.permutation(len(stretches))]
        dealt = [np.concatenate(lane) for lane in _parts(shuffled, min(lanes, len(shuffled)))]
        # Each lane is a little behind another by a share of its own, as even as can be among neighbours: lanes take turns, and
        # however small a batch, its images are of lanes far apart.
        behind = np.arange(1, len(dealt) + 1) * GOLDEN_RATIO % 1
        place = np.concatenate([(np.arange(len(lane)) + b) / len(lane) for lane, b in zip(dealt, behind, strict=True)])
        ids, turns = np.concatenate(dealt), np.argsort(place, kind="stable")
        return [ids[np.sort(part)] for part in np.array_split(turns, self.num_batches)]

    def views(self, ids: np.ndarray, epoch: int, num_views: int) -> np.ndarray:
        """Which stored view of each image an epoch uses, int64 (n,): over V epochs each view once."""
        start = mix64(ids.astype(np.uint64) ^ _view_key(self.seed))
        return ((start + np.uint64(epoch)) % np.uint64(num_views)).astype(np.int64)

    def _ids_of(self, blocks: np.ndarray) -> np.ndarray:
        ids = (blocks[:, None] * self.block_size + np.arange(self.block_size)).ravel()
        ids = ids[ids < len(self.selected)]
        return ids[self.selected[ids]]


def _parts(items: list[np.ndarray], number: int) -> list[list[np.ndarray]]:
    """As ``np.array_split``, of a list."""
    borders = np.arange(number + 1) * len(items) // number
    return [items[start:stop] for start, stop in pairwise(borders.tolist())]


@cache
def _view_key(seed: int) -> np.uint64:
    return key64(seed, "view of epoch")
