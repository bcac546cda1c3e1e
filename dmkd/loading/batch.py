"""A batch: n images, one stored view of each, and the teachers' labels of that very view."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from dmkd.loading.loader import Loader


@dataclass
class Batch:
    """n images in ascending order of their id, on the loader's device (``ids`` and views on the host).

    It stays valid for as long as any of its tensors is kept: memory is used again only when nothing refers to it.
    """

    loader: "Loader"
    ids: np.ndarray  # int64 (n,)
    images: torch.Tensor  # uint8 (n, H, W, 3)
    class_ids: torch.Tensor  # int64 (n,)
    views: np.ndarray  # float32 (n, P)
    labels: dict[str, dict[str, torch.Tensor]]  # label set -> the codec's arrays, (n, ...)
    partners: "Batch | None" = None  # the images mixed in, seen through their own views; None if the views do not mix

    def __len__(self) -> int:
        return len(self.ids)

    def pixels(self, *, size: int | None = None, interpolation: str | None = None) -> torch.Tensor:
        """The views, rendered: uint8 (n, 3, S, S), see :meth:`Loader.pixels`."""
        return self.loader.pixels(self, size=size, interpolation=interpolation)

    def logits(self, temperature: float = 1.0) -> torch.Tensor:
        """The teachers' logits, float32 (n, C), see :meth:`Loader.logits`."""
        return self.loader.logits(self, temperature)
