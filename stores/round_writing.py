"""Beginning a round: written down before its first image is made, so that whoever makes one knows how."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import layout
from .columns import bind_column, column_identity
from .errors import write_error
from .reader import Reader
from .rounds import round_identity

COLUMN_DESCRIPTIONS = {
    layout.ROUND: "the round that the image was made in; 0: before the first one",
    layout.SCORE: "what the round's student and teacher gave the image; NaN: there was no student",
}


def add_round(store: Reader, description: Mapping[str, Any], student: bytes | None) -> None:
    """Write down a round, before any image of it is made; ``description``: ``start``, ``images`` and the rest, JSON-able.
    ``student``: its safetensors file, if it follows one. Interrupted, it is as if it had not been called."""
    number, tree = len(store.rounds) + 1, store.chunks.tree
    node = f"{layout.ROUNDS}/{number}"
    try:
        with tree.transaction():
            _add_columns(store)
            tree.create_group(layout.ROUNDS)
            tree.create_group(node)
            if student is not None:
                tree.write_constant(f"{node}/{layout.STUDENT}", np.frombuffer(student, np.uint8))
            # These attributes come last: without them there is no round.
            identity = round_identity(store.lineage, description)
            tree.set_attributes({**description, "before": store.lineage, "identity": identity}, node)
    except OSError as error:
        raise write_error(f"round {number} of {store.path}", error) from error


def _add_columns(store: Reader) -> None:
    """The columns of rounds, with the numbers of round 0 for the images that are there."""
    tree = store.chunks.tree
    missing = set(store.missing_blocks())
    for name, description in COLUMN_DESCRIPTIONS.items():
        node = f"{layout.COLUMNS}/{name}"
        identity = column_identity(store.identity, name, None)
        if name not in store.columns:
            tree.create_group(layout.COLUMNS)
            tree.create_array(node, layout.column_spec(), store.num_images, store.block_size, {})
        present = tree.present_blocks(node)
        for block in range(store.num_blocks):
            if block not in missing and block not in present:
                ids = np.array(store.block_ids(block))
                values = np.full(len(ids), 0.0 if name == layout.ROUND else np.nan)
                store.chunks.write(node, block, bind_column(identity, ids, store.checks.block(block), values))
        if name not in store.columns:
            tree.set_attributes({"description": description, "identity": identity, "of_rounds": True}, node)
