"""What values may be: boxes within the image, probabilities up to 1, finite logits, and images that are not all alike."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .. import layout
from ..codecs import Coder
from .finding import WARNING, Finding, show_ids, some

BOX_TOLERANCE = 1e-6  # boxes are sums of float32 fractions
QUALITY_TOLERANCE = 1e-3  # of p(class) and entropy, both rounded to float32
DECODED_AT_ONCE = 2**24  # logits, 64 MB: what decoding may hold at a time


def wrong_views(
    views: np.ndarray, components: Sequence[str], count: int, beyond: Sequence[float]
) -> Iterator[tuple[np.ndarray, str]]:
    """float32 (n, V, P) -> which views (n, V) are wrong, and what is wrong with them.

    ``beyond``: by how much of the image's height and width boxes may leave it.
    """
    finite = np.isfinite(views).all(2)
    yield ~finite, "are NaN or infinite views"
    part = {name: np.where(finite, views[:, :, place], 0).astype(np.float64) for place, name in enumerate(components)}
    end = 1 + BOX_TOLERANCE
    top, left, height, width = (np.where(finite, part[name], 1) for name in ("top", "left", "height", "width"))
    above, aside = (share + BOX_TOLERANCE * (share > 0) for share in beyond)
    outside = (top < -above) | (left < -aside) | (height <= 0) | (width <= 0)
    outside |= (top + height > end + above) | (left + width > end + aside)
    yield outside & finite, "have crop boxes outside the image"
    yield finite & ~np.isin(part["flip"], (0, 1)), "have a flip other than 0 and 1"
    if "partner" in part:
        partner = part["partner"]
        yield (partner < 0) | (partner >= count) | (partner != np.rint(partner)), "have a partner outside their block"
    if "mix_top" in part:
        top, left, height, width = (part[f"mix_{name}"] for name in ("top", "left", "height", "width"))
        outside = (top < 0) | (left < 0) | (height < 0) | (width < 0) | (top + height > end) | (left + width > end)
        yield outside, "have a pasted rectangle outside the view"
    if "weight" in part:
        yield (part["weight"] < 0) | (part["weight"] > 1), "have a mixing weight outside 0 to 1"


def wrong_quality(quality: np.ndarray, num_classes: int) -> Iterator[tuple[np.ndarray, str]]:
    """Finite float32 (n, 3) -> which rows (n,) are wrong, and what is wrong with them."""
    top1, p_class, entropy = quality.T
    yield (top1 < 0) | (top1 >= num_classes) | (top1 != np.rint(top1)), "have a top-1 class out of range"
    yield (p_class < 0) | (p_class > 1 + QUALITY_TOLERANCE), "have a probability outside 0 to 1"
    highest = np.log(num_classes) + QUALITY_TOLERANCE
    yield (entropy < -QUALITY_TOLERANCE) | (entropy > highest), "have an entropy that no softmax has"


def decodes_finite(coder: Coder, arrays: Mapping[str, np.ndarray], count: int, logits_each: int) -> np.ndarray:
    """Which of n images decode to finite logits, bool (n,); some images at a time."""
    at_once = max(1, DECODED_AT_ONCE // logits_each)
    finite = []
    for start in range(0, count, at_once):
        with np.errstate(all="ignore"):  # what overflows is found below
            logits = coder.decode({name: rows[start : start + at_once] for name, rows in arrays.items()})
        finite.append(np.isfinite(logits).all((1, 2)))
    return np.concatenate(finite)


class OddImages:
    """Images of one colour, and images or whole blocks that are alike. Keeps a number for each block, not the images."""

    def __init__(self) -> None:
        self._constant: list[int] = []
        self._alike: list[tuple[int, int]] = []
        self._blocks_seen: dict[int, int] = {}
        self._blocks_alike: list[tuple[int, int]] = []

    def look_at(self, images: np.ndarray, block: int, start: int) -> None:
        """Remember the images of a block, uint8 (n, H, W, 3), whose first id is ``start``."""
        flat = images.reshape(len(images), -1, images.shape[-1])
        # One row first: only few images pass, and the others need not be read to their ends.
        width = images.shape[2]
        candidates = np.flatnonzero((flat[:, :width] == flat[:, :1]).all((1, 2)))
        one_colour = {int(row) for row in candidates if (flat[row] == flat[row, :1]).all()}
        self._constant += [start + row for row in sorted(one_colour)]
        first: dict[bytes, int] = {}
        keys = []
        for row, image in enumerate(images):
            key = image.tobytes()
            keys.append(hash(key))
            if (twin := first.setdefault(key, row)) != row and row not in one_colour:
                self._alike.append((start + twin, start + row))
        # A whole chunk that was copied over another one has a right checksum.
        if (twin := self._blocks_seen.setdefault(hash(tuple(keys)), block)) != block and len(one_colour) < len(images):
            self._blocks_alike.append((twin, block))

    def findings(self) -> Iterator[Finding]:
        if self._constant:
            yield Finding(WARNING, layout.IMAGES, f"One colour all over: {show_ids(self._constant)}.")
        if self._alike:
            pairs = some([f"{first} and {second}" for first, second in self._alike])
            yield Finding(WARNING, layout.IMAGES, f"{len(self._alike)} times the same image twice in a block: {pairs}.")
        if self._blocks_alike:
            pairs = some([f"{first} and {second}" for first, second in self._blocks_alike])
            yield Finding(WARNING, layout.IMAGES, f"Whole blocks with the same images: {pairs}.")
