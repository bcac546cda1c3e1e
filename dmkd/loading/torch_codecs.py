"""Stored labels -> logits, on the device that trains."""

from dataclasses import replace
from typing import Any

import torch

from dmkd.stores.codecs.base import Arrays, Coder


class LabelDecoder:
    """Decodes one coder's arrays on one device; the coder's constants are moved there once.

    ``arrays`` are a coder's, one view of each of n images: name -> (n, ...), on that device, as ``torch.from_numpy`` makes them
    (uint16 included). Equal to what the coder decodes in numpy to float32 rounding. Nothing waits for the device.
    """

    def __init__(self, coder: Coder, device: str | torch.device = "cpu") -> None:
        self.coder = coder
        moved: dict[str, Any] = {n: torch.from_numpy(value).float().to(device) for n, value in coder.constants.items()}
        self._there = replace(coder, **moved)

    @property
    def is_sparse(self) -> bool:
        """Whether there is a sparse form, which needs no dense row: :meth:`sparse` and :meth:`tail_log_mass`."""
        return self.coder.is_sparse

    def decode(self, arrays: Arrays, temperature: float = 1.0) -> torch.Tensor:
        """float32 (n, C): logits for use as softmax(logits / temperature)."""
        return self._there.decode(arrays, temperature)

    def decode_features(self, arrays: Arrays) -> torch.Tensor:
        """float32 (n, d): the teacher's penultimate features, of codecs that take these."""
        return self._there.decode_features(arrays)

    def sparse(self, arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
        """Class ids int64 and logits float32, (n, k) each, likeliest first."""
        return self._there.sparse(arrays)

    def tail_log_mass(self, arrays: Arrays, temperature: float = 1.0) -> torch.Tensor:
        """log Σ exp(z / T) over the classes left out, float32 (n,); -inf if none is."""
        return self._there.tail_log_mass(arrays, temperature)
