"""Real digits: scikit-learn's 8x8 digits, split once and upsampled to 32x32.

scikit-learn is needed only here, and only to build or check the assets.
"""

import hashlib

import numpy as np
from PIL import Image

HELDOUT = 360  # images, of 1797
SPLIT_SEED = 2024
SIZE = 32  # pixels a side after upsampling


def load_originals() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's ``load_digits``: images uint8 (1797, 8, 8), values 0..16, and class ids int32 (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int32)


def split(class_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images train and which are held out: two sorted int64 index arrays, (1437,) and (360,).

    Stratified: every class gives the same share to within one image. Fixed by ``class_ids`` and ``SPLIT_SEED``.
    """
    from sklearn.model_selection import train_test_split

    train, heldout = train_test_split(
        np.arange(len(class_ids)), test_size=HELDOUT, stratify=class_ids, random_state=SPLIT_SEED
    )
    return np.sort(train), np.sort(heldout)


def upsample(originals: np.ndarray) -> np.ndarray:
    """uint8 (n, 8, 8), values 0..16 -> uint8 (n, 32, 32, 3), grey: ``round(v * 255 / 16)``, then Pillow's bicubic."""
    grey = np.round(originals * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in grey]
    return np.repeat(np.stack(large)[..., None], 3, axis=3)


def digests(originals: np.ndarray) -> np.ndarray:
    """Sorted SHA-256 of each image's 64 bytes, as uint8 (n, 32)."""
    rows = sorted(hashlib.sha256(image.tobytes()).digest() for image in np.ascontiguousarray(originals, np.uint8))
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)
