"""Writing and removing columns: checked before the first byte, a block at a time, so an interruption leaves blocks missing."""

import hashlib
import keyword

import numpy as np

from . import layout
from .columns import Column, bind_column, column_identity
from .errors import DamagedChunkError, UsageError, write_error
from .reader import Reader

# What selections mean by these words is not a user's to say.
RESERVED = ("class_id", "image_id", "top1", "p_class", "entropy", "agree", "rank")


def add_column(store: Reader, name: str, values: np.ndarray, description: str, replace: bool) -> None:
    """As :meth:`dmkd.stores.Store.add_column` says."""
    values = _checked(store, name, values)
    missing = set(store.missing_blocks())
    blocks = [block for block in range(store.num_blocks) if block not in missing]
    there = store.columns.get(name)
    if there is not None and there.of_rounds:
        raise UsageError(
            f"Column {name} of {store.path} says how its rounds came about, and can't be replaced: give yours another name."
        )
    if there is not None and not replace:
        _refuse_other_numbers(store, there, values, blocks)
    tree, node = store.chunks.tree, f"{layout.COLUMNS}/{name}"
    try:
        with tree.transaction():
            if name not in tree.children(layout.COLUMNS):
                tree.create_group(layout.COLUMNS)
                tree.create_array(node, layout.column_spec(), store.num_images, store.block_size, {})
            elif replace:
                _delete_blocks(store, node)
            if tree.shape(node)[0] != store.num_images:  # it was removed before the store grew
                tree.resize(node, store.num_images)
            if there is None or replace:
                # Other numbers under the same name are another column to whoever has noted which one was used.
                numbers: str | None = hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()
            else:  # resumed, or the store has grown
                numbers = there.attributes.get("numbers")
            identity = column_identity(store.identity, name, numbers)
            tree.set_attributes({"description": description, "identity": identity, "numbers": numbers}, node)
            for block in blocks:
                if there is None or replace or not there.has_block(block):
                    ids = np.array(store.block_ids(block))
                    rows = bind_column(identity, ids, store.checks.block(block), values[ids])
                    store.chunks.write(node, block, rows)
    except OSError as error:
        raise write_error(f"column {name} of {store.path}", error) from error
    store.chunks.kept.forget(blocks)


def remove_column(store: Reader, name: str) -> None:
    """Delete the numbers of a column that is there. Its array stays, empty and without an identity, to be used again."""
    node = f"{layout.COLUMNS}/{name}"
    try:
        with store.chunks.tree.transaction():
            _delete_blocks(store, node)
            store.chunks.tree.set_attributes({"identity": None}, node)
    except OSError as error:
        raise write_error(f"column {name} of {store.path}", error) from error


def _delete_blocks(store: Reader, node: str) -> None:
    for block in sorted(store.chunks.tree.present_blocks(node)):
        store.chunks.delete(node, block)
    store.chunks.refresh()


def _checked(store: Reader, name: str, values: np.ndarray) -> np.ndarray:
    """float64 (N,), finite."""
    if not name.isidentifier() or keyword.iskeyword(name) or name in RESERVED:
        reason = "selections have a meaning of their own for it" if name in RESERVED else "it is no plain word"
        raise UsageError(f"A column can't be called {name!r}: {reason}. Use letters, digits and _, as in clip_score.")
    values = np.asarray(values)
    if values.shape != (store.num_images,) or values.dtype.kind not in "fiub":
        raise UsageError(
            f"A column of {store.path} is a number for each of its {store.num_images:,} images, not {values.dtype} of shape "
            f"{values.shape}."
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UsageError(f"Column {name} holds {values[bad]} for image {bad}: give every image a finite number.")
    return values


def _refuse_other_numbers(store: Reader, there: Column, values: np.ndarray, blocks: list[int]) -> None:
    for block in blocks:
        if not there.has_block(block):
            continue
        ids = np.array(store.block_ids(block))
        try:
            same = np.array_equal(there.rows.block(block), values[ids])
        except DamagedChunkError:
            same = False
        if not same:
            raise UsageError(
                f"{store.path} has other numbers in column {there.name}: give it another name, or replace it (--replace)."
            )
