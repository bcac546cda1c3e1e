"""Which image when: the order of an epoch, a function of the store, the seed and the epoch alone.

Two orders. **full**: all images are shuffled. **window**: blocks are read once an epoch and memory is bounded. Neighbouring
blocks that are worth one large read form a *stretch*. Stretches are shuffled and dealt into *lanes*, as many as the window has
room for; a lane goes through one stretch at a time, in an order of its own, and all lanes advance together, so that a batch has
images of each of them. Stretches are i.i.d. samples of the data set (the class order sees to that), so lanes of a few thousand
images in all shuffle well.

Ranks share the very batches that a single one would have: how many there are changes nothing but who reads what. What the
machine is like (its memory, its threads, where images are kept) changes nothing either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

from dmkd.recipes.randomness import key64, mix64
from dmkd.stores import UsageError

# The images of a batch: ids and, of each, the epoch whose view is shown, int64 (n,).
Chosen = tuple[np.ndarray, np.ndarray]

GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Batches:
    """How ``num_images`` an epoch are cut into batches, and these are shared among ranks.

    Every rank has the same number of batches. All batches, of all ranks, differ in size by one image at most: none is dropped,
    none is tiny. A batch holds ``batch_size`` images at most (one more only where a rank would get an empty one otherwise: a
    ``batch_size`` of 1, or fewer images than twice the ranks). Raises ``UsageError`` for what can't be.
    """

    num_images: int
    batch_size: int  # of a rank
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"A batch holds at least one image, not {self.batch_size}.")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"Ranks of {self.world_size} are 0 to {self.world_size - 1}, there is no {self.rank}.")
        if self.num_images < self.world_size:
            raise UsageError(f"{self.num_images} images can't be shared among {self.world_size} ranks.")

    def __len__(self) -> int:
        """Batches an epoch, the same for each rank."""
        smallest, largest = self.num_images // self.world_size, -(-self.num_images // self.world_size)
        return min(smallest, -(-largest // self.batch_size))

    @property
    def sizes(self) -> np.ndarray:
        """Images of each batch of an epoch, any epoch, of all ranks together: int64 (number of batches,)."""
        smallest, larger = divmod(self.num_images, len(self))
        return smallest + (np.arange(len(self)) < larger)  # the sizes of np.array_split's parts

    def share(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where this rank's share of batches of these ``sizes``, int64 (...,), begins and ends, int64 (...,) each."""
        smallest, larger = np.divmod(sizes, self.world_size)
        first, last = (rank * smallest + np.minimum(rank, larger) for rank in (self.rank, self.rank + 1))
        return first, last


@dataclass(frozen=True)
class EpochOrder:
    """The order of the images of a store, epoch by epoch: each once an epoch.

    ``blocks`` int64 (number of blocks to read,); ``selected`` bool (N,), the images that are used. ``window``: blocks that are
    mixed at a time, None: all; ``stretch``: neighbouring blocks of which it takes all or none.
    """

    blocks: np.ndarray
    selected: np.ndarray
    block_size: int
    seed: int = 0
    window: int | None = None
    stretch: int = 1

    @cached_property
    def num_images(self) -> int:
        """Images an epoch."""
        return int(self.selected.sum())

    @property
    def description(self) -> str:
        """Which of the two orders this is, in words."""
        if self.window is None:
            return "full"
        blocks = "a block" if self.stretch == 1 else f"{self.stretch} neighbouring blocks"
        return f"{self.window // self.stretch} lanes of {blocks}"

    def batches(self, start: int, sizes: np.ndarray, first: np.ndarray, last: np.ndarray) -> Iterator[Chosen]:
        """Of all epochs, one after another, what follows from image number ``start`` on, cut into batches of these ``sizes``; of
        each a rank's share, from ``first`` to ``last``. The ids are ascending, so that rows of one block are copied together."""
        epoch, taken = divmod(start, self.num_images)
        ids, turns = self._order(epoch)
        for size, begin, end in zip(sizes.tolist(), first.tolist(), last.tolist(), strict=True):
            if taken + size <= self.num_images:  # of one epoch, as nearly all are: twice as fast
                here = ids[np.sort(turns[taken : taken + size])]
                taken += size
                yield np.sort(here[begin:end]), np.full(end - begin, epoch)
                continue
            left, parts = size, []
            while left:
                if taken == self.num_images:
                    epoch, taken = epoch + 1, 0
                    ids, turns = self._order(epoch)
                here = ids[np.sort(turns[taken : taken + left])]
                parts.append((here, np.full(len(here), epoch)))
                taken, left = taken + len(here), left - len(here)
            mine, epochs = (np.concatenate(part)[begin:end] for part in zip(*parts, strict=True))
            ascending = np.argsort(mine, kind="stable")
            yield mine[ascending], epochs[ascending]

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's images as ranks share them, ids int64 (n,), and the places in these of one after another, int64 (n,)."""
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        if self.window is None:
            return rng.permutation(self._ids_of(rng.permutation(self.blocks))), np.arange(self.num_images)
        return self._in_lanes(rng, self.window // self.stretch)

    def _in_lanes(self, rng: np.random.Generator, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """Ranks share a batch by lanes: each takes that of a few neighbouring ones, and reads no blocks of another's lanes but of
        those on their border."""
        first = np.flatnonzero(np.diff(self.blocks // self.stretch, prepend=-1))
        stretches = np.split(self.blocks, first[1:])
        shuffled = [rng.permutation(self._ids_of(stretches[i])) for i in rng.permutation(len(stretches))]
        dealt = [np.concatenate(lane) for lane in _parts(shuffled, min(lanes, len(shuffled)))]
        # Each lane is a little behind another by a share of its own, as even as can be among neighbours: lanes take turns, and
        # however small a batch, its images are of lanes far apart.
        behind = np.arange(1, len(dealt) + 1) * GOLDEN_RATIO % 1
        place = np.concatenate([(np.arange(len(lane)) + b) / len(lane) for lane, b in zip(dealt, behind, strict=True)])
        return np.concatenate(dealt), np.argsort(place, kind="stable")

    def views(self, ids: np.ndarray, epochs: np.ndarray, num_views: int) -> np.ndarray:
        """Which stored view of each image is used in its epoch, int64 (n,): over V epochs each view once."""
        start = mix64(ids.astype(np.uint64) ^ _view_key(self.seed))
        return ((start + epochs.astype(np.uint64)) % np.uint64(num_views)).astype(np.int64)

    def _ids_of(self, blocks: np.ndarray) -> np.ndarray:
        ids = (blocks[:, None] * self.block_size + np.arange(self.block_size)).ravel()
        ids = ids[ids < len(self.selected)]
        return ids[self.selected[ids]]


def in_proportion(totals: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Of ``taken`` images, int64 (...,), how many are of each of k kinds, so that they are used up together: int64 (..., k).

    ``totals`` int64 (..., k): all there are of each. What is rounded off now comes with the next images: with more taken no
    count is ever less, and when all are, each is its total. A count of two or three kinds is one image off at most.
    """
    left, total = taken, totals.sum(-1)
    counts = []
    for of_kind in np.moveaxis(totals, -1, 0):
        total = np.maximum(total, 1)
        counts.append((2 * left * of_kind + total) // (2 * total))
        left, total = left - counts[-1], total - of_kind
    return np.stack(counts, -1)


def _parts(items: list[np.ndarray], number: int) -> list[list[np.ndarray]]:
    """As ``np.array_split``, of a list."""
    borders = np.arange(number + 1) * len(items) // number
    return [items[start:stop] for start, stop in pairwise(borders.tolist())]


@cache
def _view_key(seed: int) -> np.uint64:
    return key64(seed, "view of epoch")
