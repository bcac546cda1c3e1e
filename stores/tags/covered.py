"""What of a store a tag covers: blocks that are done, and how their rows are read and proved to be sound."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import layout
from ..chunks import Chunks
from ..identity import fingerprint
from ..mapped import MappedArray, can_be_mapped
from ..reader import Reader
from ..rows import Rows
from ..sets import LabelSet

ReadRows = Callable[[int], np.ndarray]
Prove = Callable[[np.ndarray, dict[str, np.ndarray]], object]


@dataclass(frozen=True)
class Part:
    """Arrays that are proved together. ``prove`` takes ids int64 (n,) and node -> rows (n, ...) as stored, and raises
    ``DamagedChunkError`` unless these are what was written for these images."""

    nodes: tuple[str, ...]
    blocks: frozenset[int]  # those that count: what an interrupted run left behind will be written again
    prove: Prove


def parts_of(store: Reader) -> list[Part]:
    """All arrays of a store. A block is done where its images are there, and labelled where its label set's marker is, too."""
    done = frozenset(range(store.num_blocks)).difference(store.missing_blocks())
    parts = [
        _alone(layout.IMAGES, done, store.images),
        _alone(layout.CLASS_IDS, done, store.class_ids),
        _alone(layout.CHECKS, done, store.checks),
    ]
    for view_set in store.views.values():
        parts.append(_alone(view_set.node, done.difference(view_set.missing_blocks()), view_set.rows))
    for label_set in filter(lambda label_set: label_set.fitted, store.labels.values()):
        blocks = done.difference(label_set.missing_blocks())
        parts.append(_alone(f"{label_set.node}/{layout.QUALITY}", blocks, label_set.quality))
        parts.append(Part((label_set.checks_node,), blocks, _proved_by_the_others))
        parts.append(Part(tuple(label_set.array_nodes.values()), blocks, partial(_prove_labels, label_set)))
    for column in store.columns.values():
        parts.append(_alone(column.node, done.difference(column.missing_blocks()), column.rows))
    return parts


def constants_of(store: Reader) -> list[str]:
    """The nodes of all constants of codecs."""
    return [
        f"{label_set.node}/{layout.CONSTANTS}/{name}"
        for label_set in store.labels.values()
        if label_set.fitted
        for name in label_set.codec.constants
    ]


def descriptions_of(store: Reader) -> dict[str, Any]:
    """What the manifest says beside the arrays: whatever decides what the rows mean."""
    return {
        "identity": store.identity,
        "classes": fingerprint({"names": store.class_names, "wnids": store.attributes.get("class_wnids")}),
        "view_sets": _identities(store.views),
        "label_sets": _identities({name: one for name, one in store.labels.items() if one.fitted}),
        "columns": _identities(store.columns),
        # Without rounds as tags were made before there were any.
        **({"rounds": {str(one.number): one.identity for one in store.rounds}} if store.rounds else {}),
    }


def reader_of(chunks: Chunks, node: str) -> ReadRows:
    """Reads the rows of a block as they are stored, past the store's end perhaps fill values: straight from the file where that
    can be done. Whoever reads proves them, or compares them with a digest."""
    if not can_be_mapped(chunks, node):
        return lambda block: chunks.decoded(node, block)
    return MappedArray(chunks, node, prove=lambda ids, rows: None).read


def _alone(node: str, blocks: frozenset[int], rows: Rows) -> Part:
    return Part((node,), blocks, lambda ids, stored: rows.prove(ids, stored[node]))


def _prove_labels(label_set: LabelSet, ids: np.ndarray, rows: dict[str, np.ndarray]) -> None:
    label_set.prove(ids, {node.rsplit("/", 1)[-1]: these for node, these in rows.items()})


def _proved_by_the_others(ids: np.ndarray, rows: dict[str, np.ndarray]) -> None:
    """Checks of labels prove quality and labels, and are proved by them."""


def _identities(sets: Mapping[str, Any]) -> dict[str, str]:
    return {name: one.identity for name, one in sets.items()}
