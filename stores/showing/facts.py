"""Everything that can be found out about a store in a second or two: what it is, how complete, how big, what teachers think.

Each array is listed once, which gives its blocks and their sizes; of small arrays some blocks are read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import layout
from ..columns import Column
from ..errors import DamagedChunkError
from ..opinions import sample_size, sampled, statistics
from ..reader import Reader
from ..sets import LabelSet, ViewSet
from ..tags.tag import Tag, read_tags
from .round_facts import round_facts

Listing = Mapping[str, Mapping[int, int]]  # node -> block -> bytes


def teacher_in_words(teacher: Mapping[str, Any]) -> str:
    """A label set's teacher by its architecture, and by what it computed in if that is not float32."""
    precision = teacher.get("precision")
    return f"{teacher.get('architecture', '')}{f', {precision}' if precision else ''}"


def quality_view_facts(view_set: ViewSet, label_set: LabelSet) -> dict[str, Any]:
    """The view that a label set's quality is of: ``box`` (fractions of the image), ``size`` (pixels), ``interpolation``, and
    whether it is its teacher's ``own``: label sets of older versions are of their view set's canonical one."""
    views, own = view_set.attributes, label_set.teacher.get("preprocessing", {})
    crop = ("interpolation", "crop_pct", "crop_mode")
    is_own = own.get("input_size") == views.get("size") and all(own.get(key) == views.get(key) for key in crop)
    canonical = {"box": views.get("canonical"), "size": views.get("size"), "interpolation": views.get("interpolation")}
    recorded = label_set.quality_view
    return {**(canonical if recorded is None else recorded), "own": recorded is not None or is_own}


def quality_view_in_words(facts: Mapping[str, Any]) -> str:
    """Of :func:`quality_view_facts`."""
    whose = "the teacher's own evaluation view" if facts["own"] else "the views' canonical view, not the teacher's own"
    return f"{whose} ({facts['size']} pixels, {facts['interpolation']})"


def store_facts(store: Reader, every_block: bool = False) -> dict[str, Any]:
    """JSON-able facts: what the store is, what made it, whether it is complete, its sizes, sets and runs.

    ``every_block``: the label sets' statistics cover all blocks, not a sample. Damaged chunks found on the way are
    named in ``damaged`` and left out. Raises ``StoreUnreachableError`` if a bucket does not answer.
    """
    damaged: list[str] = []
    view_sets, label_sets = store.views, store.labels
    readable = {name: label_set for name, label_set in label_sets.items() if _readable(label_set, damaged)}
    listing = _list_arrays(store, view_sets, readable)
    missing = _absent(store, listing[layout.IMAGES])
    made = store.num_images - sum(len(store.block_ids(block)) for block in missing)
    labels = {name: _label_set_description(store, label_set) for name, label_set in label_sets.items()}
    for name, label_set in readable.items():
        labels[name] |= _label_set_facts(store, label_set, listing, set(missing), every_block, damaged)
    told = next(iter(readable.values()), None)
    rounds = round_facts(store, told, missing, None if every_block else sample_size(store.path), damaged)
    attributes = store.attributes
    return {
        "path": store.path,
        "format": store.format,
        "images": store.num_images,
        "images_made": made,
        "image_shape": list(store.image_shape),
        "image_codec": str(store.image_codec),
        "classes": store.num_classes,
        "blocks": store.num_blocks,
        "block_size": store.block_size,
        "missing_blocks": missing,
        "complete": not missing and not any(facts["missing_blocks"] for facts in labels.values()),
        "identity": store.identity,
        "lineage": store.lineage,
        "source": store.source,
        "recipe": store.recipe,
        "bytes": sum(sum(blocks.values()) for blocks in listing.values()),
        "arrays": {node: _array_facts(store, node, blocks) for node, blocks in listing.items()},
        "view_sets": {
            name: {**view_set.attributes, "missing_blocks": _absent(store, listing[view_set.node])}
            for name, view_set in view_sets.items()
        },
        "label_sets": labels,
        "columns": {name: _column_facts(store, column, missing, damaged) for name, column in store.columns.items()},
        "rounds": rounds,
        "selections": store.selections,
        "tags": {name: _tag_facts(tag) for name, tag in read_tags(store).items()},
        "damaged": list(dict.fromkeys(damaged)),
        "runs": store.run_summaries(),
        "created": attributes["created"],
        "updated": attributes["updated"],
        "versions": attributes["versions"],
    }


def _list_arrays(
    store: Reader, view_sets: Mapping[str, ViewSet], label_sets: Mapping[str, LabelSet]
) -> dict[str, dict[int, int]]:
    """Bytes of each block of each array, images first; constants, of codecs and of rounds, have one block."""
    tree = store.chunks.tree
    nodes = [layout.IMAGES, layout.CLASS_IDS, layout.CHECKS, *(view_set.node for view_set in view_sets.values())]
    nodes += [column.node for column in store.columns.values()]
    nodes += [f"{one.node}/{layout.STUDENT}" for one in store.rounds if one.description.get("student")]
    for label_set in label_sets.values():
        nodes += [*label_set.array_nodes.values(), f"{label_set.node}/{layout.QUALITY}", label_set.checks_node]
        nodes += [f"{label_set.node}/{layout.CONSTANTS}/{name}" for name in label_set.codec.constants]
    return dict(zip(nodes, tree.map(tree.chunk_bytes, nodes), strict=True))


def _array_facts(store: Reader, node: str, blocks: Mapping[int, int]) -> dict[str, Any]:
    return {
        "dtype": str(store.chunks.dtype(node)),
        "shape": list(store.chunks.shape(node)),
        "blocks": len(blocks),
        "bytes": sum(blocks.values()),
    }


def _readable(label_set: LabelSet, damaged: list[str]) -> bool:
    """Whether a label set has arrays of blocks, and constants that can be read; if not, ``damaged`` gets the reason."""
    try:
        return label_set.fitted and label_set.coder is not None
    except DamagedChunkError as error:
        damaged.append(str(error))
        return False


def _label_set_description(store: Reader, label_set: LabelSet) -> dict[str, Any]:
    return {
        "teacher": label_set.teacher,
        "source": label_set.source,
        "view_set": label_set.view_set,
        "views": label_set.num_views,
        "codec": label_set.codec.to_json(),
        "quality_view": quality_view_facts(store.views[label_set.view_set], label_set),
        "fitted": label_set.fitted,
        "identity": label_set.identity,
        "missing_blocks": list(range(store.num_blocks)),
    }


def _label_set_facts(
    store: Reader,
    label_set: LabelSet,
    listing: Listing,
    without_images: set[int],
    every_block: bool,
    damaged: list[str],
) -> dict[str, Any]:
    labelled = listing[label_set.marker]
    parts = label_set.array_nodes.values()
    size = sum(sum(listing[node].values()) for node in parts)
    # Of whole blocks: where the marker is there, so are the codec's other arrays.
    views = sum(len(store.block_ids(block)) for block in labelled if block < store.num_blocks) * label_set.num_views
    facts: dict[str, Any] = {
        "missing_blocks": _absent(store, labelled),
        "bytes": size,
        "bytes_a_view": round(size / views, 2) if views else None,
    }
    there = [block for block in range(store.num_blocks) if block in labelled and block not in without_images]
    read = there if every_block else sampled(store.path, there)
    opinions = label_set.opinions(read)
    damaged += opinions.damaged
    found = statistics(opinions, store.class_names)
    if found:
        facts |= {
            "agreement": found["agreement"],
            "p_class": found["p_class"]["mean"],
            "entropy": found["entropy"]["mean"],
            "quality_images": found["images"],
        }
    facts["statistics"] = {"blocks_read": len(read), "blocks_labelled": len(there), **found}
    return facts


def _column_facts(store: Reader, column: Column, missing: list[int], damaged: list[str]) -> dict[str, Any]:
    """What a column says of a sample of blocks, at most as many as are read of labels."""
    absent = {*missing, *column.missing_blocks()}
    there = [block for block in range(store.num_blocks) if block not in absent]
    facts: dict[str, Any] = {
        "description": column.description,
        "of_rounds": column.of_rounds,
        "missing_blocks": sorted(absent - set(missing)),
    }
    blocks = sampled(store.path, there)
    values = np.concatenate([np.zeros(0), *column.read_blocks(blocks, damaged).values()])
    known = values[~np.isnan(values)]  # a score is NaN where there was no student
    if len(known):
        facts |= {"smallest": float(known.min()), "mean": float(known.mean()), "largest": float(known.max())}
        facts["sampled"] = len(blocks) < len(there)
    return facts


def _tag_facts(tag: Tag) -> dict[str, Any]:
    return {
        "sha256": tag.sha256,
        "created": tag.created,
        "images": tag.images_made,
        "label_sets": sorted(tag.manifest["label_sets"]),
    }


def _absent(store: Reader, blocks: Mapping[int, int]) -> list[int]:
    return [block for block in range(store.num_blocks) if block not in blocks]
