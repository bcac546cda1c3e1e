"""Resampling along one axis, in numbers that are exact on any device: Pillow's filters, their weights, and sums with them.

The resampling is Pillow's for 8-bit images (``src/libImaging/Resample.c``), to the bit: width first, then height,
rounding and clamping to 0..255 after each pass, with a support that grows with the scale (antialiasing) and reads beyond
the box but not beyond the image. Pillow's weights are multiples of 2^-22; each is split here into a coarse multiple of 2^-15 and
the rest. Products and partial sums of either part are then integers below 2^24 in their unit: float32 holds them
exactly, and the order of summation does not matter. Each pass is a weighted sum of table rows (``embedding_bag``), not a
matrix product: it takes only as many multiplications as there are weights, and no setting for reduced precision (TF32,
bfloat16, autocast) touches it.

(Pillow 13 takes height first where that axis shrinks more, which moves pixels by some grey levels; here, as in the
versions before, width always comes first. Images resized without distortion are the same in both.)
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from dmkd.runtime.accelerators import has_float64, upload
from dmkd.stores.errors import UsageError

WEIGHT_BITS = 22  # Pillow's PRECISION_BITS
COARSE_BITS = 15
EDGE = 1e-5  # of an image's length: what a box, the sum of two float32, may lie beyond its image and still be inside
MAX_TAPS = 1024  # 255 * (1/2 * 2^7) * 1024 < 2^24: the rest of the weights stays exact as well


class Boxes:
    """Where some views lie along one axis of their images, on the host; views that share a box share its weights."""

    def __init__(self, start: np.ndarray, extent: np.ndarray, length: int, size: int) -> None:
        """``start``, ``extent`` float32 (k,): fractions of the image's ``length`` pixels along this axis, of which ``size`` are
        to be made."""
        pairs = np.stack([start, extent], 1)
        _, first, box = np.unique(pairs.view(np.uint64), return_index=True, return_inverse=True)
        self.offset, self.scale = _grid(start[first], extent[first], length, size)
        self.box = box.ravel()  # int64 (k,): whose offset and scale a view has
        self.length, self.size = length, size


class Taps:
    """One pass: for each view and output pixel, where its source pixels begin and their weights, on the views' device."""

    def __init__(self, boxes: Boxes, box: torch.Tensor, interpolation: str) -> None:
        """``box``: the boxes' own, there."""
        device = box.device
        first, weights = filter_weights(
            boxes.offset,
            boxes.scale,
            boxes.length,
            boxes.size,
            interpolation,
            device if has_float64(device) else torch.device("cpu"),
        )
        # Fractions with 15 bits after the point, and what they leave in units of 2^-15: a fraction with 7 bits.
        coarse = (weights * 2.0 ** (COARSE_BITS - WEIGHT_BITS)).round_()
        fine = (weights - coarse * 2.0 ** (WEIGHT_BITS - COARSE_BITS)) * 2.0 ** (COARSE_BITS - WEIGHT_BITS)
        self.box, self.first = box, first.to(device)
        self.weights = torch.stack([coarse * 2.0**-COARSE_BITS, fine]).to(torch.float32).to(device)
        self.length = boxes.length

    def weighted_sum(
        self, table: torch.Tensor, image: torch.Tensor, here: slice, mirrored: torch.Tensor | None
    ) -> torch.Tensor:
        """``table`` float32 (images * length, D) of integers 0..255 -> uint8 (views * S, D), rounded and clamped.

        ``image`` int64 (views,): which of the table's images each of the views ``here`` reads.
        """
        box = self.box[here]
        first, weights = self.first[box], self.weights[:, box]
        if mirrored is not None:
            first = torch.where(mirrored[:, None], first.flip(1), first)
            weights = torch.where(mirrored[:, None, None], weights.flip(2), weights)
        num_taps = weights.shape[-1]
        offsets = torch.arange(num_taps, device=first.device)
        # Taps beyond the image have weight zero.
        places = (first[..., None] + offsets).clamp_(0, self.length - 1) + image[:, None, None] * self.length
        places = places.view(-1, num_taps)
        sums, rest = (
            F.embedding_bag(places, table, per_sample_weights=part.reshape(-1, num_taps), mode="sum")
            for part in weights
        )
        # Halves round up, as in Pillow; the conversion truncates. What is left of the rest below 2^-15 can't change that.
        return sums.add_(rest.floor_(), alpha=2.0**-COARSE_BITS).add_(0.5).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=8)
def resampling_matrix(start: float, extent: float, length: int, size: int, interpolation: str) -> torch.Tensor:
    """One pass without rounding: float32 (size, length) on the CPU, which an axis of ``length`` pixels is multiplied by to show
    the box from ``start``, both fractions of it. Unlike torch's own resizing its gradient is the same every time on a GPU."""
    boxes = Boxes(np.array([start], np.float32), np.array([extent], np.float32), length, size)
    first, weights = filter_weights(boxes.offset, boxes.scale, length, size, interpolation)
    places = (first[0][:, None] + torch.arange(weights.shape[-1])).clamp_(0, length - 1)
    matrix = torch.zeros(size, length, dtype=torch.float64)
    return matrix.scatter_add_(1, places, weights[0] * 2.0**-WEIGHT_BITS).float()


def filter_weights(
    offset: np.ndarray,
    scale: np.ndarray,
    length: int,
    size: int,
    interpolation: str,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """How u boxes along one axis of ``length`` pixels are resampled to ``size`` pixels: Pillow's ``precompute_coeffs``.

    ``scale`` float64 (u,) in source pixels per output pixel, ``offset`` float64 (u,), where the box begins, in source
    pixels. A box that leaves the image sees black pixels beyond it; for one that does not there are none, as in Pillow.

    Returns ``first`` int64 (u, size), the first source pixel of each output pixel, and ``weights`` float64 (u, size, taps),
    integers in units of 2^-22. Computed on the device, which is not waited for, with operations that IEEE 754 rounds
    correctly, in a fixed order: the same weights on every machine and device. That forbids, on a GPU, to divide by a number
    (torch multiplies by its rounded reciprocal), and sums in parallel. Raises ``UsageError`` for an unknown interpolation.
    """
    if interpolation not in INTERPOLATIONS:
        raise UsageError(f"The interpolation {interpolation!r} is unknown; there are {', '.join(INTERPOLATIONS)}.")
    function, support = INTERPOLATIONS[interpolation]
    leaves = (offset < -EDGE * length) | (offset + scale * size > length * (1 + EDGE))
    begins, scales, low, high = upload(
        np.stack([offset, scale, np.where(leaves, -np.inf, 0.0), np.where(leaves, np.inf, length)]), device
    )[..., None]
    if function is None:
        # Pillow's ImagingScaleAffine steps along by addition, which decides where a centre falls between two pixels.
        centres = [begins + scales * 0.5]
        for _ in range(size - 1):
            centres.append(centres[-1] + scales)
        first = torch.minimum(torch.maximum(torch.cat(centres, 1).floor_(), low), high - 1)
        weights = ((first >= 0) & (first < length)).to(torch.float64) * 2.0**WEIGHT_BITS
        return first.long(), weights[..., None]

    centre = begins + (torch.arange(size, dtype=torch.float64, device=device) + 0.5) * scales
    filter_scale = scales.clamp(min=1.0)
    reach, step = support * filter_scale, 1.0 / filter_scale
    first = torch.maximum((centre - reach + 0.5).floor_(), low)
    end = torch.minimum((centre + reach + 0.5).floor_(), high)
    num_taps = _num_taps(end - first, 2 * support * max(1.0, float(scale.max())), math.inf if leaves.any() else length)
    if num_taps > MAX_TAPS:
        raise UsageError(f"Views of {length} pixels can't be shrunk to {size} pixels in one go; store smaller images.")
    weights = centre.new_zeros(num_taps, *first.shape)
    total = torch.zeros_like(centre)
    for tap, weight in enumerate(weights):
        place = first + tap
        weight.copy_(function((place - centre + 0.5) * step) * (place < end))
        total += weight
        if leaves.any():
            weight.mul_((place >= 0) & (place < length))  # black, which counts in the total alone
    weights.div_(total).mul_(2.0**WEIGHT_BITS)
    weights.add_(weights.sign(), alpha=0.5).trunc_()
    return first.long(), weights.permute(1, 2, 0)


def _num_taps(counts: torch.Tensor, widest: float, length: float) -> int:
    """How many weights an output pixel has at most. ``counts`` are known on the device only, and to ask a GPU would be to wait
    for it: there it is what the filter can reach, ``widest`` source pixels, and what is too much has weight zero."""
    if counts.device.type == "cpu":
        return int(counts.max())
    return int(min(length, math.ceil(widest + 1e-6)))  # more than the rounding of both ends


def _bilinear(x: torch.Tensor) -> torch.Tensor:
    return (1.0 - x.abs()).clamp_(min=0.0)


def _bicubic(x: torch.Tensor) -> torch.Tensor:
    """Keys 1981 with a = -0.5, as Pillow."""
    x = x.abs()
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, far).masked_fill_(x >= 2.0, 0.0)


def _lanczos(x: torch.Tensor) -> torch.Tensor:
    return (_sinc(x) * _sinc(x / x.new_full((), 3.0))).masked_fill_((x < -3.0) | (x >= 3.0), 0.0)


_HAMMING = float(np.float32(0.54)), float(np.float32(0.46))  # as Pillow


def _hamming(x: torch.Tensor) -> torch.Tensor:
    return (_sinc(x) * (_HAMMING[0] + _HAMMING[1] * _sin_pi(x + 0.5))).masked_fill_(x.abs() >= 1.0, 0.0)


def _box(x: torch.Tensor) -> torch.Tensor:
    return ((x > -0.5) & (x <= 0.5)).to(torch.float64)


def _sinc(x: torch.Tensor) -> torch.Tensor:
    return (_sin_pi(x) / (x * math.pi)).masked_fill_(x == 0.0, 1.0)


def _sin_pi(x: torch.Tensor) -> torch.Tensor:
    """sin(pi x) by its Taylor series around the nearest integer: the same bits on every processor, unlike ``sin``."""
    whole = x.round()
    angle = (x - whole) * math.pi
    square = angle * angle
    series = torch.zeros_like(x)
    for power in range(21, 1, -2):
        series = (series + 1.0) * (square * (-1.0 / (power * (power - 1))))
    return (1.0 - 2.0 * whole.remainder(2.0)) * (series + 1.0) * angle


# Filter and its support at scale 1, as in Pillow; nearest takes the source pixel under the centre.
INTERPOLATIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor] | None, float]] = {
    "nearest": (None, 0.0),
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


def _grid(start: np.ndarray, extent: np.ndarray, length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in float32 fractions of ``length`` -> where each begins and its scale, float64 in source pixels.

    float32 can't tell a box from one that is a little off. If a whole number of source pixels is among those that it may
    be, it is that; else if a crop in whole pixels from an image resized to a whole number of pixels is (a classifier's
    evaluation view), it is that.
    """
    start, extent = start.astype(np.float64), extent.astype(np.float64)
    tolerance = 2.0**-24  # float32's rounding error, relative to the whole

    def whole(pixels: np.ndarray, unit: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        rounded = np.rint(pixels)
        return rounded, np.abs(pixels - rounded) <= tolerance * unit

    first, starts_whole = whole(start * length, length)
    count, ends_whole = whole(extent * length, length)
    resized, is_resized = whole(size / extent, size / extent)
    crop, is_crop = whole(start * resized, resized)
    in_pixels, in_resized = starts_whole & ends_whole, is_resized & is_crop
    scale = np.where(in_pixels, count / size, np.where(in_resized, length / resized, extent * length / size))
    return np.where(in_pixels, first, np.where(in_resized, crop * scale, start * length)), scale
