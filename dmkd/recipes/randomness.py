"""Counter-based randomness: what is drawn for an image depends on (seed, image id) alone.

Only integer arithmetic on uint64, so the numbers are the same on every machine and with every version of numpy (whose
distributions may change between releases, NEP 19). The hash is SplitMix64's finaliser (Steele, Lea & Flood 2014).
"""

import numpy as np

from dmkd.stores.errors import UsageError

MAX_IMAGES = 2**32  # ids of one recipe: each has a 32-bit seed of its own

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def check_number_of_images(num_images: int) -> None:
    """Raise ``UsageError`` for more images than there are ids."""
    if num_images > MAX_IMAGES:
        raise UsageError(f"A store holds at most {MAX_IMAGES:,} images, and {num_images:,} were asked for.")


def mix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function on uint64 (...): a bijection whose bits all depend on all bits of ``x``."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key64(seed: int, purpose: str) -> np.uint64:
    """A key from a seed of any size and a word, so that two uses of one seed are independent."""
    key = np.array([0x243F6A8885A308D3], np.uint64)
    for word in [seed & (2**64 - 1), seed >> 64 & (2**64 - 1), *purpose.encode()]:
        key = mix64(key ^ np.array([word], np.uint64))
    return key[0]


def uniforms(key: np.uint64, *counters: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), one for each (broadcast) tuple of counters (integers of any shape)."""
    state = np.broadcast_to(key, np.broadcast_shapes(*(np.shape(c) for c in counters)))
    for counter in counters:
        state = mix64(state ^ mix64(np.asarray(counter).astype(np.uint64)))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def image_seeds(seed: int, ids: np.ndarray) -> np.ndarray:
    """Seeds of images, int64 (n,) in [0, 2^32), no two alike within one recipe.

    ``torch.Generator.manual_seed`` on the CPU uses the low 32 bits only. Hashing ids to 32 bits would give hundreds of
    pairs of a million images the same noise, so the ids are permuted instead: four rounds of a Feistel network keyed by
    the recipe's seed (Luby & Rackoff 1988), a bijection on 32-bit numbers.
    """
    ids = np.asarray(ids, np.int64)
    if ids.size and (ids.min() < 0 or ids.max() >= MAX_IMAGES):
        raise ValueError("image ids must lie in [0, 2^32)")
    left, right = ids.astype(np.uint64) >> np.uint64(16), ids.astype(np.uint64) & np.uint64(0xFFFF)
    for round_number in range(4):
        key = key64(seed, f"image seed {round_number}")
        left, right = right, left ^ (mix64(right ^ key) >> np.uint64(48))
    return ((left << np.uint64(16)) | right).astype(np.int64)


def class_order(seed: int, ids: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The class asked for in each image: int32 (n,). Every run of C consecutive ids is a seeded permutation of ``classes``.

    Any range of ids is thus a nearly class-balanced sample, and a store that grows keeps what it has.
    """
    ids, classes = np.asarray(ids, np.int64), np.asarray(classes, np.int32)
    key, count = key64(seed, "class order"), len(classes)
    order = np.empty(len(ids), np.int32)
    runs = ids // count
    for run in np.unique(runs):
        ranks = mix64(mix64(np.full(count, run, np.uint64) ^ key) ^ np.arange(count, dtype=np.uint64))
        wanted = runs == run
        order[wanted] = classes[np.argsort(ranks, kind="stable")][ids[wanted] % count]
    return order
