"""Stored labels -> logits, on the device that trains."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from dmkd.runtime.accelerators import device_type, has_float64, upload
from dmkd.stores.codecs.base import Arrays, Coder

Decoded = TypeVar("Decoded")


class LabelDecoder:
    """Decodes one coder's arrays on one device; the coder's constants are moved there once.

    ``arrays`` are a coder's, one view of each of n images: name -> (n, ...), on that device, as ``torch.from_numpy`` makes them
    (uint16 included). Equal to what the coder decodes in numpy to float32 rounding, mixed precision or not. Nothing waits for
    a GPU. What comes is on that device; where that has no float64, the CPU decodes. ``class_numbers`` int64 (C,), a
    permutation: the number that each of the coder's classes is given; None: its own.
    """

    def __init__(
        self, coder: Coder, device: str | torch.device = "cpu", class_numbers: np.ndarray | None = None
    ) -> None:
        self.coder, self._device = coder, torch.device(device)
        self._decodes = self._device if has_float64(device) else torch.device("cpu")
        constants = {name: torch.from_numpy(value).float() for name, value in coder.constants.items()}
        moved: dict[str, Any] = {name: upload(constant, self._decodes) for name, constant in constants.items()}
        self._there = replace(coder, **moved)
        self._numbers = None if class_numbers is None else upload(class_numbers, self._device)
        self._places = None if class_numbers is None else upload(np.argsort(class_numbers), self._device)

    @property
    def is_sparse(self) -> bool:
        """Whether there is a sparse form, which needs no dense row: :meth:`sparse` and :meth:`tail_log_mass`."""
        return self.coder.is_sparse

    def decode(self, arrays: Arrays, temperature: float = 1.0) -> torch.Tensor:
        """float32 (n, C): logits for use as softmax(logits / temperature)."""
        logits = self._exactly(self._there.decode, arrays, temperature).to(self._device)
        return logits if self._places is None else logits[:, self._places]

    def decode_features(self, arrays: Arrays) -> torch.Tensor:
        """float32 (n, d): the teacher's penultimate features, of codecs that take these."""
        return self._exactly(self._there.decode_features, arrays).to(self._device)

    def sparse(self, arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
        """Class ids int64 and logits float32, (n, k) each, likeliest first."""
        ids, logits = self._exactly(self._there.sparse, arrays)
        ids = ids.to(self._device)
        return ids if self._numbers is None else self._numbers[ids], logits.to(self._device)

    def tail_log_mass(self, arrays: Arrays, temperature: float = 1.0) -> torch.Tensor:
        """log Σ exp(z / T) over the classes left out, float32 (n,); -inf if none is."""
        return self._exactly(self._there.tail_log_mass, arrays, temperature).to(self._device)

    def _exactly(self, decode: Callable[..., Decoded], arrays: Arrays, *more: float) -> Decoded:
        """What a teacher said is not to be rounded, whatever precision the student is computed in."""
        with torch.autocast(device_type(self._decodes), enabled=False):
            return decode({name: array.to(self._decodes) for name, array in arrays.items()}, *more)
