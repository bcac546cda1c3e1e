"""What training from a bucket moves: bytes and requests, with a cache on a local disk and without, and what the bytes cost."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dmkd.runtime.space import MEMORY_BYTES
from dmkd.stores import UsageError
from dmkd.stores.image_codecs import RAW, parse_image_codec
from dmkd.stores.layout import CHECKS, CLASS_IDS, IMAGES, LABELS, QUALITY, VIEWS
from dmkd.stores.trees.packed_remote import SPAN_BYTES

SMALL_CODEC = "jpeg:90"


def training_traffic(
    arrays: Mapping[str, Mapping[str, Any]],
    *,
    num_blocks: int,
    image_bytes: int,
    image_codec: str,
    label_set: str | None,
    view_set: str | None,
    epochs: int,
    dollars_per_gb: float | None = None,
) -> dict[str, Any]:
    """Of a run of ``epochs`` with one label set, or with none: what a reader asks a bucket for.

    ``arrays``: node -> at least its ``bytes`` in the bucket; ``image_bytes``: of all images, as pixels. Each epoch reads the
    images, and what else does not fit in memory; the rest is read once. With a cache all is read once. The result has
    ``bytes`` and ``requests`` (of ``loose`` and of ``packed`` blocks), each without and with a cache; ``small``, the bytes with
    images as :data:`SMALL_CODEC`, where they are larger; and ``dollars``, at so much for 10^9 bytes that leave the bucket.
    Raises ``UsageError`` for a price that is none.
    """
    if dollars_per_gb is not None and not 0 <= dollars_per_gb < math.inf:
        raise UsageError(f"--dollars-per-gb must be 0 or more, not {dollars_per_gb:g}.")
    parts = [f"{LABELS}/{label_set}/", f"{VIEWS}/{view_set}"]
    beside = {
        node: array["bytes"]
        for node, array in arrays.items()
        if node in (CLASS_IDS, CHECKS) or (node.startswith(tuple(parts)) and not node.endswith(f"/{QUALITY}"))
    }
    images = arrays[IMAGES]["bytes"]
    fits = sum(beside.values()) <= MEMORY_BYTES // 2
    small = min(images, int(image_bytes * parse_image_codec(SMALL_CODEC).expected_share.of_raw))

    def times(of_images: float, of_others: float) -> dict[str, int]:
        others = of_others if fits else epochs * of_others
        return {"without_cache": int(epochs * of_images + others), "with_cache": int(of_images + of_others)}

    others = sum(beside.values())
    found: dict[str, Any] = {
        "epochs": epochs,
        "bytes": times(images, others),
        "requests": {
            "loose": times(num_blocks, num_blocks * len(beside)),
            "packed": times(_ranges(images, num_blocks), sum(_ranges(size, num_blocks) for size in beside.values())),
        },
    }
    if image_codec == RAW and small < images:
        found["small"] = {"image_codec": SMALL_CODEC, "bytes": times(small, others)}
    if dollars_per_gb is not None:
        found["dollars"] = {how: moved * dollars_per_gb / 1e9 for how, moved in found["bytes"].items()}
        if "small" in found:
            found["small"]["dollars"] = {
                h: moved * dollars_per_gb / 1e9 for h, moved in found["small"]["bytes"].items()
            }
    return found


def _ranges(size: int, num_blocks: int) -> int:
    """Requests for all blocks of a packed array: neighbours of small chunks come together."""
    chunk = size / max(1, num_blocks)
    return int(np.ceil(size / max(chunk, SPAN_BYTES // max(1, chunk) * chunk))) if size else 0
