"""Stored labels -> logits, on the device that trains: what :mod:`dmkd.stores.codecs` decodes in numpy, in torch."""

from collections.abc import Mapping

import numpy as np
import torch

from dmkd.stores.codecs.base import Coder
from dmkd.stores.codecs.features import FeaturesCoder
from dmkd.stores.codecs.float16 import Float16Coder
from dmkd.stores.codecs.klt import MISSING, KltCoder
from dmkd.stores.codecs.topk import TopKCoder
from dmkd.stores.codecs.uint8 import Uint8Coder

Arrays = Mapping[str, torch.Tensor]


class LabelDecoder:
    """Decodes one coder's arrays on one device; the coder's constants are moved there once.

    ``arrays`` are a coder's, one view of each of n images: name -> (n, ...), on that device, as ``torch.from_numpy`` makes them
    (uint16 included). Equal to the coder's own ``decode`` to float32 rounding.
    """

    def __init__(self, coder: Coder, device: str | torch.device = "cpu") -> None:
        self.coder = coder
        constants = {name: value for name, value in vars(coder).items() if isinstance(value, np.ndarray)}
        self._constants = {name: torch.from_numpy(value).float().to(device) for name, value in constants.items()}

    def decode(self, arrays: Arrays, temperature: float = 1.0) -> torch.Tensor:
        """float32 (n, C): logits for use as softmax(logits / temperature)."""
        match self.coder:
            case Float16Coder():
                return arrays["logits"].float()
            case Uint8Coder():
                return _dequantise(arrays["logits"], arrays["affine"])
            case FeaturesCoder():
                return torch.addmm(self._constants["bias"], self.decode_features(arrays), self._constants["weight"].T)
            case KltCoder(step=step):
                zigzag = arrays["coefficients"].to(torch.int32)
                whole = ((zigzag >> 1) ^ -(zigzag & 1)).float()
                multiples = (whole - self._constants["pull"] * whole.sign()) * step
                logits = torch.addmm(self._constants["mean"], multiples, self._constants["basis"])
                return torch.where(zigzag[:, :1] == MISSING, arrays["exact"].float(), logits)
            case TopKCoder(num_classes=num_classes, num_tail=num_tail):
                ids, logits = self.sparse(arrays)
                if not num_tail:
                    return torch.zeros(len(ids), num_classes, device=ids.device).scatter_(1, ids, logits)
                each = temperature * (self.tail_log_mass(arrays, temperature) - float(np.log(num_tail)))
                return each[:, None].repeat(1, num_classes).scatter_(1, ids, logits)
        raise TypeError(f"no torch decoding for {type(self.coder).__name__}")

    def decode_features(self, arrays: Arrays) -> torch.Tensor:
        """float32 (n, d): the teacher's penultimate features, of the ``features`` codec only."""
        return _dequantise(arrays["features"], arrays["affine"])

    def sparse(self, arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
        """Class ids int64 and logits float32, (n, k) each, of the ``topk`` codec only."""
        return arrays["ids"].to(torch.int64), arrays["logits"].float()

    def tail_log_mass(self, arrays: Arrays, temperature: float = 1.0) -> torch.Tensor:
        """log Σ exp(z / T) over the classes that ``topk`` left out, float32 (n,); -inf if none is."""
        logsumexp, mean, variance = arrays["tail"].float().unbind(-1)
        if not isinstance(self.coder, TopKCoder) or not self.coder.num_tail:
            return torch.full_like(mean, float("-inf"))
        beta, count = 1 / temperature, float(np.log(self.coder.num_tail))
        rest = logsumexp - count - mean - variance / 2
        mass = count + beta * mean + beta**2 * variance / 2 + beta**3 * rest
        if temperature < 1:
            smallest = arrays["logits"][:, -1].float()
            mass = torch.clamp(mass, count + beta * mean, count + beta * torch.maximum(smallest, mean))
        return mass


def _dequantise(whole: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """uint8 (n, D), float32 (n, 2) offset and step -> float32 (n, D)."""
    return affine[:, :1] + whole.float() * affine[:, 1:]
