"""Small random rotations, scalings and shifts, shared by the three trainings. No flips: a mirrored 2 is not a digit."""

import math

import torch
import torch.nn.functional as F

BLACK = -1.0  # the background, in pixels scaled to [-1, 1]


def jitter(
    images: torch.Tensor,
    generator: torch.Generator,
    degrees: float = 5.0,
    scale: float = 0.06,
    shift: float = 1.5,
) -> torch.Tensor:
    """One random similarity transform for each image; what enters from outside is black.

    images: float32 (n, channels, height, width) in [-1, 1]; the result has the same shape.
    degrees: largest rotation either way; scale: largest relative change of size; shift: largest shift in pixels.
    """
    n = len(images)
    angle, size, dx, dy = (torch.rand(4, n, generator=generator) * 2 - 1).unbind()
    angle, size = angle * math.radians(degrees), 1 + size * scale
    # affine_grid's coordinates run from -1 to 1, so one pixel is 2 / width.
    dx, dy = dx * shift * 2 / images.shape[3], dy * shift * 2 / images.shape[2]
    cos, sin = angle.cos() * size, angle.sin() * size
    theta = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    # grid_sample pads with 0: shift the background to 0 and back.
    return F.grid_sample(images - BLACK, grid, padding_mode="zeros", align_corners=False) + BLACK
