"""What a selection of images leaves of each class, in a sentence."""

from collections.abc import Sequence

import numpy as np

NAMED = 5  # of the classes that are gone


def selection_notice(select: str, class_ids: np.ndarray, kept: np.ndarray, class_names: Sequence[str]) -> str:
    """``class_ids`` int (n,) of the images that ``select`` chose among, ``kept`` bool (n,), some of them: how many images are
    left, which classes are gone, and the fewest and most images of the others."""
    before, after = np.unique(class_ids), np.bincount(class_ids[kept], minlength=int(class_ids.max()) + 1)
    counts = after[before]
    gone, left = before[counts == 0], counts[counts > 0]
    images = f"--select {select!r} keeps {int(kept.sum()):,} of {len(kept):,} images"
    if not len(gone):
        return f"{images}, {left.min():,} to {left.max():,} of each of {len(left):,} classes."
    names = [class_names[number].split(",")[0] for number in gone[:NAMED]]
    more = f" and {len(gone) - NAMED:,} more" if len(gone) > NAMED else ""
    return (
        f"{images}: of {len(gone):,} of {len(before):,} classes none is left ({', '.join(names)}{more}); the others have "
        f"{left.min():,} to {left.max():,} each."
    )
