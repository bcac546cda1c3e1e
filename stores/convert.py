"""The same store in another place or format: Zarr in a folder or bucket, or HDF5. Both read the same, bit for bit.

Chunks are decoded and encoded again, as each format writes them; attributes, the run log and the codecs' constants are
copied as they are. Until the copy is complete the new store is marked as unfinished, and only this module will continue it.
"""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import layout, locations
from .create import open_store
from .errors import UsageError, write_error
from .identity import refuse_mismatch
from .reader import Reader
from .run_log import RUNS
from .store import Store
from .tags.tag import DIGESTS, node_of, read_tags
from .trees.tree import open_tree

if TYPE_CHECKING:
    from .trees.tree import Tree

CONVERTING = "converting"  # the root's state
COMMIT_BYTES = 64 * 2**20  # pixels written at once: every change of an HDF5 file waits until it is on the disk


def convert(source: Reader, path: str, advance: Callable[[int], object] = lambda images: None) -> Store:
    """Copy a store to ``path``, which ends in .h5 or .hdf5 or becomes a Zarr store -> the copy.

    Blocks that ``source`` lacks are missing there too. After an interruption the same call resumes; blocks that have changed in
    ``source`` meanwhile are copied again. ``advance`` gets the number of images copied. Raises ``UsageError`` if the path
    is taken, or for JPEG images that would go to HDF5, ``DamagedChunkError`` if ``source`` is damaged.
    """
    target = open_tree(path)
    if source.image_codec.lossy and not target.image_files:
        raise UsageError(
            f"The images of {source.path} are JPEG files, which {target.a_kind} can't hold: as raw pixels they would take "
            "several times the space and could not be turned back into these files. Keep them in a Zarr store."
        )
    begin(source, target, path)
    try:
        arrays = _copy_structure(source, target)
        for blocks in _portions(source):
            with target.transaction():
                for block in blocks:
                    _copy_block(source, target, arrays, block)
            advance(sum(len(source.block_ids(block)) for block in blocks))
        _copy_rounds(source, target)
        copy_runs(source.chunks.tree, target)
        _copy_tags(source, target)
        target.set_attributes(source.chunks.tree.attributes())  # the state among them, so this comes last
    except OSError as error:
        raise write_error(path, error) from error
    return open_store(path)


def begin(source: Reader, target: "Tree", path: str) -> None:
    """Make the root, or check that an existing one was started for this source."""
    itself, copy = (place if locations.scheme(place) else os.path.realpath(place) for place in (source.path, path))
    if f"{copy}/".startswith(f"{itself}/"):
        where = "the store itself" if copy == itself else f"inside the store {source.path}"
        raise UsageError(f"{path} is {where}: give the copy another name.")
    begun = {layout.FORMAT: layout.FORMAT_VERSION, "identity": source.identity}
    if not target.exists():
        if target.taken():
            raise UsageError(f"{path} already exists and is not a dmkd store; give the copy another name.")
        try:
            target.create_root()
            target.set_attributes({**begun, "state": CONVERTING})
        except OSError as error:
            raise write_error(path, error) from error
        return
    there = target.attributes()
    if not there:  # interrupted right away
        target.set_attributes({**begun, "state": CONVERTING})
    elif there.get("state") != CONVERTING:
        raise UsageError(f"{path} already exists; give the copy another name or delete it.")
    else:
        way_out = f"Delete {path} and rerun the same command."
        refuse_mismatch(f"The copy started at {path}", {key: there.get(key) for key in begun}, begun, way_out)


def _copy_structure(source: Reader, target: "Tree") -> list[str]:
    """Groups, attributes, constants and empty arrays -> the arrays of blocks, in the order of writing."""
    tree = source.chunks.tree
    specs: dict[str, layout.ArraySpec] = {}
    for name, view_set in source.views.items():
        target.create_group(layout.VIEWS)
        specs[f"{layout.VIEWS}/{name}"] = layout.views_spec(view_set.num_views, len(view_set.components))
    for name, label_set in source.labels.items():
        node = f"{layout.LABELS}/{name}"
        target.create_group(layout.LABELS)
        target.create_group(node, tree.attributes(node))
        if not label_set.fitted:
            continue
        coder = label_set.coder
        for part in label_set.codec.constants:
            target.create_group(f"{node}/{layout.CONSTANTS}")
            constant = f"{node}/{layout.CONSTANTS}/{part}"
            target.write_constant(constant, tree.read_constant(constant))
        specs |= {f"{node}/{part}": s for part, s in layout.label_specs(coder.arrays(label_set.num_views)).items()}
    for name in source.columns:
        target.create_group(layout.COLUMNS)
        specs[f"{layout.COLUMNS}/{name}"] = layout.column_spec()
    if source.selections:
        target.create_group(layout.SELECTIONS, source.selections)
    specs[layout.CLASS_IDS] = layout.class_ids_spec()
    specs[layout.CHECKS] = layout.checks_spec()
    specs[layout.IMAGES] = layout.images_spec(source.image_shape, str(source.image_codec))
    for node, spec in specs.items():
        if not _has_array(target, node, tree.shape(node)):
            attributes: dict[str, Any] = tree.attributes(node)
            target.create_array(node, spec, tree.shape(node)[0], source.block_size, attributes)
    return list(specs)


def _has_array(tree: "Tree", node: str, shape: tuple[int, ...]) -> bool:
    try:
        return tree.shape(node) == shape
    except KeyError:
        return False


def _portions(source: Reader) -> Iterator[range]:
    """All blocks, a few at a time."""
    each = max(1, COMMIT_BYTES // (source.block_size * int(np.prod(source.image_shape))))
    for start in range(0, source.num_blocks, each):
        yield range(start, min(start + each, source.num_blocks))


def _copy_block(source: Reader, target: "Tree", nodes: list[str], block: int) -> None:
    """One block of all arrays, the markers last. A block that is there stays if its checks still match the source's."""
    checks = [node for node in nodes if node.rsplit("/", 1)[-1] == layout.CHECKS]
    changed = any(_differs(source, target, node, block) for node in checks)
    for node in nodes:
        if not source.chunks.has(node, block):
            target.delete_block(node, block)
        elif changed or not target.has_block(node, block):
            target.write_block(node, block, source.chunks.decoded(node, block))


def _differs(source: Reader, target: "Tree", node: str, block: int) -> bool:
    if not target.has_block(node, block):
        return False
    return not source.chunks.has(node, block) or not np.array_equal(
        source.chunks.decoded(node, block), target.read_block(node, block)
    )


def _copy_rounds(source: Reader, target: "Tree") -> None:
    for one in source.rounds:
        target.create_group(layout.ROUNDS)
        target.create_group(one.node)
        if one.description.get("student"):
            weights = np.frombuffer(one.student_weights(), np.uint8)
            target.write_constant(f"{one.node}/{layout.STUDENT}", weights)
        target.set_attributes(source.chunks.tree.attributes(one.node), one.node)


def copy_runs(source: "Tree", target: "Tree", node: str = RUNS) -> None:
    """The run log: groups within groups, and their attributes."""
    for name in source.children(node):
        below = f"{node}/{name}"
        target.create_group(node)
        target.create_group(below, source.attributes(below))
        copy_runs(source, target, below)


def _copy_tags(source: Reader, target: "Tree") -> None:
    """Rows are the same in every format, so what was tagged is."""
    tree = source.chunks.tree
    for name in read_tags(source):
        node = node_of(name)
        target.create_group(layout.TAGS)
        target.create_group(node)
        target.write_constant(f"{node}/{DIGESTS}", tree.read_constant(f"{node}/{DIGESTS}"))
        target.set_attributes(tree.attributes(node), node)
