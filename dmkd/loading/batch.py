"""A batch: n images, one view of each, and the teachers' labels of that very view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dmkd.loading.decoding import BatchDecoder


@dataclass
class Batch:
    """n images in ascending order of their id, on the loader's device (``ids`` and views on the host).

    It stays valid for as long as any of its tensors is kept: memory is used again only when nothing refers to it.
    """

    decoder: BatchDecoder
    ids: np.ndarray  # int64 (n,)
    images: torch.Tensor  # uint8 (n, H, W, 3)
    class_ids: torch.Tensor  # int64 (n,)
    views: np.ndarray  # float32 (n, P)
    labels: dict[str, dict[str, torch.Tensor]]  # label set -> the codec's arrays, (n, ...)
    partners: "Batch | None" = None  # the images mixed in, seen through their own views; None if the views do not mix

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def parts(self) -> "list[Batch]":
        """The batch itself; of one of several stores, the part of each."""
        return [self]

    def pixels(self, *, size: int | None = None, interpolation: str | None = None) -> torch.Tensor:
        """The views, mixed if they mix: uint8 (n, 3, S, S), the very pixels that the teachers saw.

        ``size`` S and ``interpolation`` None: those of the view set.
        """
        partners = (self.partners.images, self.partners.views) if self.partners else None
        return self.decoder.pixels(self.images, self.views, partners, size=size, interpolation=interpolation)

    def logits(self, temperature: float = 1.0) -> torch.Tensor:
        """The teachers' logits, float32 (n, C), for softmax(logits / temperature), decoded on the device.

        Of several label sets: the logits whose softmax at this temperature is the weighted mean of theirs. Raises
        ``UsageError`` if there are no labels.
        """
        return self.decoder.logits(self.labels, temperature)

    def own_share(self) -> torch.Tensor:
        """How much of each view shows the image itself and not its partner: float32 (n,), 1 where nothing is mixed."""
        return self.decoder.own_share(self.views)

    def split(self, sizes: Sequence[int]) -> list["Batch"]:
        """The same rows as consecutive batches of these sizes; nothing is copied."""
        if len(sizes) == 1:
            return [self]
        stops = np.cumsum(sizes).tolist()
        return [self._slice(slice(stop - size, stop)) for size, stop in zip(sizes, stops, strict=True)]

    def _slice(self, rows: slice) -> "Batch":
        labels = {name: {part: t[rows] for part, t in arrays.items()} for name, arrays in self.labels.items()}
        partners = self.partners._slice(rows) if self.partners else None
        parts = self.ids[rows], self.images[rows], self.class_ids[rows], self.views[rows]
        return Batch(self.decoder, *parts, labels, partners)

    def tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """All tensors, those of the partners included, by name."""
        tensors = {f"{prefix}images": self.images, f"{prefix}class_ids": self.class_ids}
        tensors |= {f"{prefix}{n}/{part}": t for n, arrays in self.labels.items() for part, t in arrays.items()}
        return tensors | (self.partners.tensors("partners/") if self.partners else {})

    def with_tensors(self, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> "Batch":
        """The same batch with the tensors that :meth:`tensors` named."""
        labels = {n: {part: tensors[f"{prefix}{n}/{part}"] for part in arrays} for n, arrays in self.labels.items()}
        partners = self.partners.with_tensors(tensors, "partners/") if self.partners else None
        images, class_ids = tensors[f"{prefix}images"], tensors[f"{prefix}class_ids"]
        return Batch(self.decoder, self.ids, images, class_ids, self.views, labels, partners)
