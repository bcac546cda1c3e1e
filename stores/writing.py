"""One block's arrays: made from what a caller gives, checked before the first byte is written, and bound to their images. They
are written after the markers of everything that will no longer hold have been deleted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from . import layout
from .checks import bind_views, image_checks, label_checks, quality_checks
from .chunks import Chunks
from .columns import Column, bind_column, column_bound
from .errors import UsageError, write_error
from .reader import Reader
from .sets import LabelSet

Arrays = dict[str, np.ndarray]  # node -> rows (n, ...), in the order of writing


@dataclass(frozen=True)
class NewBlock:
    """What to write for one block of n ids."""

    block: int
    ids: np.ndarray  # int64 (n,)
    views: Arrays
    labels: Arrays
    columns: Arrays  # of rounds
    images: Arrays  # class ids, checks and images; empty without images

    @property
    def checks(self) -> np.ndarray | None:
        """Those of new images, uint32 (n, 2)."""
        return self.images.get(layout.CHECKS)


def new_block(
    store: Reader,
    block: int,
    images: np.ndarray | None,
    class_ids: np.ndarray | None,
    views: Mapping[str, np.ndarray],
    labels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    columns: Mapping[str, np.ndarray],
) -> NewBlock:
    """What to write for a block, from the arguments of :meth:`dmkd.stores.Store.write_block`. Raises ``UsageError`` for data
    that the arrays can't hold."""
    if not 0 <= block < store.num_blocks:
        raise UsageError(f"{store.path} has blocks 0 to {store.num_blocks - 1}; there is no block {block}.")
    if (images is None) != (class_ids is None):
        raise UsageError("Images and their class ids are written together; nothing was written.")
    ids = np.array(store.block_ids(block))
    of_images = _image_rows(store, ids, images, class_ids)
    of_views = _view_rows(store.chunks, ids, views)
    of_labels: Arrays = {}
    if labels:
        image_checks = of_images.get(layout.CHECKS)
        if image_checks is None:
            image_checks = store.checks.block(block)
        for name, (values, quality) in labels.items():
            label_set = store.labels[name]
            stored_views = of_views.get(label_set.views_node)
            of_labels |= _label_rows(store.chunks, label_set, ids, image_checks, stored_views, values, quality)
    of_columns = _column_rows(store, ids, of_images.get(layout.CHECKS), columns)
    return NewBlock(block, ids, of_views, of_labels, of_columns, of_images)


def write(store: Reader, new: NewBlock) -> None:
    """Write a block. Whatever it invalidates counts as missing from the start, even if writing fails halfway. Raises
    ``StoreWriteError`` if the disk fails."""
    try:
        with store.chunks.tree.transaction():
            _retire(store, new)
            for node, rows in {**new.views, **new.labels, **new.columns, **new.images}.items():
                store.chunks.write(node, new.block, rows)
    except OSError as error:
        raise write_error(f"block {new.block} of {store.path}", error) from error
    store.chunks.kept.forget([new.block])


# Below: what is written


def _image_rows(store: Reader, ids: np.ndarray, images: np.ndarray | None, class_ids: np.ndarray | None) -> Arrays:
    if images is None or class_ids is None:
        return {}
    class_ids = _checked(store.chunks, layout.CLASS_IDS, class_ids, len(ids), "int32")
    if class_ids.min() < 0 or class_ids.max() >= store.num_classes:
        raise UsageError(
            f"Class ids of block {ids[0] // store.block_size} reach {class_ids.max()}; the store has {store.num_classes}."
        )
    images = _checked(store.chunks, layout.IMAGES, images, len(ids), "uint8")
    checks = image_checks(ids, class_ids, store.as_stored(images))
    return {layout.CLASS_IDS: class_ids, layout.CHECKS: checks, layout.IMAGES: images}


def _view_rows(chunks: Chunks, ids: np.ndarray, views: Mapping[str, np.ndarray]) -> Arrays:
    arrays = {}
    for name, rows in views.items():
        node = f"{layout.VIEWS}/{name}"
        _, num_views, stored = chunks.shape(node)
        arrays[node] = bind_views(ids, _checked(chunks, node, rows, len(ids), "float32", (num_views, stored - 1)))
    return arrays


def _label_rows(
    chunks: Chunks,
    label_set: LabelSet,
    ids: np.ndarray,
    image_checks: np.ndarray,
    views: np.ndarray | None,
    values: np.ndarray,
    quality: np.ndarray,
) -> Arrays:
    """Quality, checks and the codec's arrays. ``views`` as they will be stored; None: as already stored."""
    if values.shape[:2] != (len(ids), label_set.num_views):
        raise UsageError(
            f"Block {ids[0] // chunks.block_size} of {label_set.node} takes {len(ids)} images of {label_set.num_views} views, "
            f"not {values.shape[:2]}; nothing was written."
        )
    quality = _checked(chunks, f"{label_set.node}/{layout.QUALITY}", quality, len(ids), "float32")
    encoded = label_set.coder.encode(values)
    for part, node in label_set.array_nodes.items():
        _checked(chunks, node, encoded[part], len(ids), str(chunks.dtype(node)))
    if views is None:
        views = chunks.read_small(label_set.views_node, ids)
    return {
        f"{label_set.node}/{layout.QUALITY}": quality,
        label_set.checks_node: label_checks(label_set.identity, ids, image_checks, views, quality, encoded),
        **{node: encoded[part] for part, node in label_set.array_nodes.items()},
    }


def _column_rows(
    store: Reader, ids: np.ndarray, image_checks: np.ndarray | None, columns: Mapping[str, np.ndarray]
) -> Arrays:
    if image_checks is None:
        if columns:
            raise UsageError(
                f"Columns of {store.path} are written with new images, and there are none; nothing was written."
            )
        return {}
    # Columns without a round are those of one whose beginning was interrupted.
    of_rounds = {name: column for name, column in store.columns.items() if column.of_rounds and store.rounds}
    if columns.keys() != of_rounds.keys():
        raise UsageError(
            f"New images of {store.path} need numbers in columns {', '.join(of_rounds) or 'none'}, and what was given is "
            f"{', '.join(columns) or 'none'}; nothing was written."
        )
    arrays = {}
    for name, values in columns.items():
        if values.shape != ids.shape or values.dtype != np.float64:
            raise UsageError(
                f"Column {name} takes {len(ids)} float64 here, not {values.dtype} of shape {values.shape}."
            )
        arrays[of_rounds[name].node] = bind_column(of_rounds[name].identity, ids, image_checks, values)
    return arrays


def _checked(
    chunks: Chunks, node: str, rows: np.ndarray, count: int, dtype: str, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """``rows`` if they are exactly what the array takes, or each of them ``shape``. Neither zarr nor h5py checks: both
    broadcast or truncate."""
    expected = (count, *(chunks.shape(node)[1:] if shape is None else shape))
    if rows.shape != expected or rows.dtype != np.dtype(dtype):
        raise UsageError(
            f"{node} takes {dtype} of shape {expected} here, not {rows.dtype} of shape {rows.shape}; "
            "nothing was written."
        )
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise UsageError(f"What is to be written to {node} holds NaN or infinite values; nothing was written.")
    return rows


# Below: what is retired


def _retire(store: Reader, new: NewBlock) -> None:
    """Delete the markers of everything that will no longer hold once the new rows are written. What is rewritten unchanged
    keeps its marker, so that a block can be made twice."""
    chunks, block = store.chunks, new.block
    if (
        new.checks is not None
        and chunks.has(layout.IMAGES, block)
        and not _holds(chunks, layout.CHECKS, new.images, block)
    ):
        chunks.delete(layout.IMAGES, block)
    for label_set in store.labels.values():
        if label_set.has_block(block) and not _labels_hold(chunks, label_set, new):
            chunks.delete(label_set.marker, block)
    for column in store.columns.values():
        if new.checks is not None and column.has_block(block) and not _column_holds(chunks, column, new):
            chunks.delete(column.node, block)


def _labels_hold(chunks: Chunks, label_set: LabelSet, new: NewBlock) -> bool:
    """Whether a block's labels will still belong to its images and views."""
    if label_set.checks_node in new.labels:
        return _holds(chunks, label_set.checks_node, new.labels, new.block)
    if label_set.views_node in new.views and not _holds(chunks, label_set.views_node, new.views, new.block):
        return False
    if new.checks is None:
        return True
    # By the labels' own checks, since the image checks that are stored may be missing or damaged.
    quality = _stored(chunks, f"{label_set.node}/{layout.QUALITY}", new.block)
    stored = _stored(chunks, label_set.checks_node, new.block)
    if quality is None or stored is None:
        return False
    return np.array_equal(quality_checks(label_set.identity, new.ids, new.checks, quality), stored[:, 0])


def _column_holds(chunks: Chunks, column: Column, new: NewBlock) -> bool:
    """Whether a block's numbers will still belong to its images."""
    if column.node in new.columns:
        return True  # they are written anew, before the images
    stored = _stored(chunks, column.node, new.block)
    return stored is not None and bool(column_bound(column.identity, new.ids, new.images[layout.CHECKS], stored).all())


def _holds(chunks: Chunks, node: str, new: Arrays, block: int) -> bool:
    """Whether a block's chunk is there and holds these rows."""
    stored = _stored(chunks, node, block)
    return stored is not None and np.array_equal(stored, new[node])


def _stored(chunks: Chunks, node: str, block: int) -> np.ndarray | None:
    """A block's rows as stored, or None if there are none or they can't be read."""
    try:
        return chunks.tree.read_block(node, block) if chunks.has(node, block) else None
    except (ValueError, RuntimeError):
        return None
