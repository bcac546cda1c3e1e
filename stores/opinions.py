"""What teachers think of a store's images, in numbers: from the quality that is stored with their labels.

Quality is a tiny array in as many chunks as there are blocks. So blocks are sampled, always the same ones, and chunks that
are plain local files are read without Zarr (25 µs a chunk instead of 600); every row is proved as in
:mod:`dmkd.stores.rows`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import layout, locations
from .checks import class_checks, quality_checks
from .chunks import Chunks
from .errors import DamagedChunkError, MissingBlockError
from .mapped import block_reader

SAMPLED_BLOCKS = 400  # whose quality stands for all images
SAMPLED_BLOCKS_IN_BUCKET = 100  # there each chunk is a request

BINS = 10
EXTREMES = 3  # classes at either end
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def sample_blocks(blocks: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """``count`` of the blocks, one drawn from each of as many equal stretches, ascending; all if there are no more."""
    if len(blocks) <= count:
        return list(blocks)
    edges = np.arange(count + 1) * len(blocks) // count
    return [blocks[place] for place in np.random.default_rng(seed).integers(edges[:-1], edges[1:])]


def sample_size(path: str) -> int:
    """How many blocks of the store at ``path`` are sampled, at most."""
    return SAMPLED_BLOCKS_IN_BUCKET if locations.scheme(path) else SAMPLED_BLOCKS


def sampled(path: str, blocks: Sequence[int]) -> list[int]:
    """The blocks of a store that averages, and images to look at, are taken from: always the same ones."""
    return sample_blocks(blocks, sample_size(path))


@dataclass
class Opinions:
    """Quality of the images of some blocks: ids int64 (n,), class ids int32 (n,), quality float32 (n, 3).

    ``damaged`` has a sentence for each block that could not be read; its images are not among the n.
    """

    ids: np.ndarray
    class_ids: np.ndarray
    quality: np.ndarray
    damaged: list[str] = field(default_factory=list)


def read_opinions(chunks: Chunks, label_node: str, identity: str, blocks: Sequence[int]) -> Opinions:
    """A teacher's opinion of the images of blocks that have both images and its labels; ``label_node`` and ``identity`` are
    its label set's."""
    of_labels = (f"{label_node}/{layout.QUALITY}", f"{label_node}/{layout.CHECKS}")
    nodes = (layout.CLASS_IDS, layout.CHECKS, *of_labels)
    read = block_reader(chunks, nodes if blocks else ())  # without labels these arrays do not exist

    def read_all(block: int) -> tuple[np.ndarray, ...] | str:
        ids = np.array(chunks.block_ids(block))
        try:
            class_ids, checks, quality, label_checks = (read(node, block) for node in nodes)
        except (DamagedChunkError, MissingBlockError) as error:
            return str(error)
        sound = (class_checks(ids, class_ids) == checks[:, 0]) & (
            quality_checks(identity, ids, checks, quality) == label_checks[:, 0]
        )
        if not sound.all():
            return f"Block {block} of {of_labels[0]} is damaged, or does not belong to its images."
        return ids, class_ids, quality

    found = chunks.tree.map(read_all, blocks)
    rows = [one for one in found if not isinstance(one, str)]
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros((0, 3), np.float32))
    ids, class_ids, quality = (np.concatenate(parts) for parts in zip(*rows, strict=True)) if rows else empty
    return Opinions(ids, class_ids, quality, [one for one in found if isinstance(one, str)])


def average_opinion(class_ids: np.ndarray, quality: np.ndarray) -> dict[str, float]:
    """Class ids int32 (n,), quality float32 (n, 3), n > 0 -> means over the n images: ``agreement`` (share whose top-1 is the
    class asked for), ``p_class``, ``entropy`` (nats)."""
    top1, p_class, entropy = quality.astype(np.float64).T
    return {
        "agreement": float((top1 == class_ids).mean()),
        "p_class": float(p_class.mean()),
        "entropy": float(entropy.mean()),
    }


def opinion_table(ids: np.ndarray, class_ids: np.ndarray, quality: np.ndarray) -> Any:
    """What :meth:`LabelSet.quality_table` gives, of int64 (n,), int32 (n,) and float32 (n, 3)."""
    kinds = [("image", "i8"), ("class_id", "i4"), ("top1", "i4"), ("p_class", "f4"), ("entropy", "f4"), ("agrees", "?")]
    table = np.empty(len(ids), kinds)
    table["image"], table["class_id"] = ids, class_ids
    table["top1"], table["p_class"], table["entropy"] = quality.T
    table["agrees"] = table["top1"] == class_ids
    try:
        from pandas import DataFrame
    except ImportError:
        return table
    return DataFrame({name: table[name] for name, _ in kinds}).set_index("image")


def distribution(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    """Quantiles and a histogram between two limits of float32 (n,), n > 0; JSON-able."""
    values = values.astype(np.float64)
    counts, edges = np.histogram(np.clip(values, low, high), BINS, (low, high))
    quantiles = np.quantile(values, QUANTILES)
    return {
        "quantiles": {f"{q:g}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def statistics(opinions: Opinions, class_names: Sequence[str]) -> dict[str, Any]:
    """Agreement with the class that was asked for, p(class), entropy (nats), and the classes at either end; JSON-able.

    ``agreement`` of a class is the share of its images whose top-1 it is, ``entropy`` their mean. Empty without images.
    """
    if not len(opinions.ids):
        return {}
    top1, p_class, entropy = opinions.quality.T
    agrees = top1 == opinions.class_ids
    classes, place, counts = np.unique(opinions.class_ids, return_inverse=True, return_counts=True)
    agreement = np.bincount(place, agrees) / counts
    mean_entropy = np.bincount(place, entropy) / counts

    def ends(values: np.ndarray, first: str, last: str) -> dict[str, list[dict[str, Any]]]:
        """The classes with the largest and the smallest values; ties go to the smaller ids."""

        def facts(order: np.ndarray) -> list[dict[str, Any]]:
            return [
                {
                    "class_id": int(classes[i]),
                    "name": class_names[classes[i]],
                    "value": float(values[i]),
                    "images": int(counts[i]),
                }
                for i in order[: min(EXTREMES, len(classes) // 2 or 1)]
            ]

        return {first: facts(np.lexsort((classes, -values))), last: facts(np.lexsort((classes, values)))}

    mean = average_opinion(opinions.class_ids, opinions.quality)
    highest = float(np.log(max(len(class_names), 2)))
    return {
        "images": len(opinions.ids),
        "agreement": mean["agreement"],
        "p_class": {"mean": mean["p_class"], **distribution(p_class, 0.0, 1.0)},
        "entropy": {"mean": mean["entropy"], **distribution(entropy, 0.0, highest)},
        "classes": {
            "seen": len(classes),
            "agreement": ends(agreement, "best", "worst"),
            "entropy": ends(mean_entropy, "highest", "lowest"),
        },
    }
