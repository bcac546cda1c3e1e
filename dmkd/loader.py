"""From a store to batches: images, one stored view of each, and the teacher's logits of that very view.

The order of an epoch is a function of (seed, epoch): blocks in a random order, a window of blocks in memory at a time,
ids shuffled within the window. Blocks are i.i.d. samples of the data set (the class order sees to that), so a window of
a few thousand images shuffles well; a store that fits into the window is shuffled fully.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dmkd.randomness import key64, mix64
from dmkd.stores import MissingBlockError, Store
from dmkd.training_recipe import TrainingRecipe

WINDOW_BYTES = 512 * 2**20


@dataclass
class Batch:
    """n images with the view chosen for this epoch, on the loader's device (``ids`` and ``views`` on the host)."""

    ids: np.ndarray  # int64 (n,)
    images: torch.Tensor  # uint8 (n, H, W, 3)
    class_ids: torch.Tensor  # int64 (n,)
    views: np.ndarray  # float32 (n, P)
    logits: torch.Tensor | None  # float32 (n, C); None if the loader reads no labels


class Loader:
    """Batches of a store, an epoch at a time.

    ``labels`` names the label set; without one, ``view_set`` says which views to hand out. ``batch_size`` is the largest
    batch: an epoch is cut into batches that differ by one image at most, so none is dropped and none is tiny.
    Only blocks that are done (and labelled) are read; ``num_images`` counts their images.
    """

    def __init__(
        self,
        store: Store,
        *,
        labels: str | None,
        view_set: str | None = None,
        batch_size: int,
        seed: int = 0,
        device: str = "cpu",
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.store, self.batch_size, self.seed, self.device = store, batch_size, seed, device
        self.label_set = store.labels[labels] if labels else None
        self.view_set = store.views[self.label_set.view_set if self.label_set else str(view_set)]
        missing = set(store.missing_blocks())
        missing |= set((self.label_set or self.view_set).missing_blocks())
        self.blocks = np.array([block for block in range(store.num_blocks) if block not in missing])
        if not len(self.blocks):
            raise MissingBlockError(f"{store.path} has no finished block with the labels asked for yet.")
        self.num_images = sum(len(store.block_ids(block)) for block in self.blocks)
        block_bytes = store.block_size * int(np.prod(store.image_shape))
        self.window = max(2, window_bytes // block_bytes)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.num_images // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The image ids in the order of an epoch, int64 (num_images,): each once."""
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        blocks = rng.permutation(self.blocks)
        windows = [blocks[start : start + self.window] for start in range(0, len(blocks), self.window)]
        return np.concatenate(
            [rng.permutation(np.concatenate([self.store.block_ids(block) for block in window])) for window in windows]
        )

    def views_of_epoch(self, ids: np.ndarray, epoch: int) -> np.ndarray:
        """Which stored view of each image an epoch uses, int64 (n,): over V epochs each view once."""
        start = mix64(ids.astype(np.uint64) ^ key64(self.seed, "view of epoch"))
        return ((start + np.uint64(epoch)) % np.uint64(self.view_set.num_views)).astype(np.int64)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from ``first_batch`` on."""
        batches = np.array_split(self.order(epoch), len(self))[first_batch:]
        unread = Counter(np.concatenate(batches) // self.store.block_size)
        held: dict[int, dict[str, np.ndarray]] = {}
        for ids in batches:
            yield self._batch(ids, self.views_of_epoch(ids, epoch), held)
            unread.subtract(ids // self.store.block_size)
            for block in [block for block in held if unread[block] == 0]:
                del held[block]

    def _batch(self, ids: np.ndarray, views: np.ndarray, held: dict[int, dict[str, np.ndarray]]) -> Batch:
        blocks, rows = ids // self.store.block_size, ids % self.store.block_size
        for block in np.unique(blocks):
            if block not in held:
                held[block] = self._read_block(int(block))
        gathered: dict[str, np.ndarray] = {}
        for name, example in held[blocks[0]].items():
            by_view = name not in ("images", "class_ids")
            gathered[name] = np.empty((len(ids), *example.shape[1 + by_view :]), example.dtype)
            for block in np.unique(blocks):
                here = blocks == block
                source = held[block][name]
                gathered[name][here] = source[rows[here], views[here]] if by_view else source[rows[here]]
        logits = None
        if self.label_set:
            encoded = {name: gathered[f"label:{name}"][:, None] for name in self.label_set.array_nodes}
            logits = torch.from_numpy(self.label_set.codec.decode(encoded)[:, 0]).to(self.device)
        return Batch(
            ids=ids,
            images=torch.from_numpy(gathered["images"]).to(self.device),
            class_ids=torch.from_numpy(gathered["class_ids"]).long().to(self.device),
            views=gathered["views"],
            logits=logits,
        )

    def _read_block(self, block: int) -> dict[str, np.ndarray]:
        arrays = {
            "images": self.store.images.block(block),
            "class_ids": self.store.class_ids.block(block),
            "views": self.view_set.rows.block(block),
        }
        if self.label_set:
            ids = np.array(self.store.block_ids(block))
            arrays |= {f"label:{name}": rows for name, rows in self.label_set.encoded(ids).items()}
        return arrays


def open_loader(recipe: TrainingRecipe, store: Store, device: str) -> Loader:
    """The loader that a training recipe asks for."""
    return Loader(
        store,
        labels=recipe.labels,
        view_set=recipe.view_set,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        device=device,
    )
