"""Linear layers in FP8 with a scale for each row of both factors, by torch's own product."""

from typing import Any

import torch

LARGEST = 448.0  # of float8_e4m3fn


def quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(m, k) -> float8 (m, k) and the scales float32 (m, 1) to multiply them with."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (rows.float() / scale).to(torch.float8_e4m3fn), scale


class Fp8Linear(torch.nn.Module):
    """A linear layer whose inputs are quantised as they come."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, scale = quantise(linear.weight.detach())
        self.scale, self.bias = scale.t().contiguous(), linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, scale = quantise(x.flatten(0, -2))
        product = torch._scaled_mm(
            rows, self.weight.t(), scale, self.scale, bias=self.bias, out_dtype=x.dtype, use_fast_accum=True
        )
        return product.unflatten(0, x.shape[:-1])


def to_fp8(module: Any) -> None:
    """Replace the linear layers within a module."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear):
            setattr(module, name, Fp8Linear(child))
        else:
            to_fp8(child)
