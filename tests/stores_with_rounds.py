"""Stores of random contents with rounds, for whatever reads them; who makes them in earnest is tested in tests/making."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from conftest import block_arrays, filled_store

from dmkd.stores import Store

STUDENT = b"weights of a student"
START = 60  # of the first round


def followed(student: bytes = STUDENT) -> dict[str, Any]:
    """What a round says of the student that it follows, and of what came of it."""
    about = {"file_sha256": hashlib.sha256(student).hexdigest(), "config": {"architecture": "resnet18"}}
    of_classes = {"class_counts": [1, 3, *[2] * 8], "class_guidance": [1.0] * 9 + [2.5]}
    return {"student": about, "labels": "teacher", "score": "kl:4", "candidates": 4, "candidate_steps": 5, **of_classes}


def columns_of(store: Store, block: int) -> dict[str, np.ndarray]:
    """The columns of a block's images: the score is their id over 7 where there is a student."""
    ids = np.array(store.block_ids(block))
    rounds = np.searchsorted([one.start for one in store.rounds], ids, side="right")
    has_student = np.array([False, *("student" in one.description for one in store.rounds)])
    return {"round": rounds.astype(float), "score": np.where(has_student[rounds], ids / 7, np.nan)}


def fill(store: Store) -> None:
    """Make the blocks that are missing."""
    for block in store.missing_blocks():
        store.write_block(block, **block_arrays(store, block), columns=columns_of(store, block))


def store_with_rounds(path: Path | str, **options: Any) -> Store:
    """100 images in blocks of 16, the last 40 of them made in two rounds, the first of which follows a student."""
    store = filled_store(path, num_images=START, **options)
    store.add_round({"start": START, "images": 20, **followed()}, STUDENT)
    store.add_round({"start": START + 20, "images": 20})
    store.grow(100)
    fill(store)
    return store
