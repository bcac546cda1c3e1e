"""A teacher's opinion of the images, averaged."""

from collections.abc import Sequence

import numpy as np

from dmkd.stores import LabelSet, Store

QUALITY_IMAGES = 10_000  # images whose quality is read for the averages


def quality_averages(store: Store, label_set: LabelSet, missing: Sequence[int]) -> dict[str, float | int]:
    """``agreement`` (share of images whose top-1 is their class), ``p_class`` and ``entropy`` (nats), means over the first
    ``quality_images`` images of blocks that have both images and labels; {} if there are none. ``missing``: unlabelled blocks.
    """
    absent = set(missing) | set(store.missing_blocks())
    enough = -(-QUALITY_IMAGES // store.block_size)
    blocks = [block for block in range(store.num_blocks) if block not in absent][:enough]
    if not blocks:
        return {}
    ids = np.concatenate([store.block_ids(block) for block in blocks])
    quality, class_ids = label_set.quality[ids], store.class_ids[ids]
    return {
        "agreement": float((quality[:, 0] == class_ids).mean()),
        "p_class": float(quality[:, 1].mean()),
        "entropy": float(quality[:, 2].mean()),
        "quality_images": len(ids),
    }
