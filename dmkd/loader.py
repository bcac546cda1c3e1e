"""From a store to batches: images, one stored view of each, and the teachers' labels of that very view.

The order of an epoch is a function of (seed, epoch): blocks in a random order, a window of blocks in memory at a time,
ids shuffled within the window. Blocks are i.i.d. samples of the data set (the class order sees to that), so a window of
a few thousand images shuffles well; a store that fits into the window is shuffled fully.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dmkd.label_decoding import LabelDecoder
from dmkd.randomness import key64, mix64
from dmkd.render import render
from dmkd.selection import columns_of, parse_selection
from dmkd.stores import MissingBlockError, Store, UsageError
from dmkd.training_recipe import TrainingRecipe, parse_labels

WINDOW_BYTES = 512 * 2**20


@dataclass
class Batch:
    """n images with the view chosen for this epoch, on the loader's device (``ids`` and views on the host)."""

    ids: np.ndarray  # int64 (n,)
    images: torch.Tensor  # uint8 (n, H, W, 3)
    class_ids: torch.Tensor  # int64 (n,)
    views: np.ndarray  # float32 (n, P)
    labels: dict[str, dict[str, torch.Tensor]]  # label set -> the codec's arrays, (n, ...)
    partners: "Batch | None" = None  # the images mixed in, seen through their own views; None if the views do not mix


class Loader:
    """Batches of a store, an epoch at a time.

    ``labels`` maps label sets, all on one view set, to their weights; without any, ``view_set`` says which views to hand
    out. ``batch_size`` is the largest batch: an epoch is cut into batches that differ by one image at most, so none is
    dropped and none is tiny. Only blocks that are done (and labelled) are read; ``select`` picks images by the quality that
    the first label set's teacher saw (see :mod:`dmkd.selection`). ``num_images`` counts what is left.
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
        device: str = "cpu",
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.store, self.batch_size, self.seed, self.device = store, batch_size, seed, device
        self.label_sets = {name: store.labels[name] for name in labels or {}}
        total = sum((labels or {}).values())
        self.weights = {name: weight / total for name, weight in (labels or {}).items()}
        first = next(iter(self.label_sets.values()), None)
        self.view_set = store.views[first.view_set if first else str(view_set)]
        for name, label_set in self.label_sets.items():
            if label_set.view_set != self.view_set.name:
                raise UsageError(
                    f"Label sets {next(iter(self.label_sets))!r} and {name!r} of {store.path} are labels of different "
                    f"views ({self.view_set.name}, {label_set.view_set}): only those of the same views can be mixed."
                )
        missing = set(store.missing_blocks()).union(
            *(labelled.missing_blocks() for labelled in self.label_sets.values() or [self.view_set])
        )
        self.blocks = np.array([block for block in range(store.num_blocks) if block not in missing])
        if not len(self.blocks):
            raise MissingBlockError(f"{store.path} has no finished block with the labels asked for yet.")
        self.decoders = {name: LabelDecoder(labelled.coder, device) for name, labelled in self.label_sets.items()}
        self.selected = self._select(select)
        self.num_images = int(self.selected.sum())
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
        order = [rng.permutation(self._ids(window)) for window in windows]
        return np.concatenate([ids[self.selected[ids]] for ids in order])

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
            views = self.views_of_epoch(ids, epoch)
            yield self._batch(ids, views, held)
            unread.subtract(ids // self.store.block_size)
            for block in [block for block in held if unread[block] == 0]:
                del held[block]

    def pixels(self, batch: Batch, *, size: int, interpolation: str) -> torch.Tensor:
        """The views of a batch, mixed if they mix: uint8 (n, 3, S, S), the very pixels that the teachers saw."""
        options: dict[str, Any] = {"size": size, "interpolation": interpolation, "components": self.view_set.components}
        if batch.partners is None:
            return render(batch.images, batch.views, **options)
        images = torch.cat([batch.images, batch.partners.images])
        views = np.concatenate([batch.views, batch.partners.views])
        return render(images, views, partners=np.arange(len(batch.ids), 2 * len(batch.ids)), **options)

    def logits(self, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
        """The teachers' logits, float32 (n, C), for softmax(logits / temperature).

        Of several label sets: the logits whose softmax at this temperature is the weighted mean of theirs.
        """
        decoded = [self.decoders[name].decode(arrays, temperature) for name, arrays in batch.labels.items()]
        if len(decoded) == 1:
            return decoded[0]
        log_weights = torch.log(torch.tensor([self.weights[name] for name in batch.labels]))
        each = [w + torch.log_softmax(z / temperature, 1) for w, z in zip(log_weights.tolist(), decoded, strict=True)]
        return temperature * torch.logsumexp(torch.stack(each), 0)

    def own_share(self, batch: Batch) -> torch.Tensor:
        """How much of each view shows the image itself and not its partner: float32 (n,), 1 where nothing is mixed."""
        component = {name: batch.views[:, place] for place, name in enumerate(self.view_set.components)}
        if "weight" in component:
            share = component["weight"]
        elif "mix_height" in component:
            share = 1 - component["mix_height"] * component["mix_width"]
        else:
            share = np.ones(len(batch.ids), np.float32)
        return torch.from_numpy(share.copy()).to(self.device)

    def _select(self, select: str | None) -> np.ndarray:
        """Which of all N images are used: bool (N,)."""
        selected = np.zeros(self.store.num_images, bool)
        ids = self._ids(self.blocks)
        if select is None:
            selected[ids] = True
            return selected
        if not self.label_sets:
            raise UsageError("--select needs a teacher's opinion of the images: choose one with --labels.")
        quality = next(iter(self.label_sets.values())).quality[ids]
        selected[ids] = parse_selection(select).mask(columns_of(quality, self.store.class_ids[ids]))
        if not selected.any():
            raise UsageError(f"--select {select!r} leaves none of the {len(ids):,} images of {self.store.path}.")
        return selected

    def _ids(self, blocks: np.ndarray) -> np.ndarray:
        return np.concatenate([self.store.block_ids(block) for block in blocks])

    def _batch(self, ids: np.ndarray, which: np.ndarray, held: dict[int, dict[str, np.ndarray]]) -> Batch:
        batch = self._gather(ids, which, held, with_labels=True)
        if "partner" in self.view_set.components:
            # A partner is a row of the same block, so nothing more is read.
            rows = batch.views[:, self.view_set.components.index("partner")].round().astype(np.int64)
            partner_ids = ids // self.store.block_size * self.store.block_size + rows
            batch.partners = self._gather(partner_ids, which, held, with_labels=False)
        return batch

    def _gather(
        self, ids: np.ndarray, which: np.ndarray, held: dict[int, dict[str, np.ndarray]], with_labels: bool
    ) -> Batch:
        blocks, rows = ids // self.store.block_size, ids % self.store.block_size
        for block in np.unique(blocks):
            if block not in held:
                held[block] = self._read_block(int(block))
        gathered: dict[str, np.ndarray] = {}
        for name, example in held[blocks[0]].items():
            if "/" in name and not with_labels:
                continue
            by_view = name not in ("images", "class_ids")
            gathered[name] = np.empty((len(ids), *example.shape[1 + by_view :]), example.dtype)
            for block in np.unique(blocks):
                here = blocks == block
                source = held[block][name]
                gathered[name][here] = source[rows[here], which[here]] if by_view else source[rows[here]]
        labels = {
            label_set: {part: torch.from_numpy(gathered[f"{label_set}/{part}"]).to(self.device) for part in nodes}
            for label_set, nodes in self._label_parts().items()
            if with_labels
        }
        return Batch(
            ids=ids,
            images=torch.from_numpy(gathered["images"]).to(self.device),
            class_ids=torch.from_numpy(gathered["class_ids"]).long().to(self.device),
            views=gathered["views"],
            labels=labels,
        )

    def _label_parts(self) -> dict[str, list[str]]:
        return {name: list(labelled.coder.arrays(labelled.num_views)) for name, labelled in self.label_sets.items()}

    def _read_block(self, block: int) -> dict[str, np.ndarray]:
        arrays = {
            "images": self.store.images.block(block),
            "class_ids": self.store.class_ids.block(block),
            "views": self.view_set.rows.block(block),
        }
        ids = np.array(self.store.block_ids(block))
        for name, labelled in self.label_sets.items():
            arrays |= {f"{name}/{part}": rows for part, rows in labelled.encoded(ids).items()}
        return arrays


def open_loader(recipe: TrainingRecipe, store: Store, device: str) -> Loader:
    """The loader that a training recipe asks for."""
    return Loader(
        store,
        labels=parse_labels(recipe.labels),
        view_set=recipe.view_set,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        select=recipe.select,
        device=device,
    )
