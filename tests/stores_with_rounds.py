"""Stores of random contents with rounds, for whatever reads them; who makes them in earnest is tested in tests/making."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from conftest import new_store

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


def arrays_of(store: Store, block: int, seed: int = 0) -> dict[str, Any]:
    """Random contents of a block, what ``write_block`` takes; those of an image depend on its id alone."""
    images = [np.random.default_rng((seed, image)) for image in store.block_ids(block)]
    views = np.tile(np.array([0, 0, 1, 1, 0], np.float32), (len(images), store.views["views"].num_views, 1))
    logits = np.stack([rng.normal(size=(views.shape[1], store.num_classes)) for rng in images]).astype(np.float32)
    quality = np.array([[rng.integers(store.num_classes), *rng.random(2)] for rng in images], np.float32)
    return {
        "images": np.stack([rng.integers(0, 256, store.image_shape) for rng in images]).astype(np.uint8),
        "class_ids": np.array([rng.integers(store.num_classes) for rng in images], np.int32),
        "views": {"views": views},
        "labels": {"teacher": (logits, quality)},
        "columns": columns_of(store, block) if store.rounds else {},
    }


def fill(store: Store) -> Store:
    """Make the blocks that are missing."""
    for block in store.missing_blocks():
        store.write_block(block, **arrays_of(store, block))
    return store


def add_round(store: Store, images: int, student: bytes | None = None) -> None:
    """A round of so many images, and these."""
    about = {} if student is None else followed(student)
    store.add_round({"start": store.num_images, "images": images, **about}, student)
    store.grow(store.num_images + images)
    fill(store)


def store_with_rounds(path: Path | str, **options: Any) -> Store:
    """100 images in blocks of 16, the last 40 of them made in two rounds, the first of which follows a student."""
    store = fill(new_store(path, num_images=START, **options))
    add_round(store, 20, STUDENT)
    add_round(store, 20)
    return store
