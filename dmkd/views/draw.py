"""Drawing views: image ids, a policy and a seed give crop boxes, flips and partners. Numbers only, no pixels."""

import functools
import math

import numpy as np

from dmkd.recipes.randomness import key64, uniforms
from dmkd.stores.errors import UsageError
from dmkd.views.policy import MIXUP_LEVELS, Box, ViewPolicy

BETA_LEVELS = 2**16
RRC_ATTEMPTS = 10  # as torchvision


def draw_views(
    policy: ViewPolicy,
    seed: int,
    ids: np.ndarray,
    *,
    canonical: Box,
    first: bool,
    image_size: tuple[int, int],
    output_size: int,
    block_size: int,
    num_in_block: int,
) -> np.ndarray:
    """All V views of n images, float32 (n, V, P), P components as in ``policy.components``.

    ``ids`` int64 (n,), of blocks of ``block_size`` ids of which ``num_in_block`` exist (fewer in a store's last block).
    See :func:`draw_chosen_views`, which draws them.
    """
    num_views = policy.num_views(first)
    views = draw_chosen_views(
        policy,
        seed,
        np.repeat(np.asarray(ids, np.int64), num_views),
        np.tile(np.arange(num_views), len(ids)),
        canonical=canonical,
        first=first,
        image_size=image_size,
        output_size=output_size,
        block_size=block_size,
        num_in_block=np.full(len(ids) * num_views, num_in_block),
    )
    return views.reshape(len(ids), num_views, len(policy.components))


def draw_chosen_views(
    policy: ViewPolicy,
    seed: int,
    ids: np.ndarray,
    which: np.ndarray,
    *,
    canonical: Box,
    first: bool,
    image_size: tuple[int, int],
    output_size: int,
    block_size: int,
    num_in_block: np.ndarray,
) -> np.ndarray:
    """View ``which`` int64 (n,) of each of ``ids`` int64 (n,): float32 (n, P), P components as in ``policy.components``.

    ``num_in_block`` int64 (n,): how many images each id's block holds, of ``block_size`` at most.
    View 0 of the ``first`` view set is the ``canonical`` box, neither mirrored nor mixed; then come the random ones, of
    which there is no end: the policy's number says how many of them belong to a view set.
    A random view depends on (seed, image id, its number among the random views) alone, so more can be added later; its
    partner also depends on ``num_in_block``. The only image of a block is its own partner, unmixed.
    Random boxes follow torchvision's ``RandomResizedCrop.get_params``, or ``RandomCrop`` of the image's own size from the padded
    image; pasted rectangles follow Yun et al. 2019,
    equation 2, and torchvision's ``v2.CutMix``: clipped at the edges, so less is pasted than the share drawn.
    """
    num_canonical = policy.num_views(first) - policy.num_random
    rows = ids % block_size
    if (outside := (rows >= num_in_block) | (num_in_block > min(block_size, 2**24))).any():
        wrong = int(outside.argmax())
        raise UsageError(f"Image {ids[wrong]} lies outside its block of {num_in_block[wrong]} images.")
    views = np.zeros((len(ids), len(policy.components)), np.float32)
    component = {name: views[:, place] for place, name in enumerate(policy.components)}

    views[:, :4] = canonical
    if policy.mix:
        component["partner"][:] = rows
    if policy.mix == "mixup":
        component["weight"][:] = 1
    random = np.flatnonzero(which >= num_canonical)
    if not policy.num_random or not len(random):
        return views

    key = key64(seed, "views")
    who, number = ids[random], which[random] - num_canonical

    def draw(purpose: int) -> np.ndarray:
        return uniforms(key, who, number, np.array([purpose]))

    height, width = image_size
    boxes = _padded_boxes if policy.kind == "pad" else _random_boxes
    top, left, box_height, box_width = boxes(policy, key, who, number, image_size)
    component["top"][random] = top / height
    component["left"][random] = left / width
    component["height"][random] = box_height / height
    component["width"][random] = box_width / width
    component["flip"][random] = draw(_FLIP) < policy.flip
    row, others = rows[random], num_in_block[random] - 1
    mixed = others > 0

    def put(name: str, values: np.ndarray) -> None:
        component[name][random[mixed]] = values[mixed]

    if policy.mix and mixed.any():
        # Any other row of the block: 1 to num_in_block - 1 places further on, around its end.
        put("partner", (row + 1 + _integers(draw(_PARTNER), others)) % (others + 1))
        share = _beta(draw(_SHARE), policy.alpha or 0.0)
        if policy.mix == "mixup":
            put("weight", np.rint(share * MIXUP_LEVELS) / MIXUP_LEVELS)
        else:
            half = (0.5 * np.sqrt(1 - share) * output_size).astype(np.int64)
            for axis, extent, purpose in (("mix_top", "mix_height", _MIX_ROW), ("mix_left", "mix_width", _MIX_COLUMN)):
                centre = _integers(draw(purpose), output_size)
                low, high = np.maximum(centre - half, 0), np.minimum(centre + half, output_size)
                put(axis, low / output_size)
                put(extent, (high - low) / output_size)
    return views


# What a random number is for: the last counter of `uniforms`. Attempt t at a box uses _BOX + 2t and _BOX + 2t + 1.
_TOP, _LEFT, _FLIP, _PARTNER, _SHARE, _MIX_ROW, _MIX_COLUMN, _BOX = range(8)


def _random_boxes(
    policy: ViewPolicy, key: np.uint64, who: np.ndarray, which: np.ndarray, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in whole pixels, int64 (n,) each: top, left, height, width. torchvision's ``RandomResizedCrop``."""
    height, width = image_size
    # The fallback where no attempt fits: the largest central crop within the ratio.
    fallback_height, fallback_width = height, width
    if width / height < policy.ratio[0]:
        fallback_height = round(width / policy.ratio[0])
    elif width / height > policy.ratio[1]:
        fallback_width = round(height * policy.ratio[1])
    box_height = np.full(len(who), fallback_height)
    box_width = np.full(len(who), fallback_width)
    top, left = (height - box_height) // 2, (width - box_width) // 2

    log_low, log_high = math.log(policy.ratio[0]), math.log(policy.ratio[1])
    pending = np.arange(len(who))
    for attempt in range(RRC_ATTEMPTS):
        counters = who[pending], which[pending]
        share = uniforms(key, *counters, np.array([_BOX + 2 * attempt]))
        area = height * width * (policy.scale[0] + share * (policy.scale[1] - policy.scale[0]))
        ratio = np.exp(log_low + uniforms(key, *counters, np.array([_BOX + 2 * attempt + 1])) * (log_high - log_low))
        tall, wide = np.rint(np.sqrt(area / ratio)).astype(np.int64), np.rint(np.sqrt(area * ratio)).astype(np.int64)
        fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
        done = pending[fits]
        box_height[done], box_width[done] = tall[fits], wide[fits]
        top[done] = _integers(uniforms(key, who[done], which[done], np.array([_TOP])), height - tall[fits] + 1)
        left[done] = _integers(uniforms(key, who[done], which[done], np.array([_LEFT])), width - wide[fits] + 1)
        pending = pending[~fits]
        if not len(pending):
            break
    return top, left, box_height, box_width


def _padded_boxes(
    policy: ViewPolicy, key: np.uint64, who: np.ndarray, which: np.ndarray, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in whole pixels, int64 (n,) each, as large as the image and moved by up to ``padding`` pixels each way."""
    height, width = image_size
    padding = policy.padding or 0
    if padding >= min(image_size):
        raise UsageError(f"Views that are padded by {padding} pixels can miss images of {height}x{width}: pad by less.")
    top, left = (
        _integers(uniforms(key, who, which, np.array([purpose])), 2 * padding + 1) - padding
        for purpose in (_TOP, _LEFT)
    )
    return top, left, np.full(len(who), height), np.full(len(who), width)


def _integers(uniform: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    """Uniform in [0, 1) -> int64 in [0, count)."""
    return (uniform * count).astype(np.int64)


def _beta(uniform: np.ndarray, alpha: float) -> np.ndarray:
    """Uniform in [0, 1) -> Beta(alpha, alpha), rounded to a multiple of 1 / BETA_LEVELS."""
    return np.searchsorted(_beta_thresholds(alpha), uniform, side="right") / BETA_LEVELS


@functools.lru_cache(maxsize=8)
def _beta_thresholds(alpha: float) -> np.ndarray:
    """P(x < (k + 1/2) / BETA_LEVELS) for x of Beta(alpha, alpha), k = 0 .. BETA_LEVELS - 1.

    The density's pole at 0 is taken out by s = x^alpha: P(x < X) is proportional to the integral of
    (1 - s^(1/alpha))^(alpha - 1) up to X^alpha, smooth for X <= 1/2 (Simpson's rule); the other half is symmetric.
    """
    edges = np.concatenate([[0], (np.arange(BETA_LEVELS // 2) + 0.5) / BETA_LEVELS, [0.5]]) ** alpha
    low, high = edges[:-1], edges[1:]

    def integrand(s: np.ndarray) -> np.ndarray:
        return (1 - s ** (1 / alpha)) ** (alpha - 1)

    half = np.cumsum((high - low) / 6 * (integrand(low) + 4 * integrand((low + high) / 2) + integrand(high)))
    half = half[:-1] / (2 * half[-1])
    return np.concatenate([half, 1 - half[::-1]])
