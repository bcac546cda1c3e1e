"""What the rounds of a store were made by, and what became of their images, in facts and in words."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from .. import layout
from ..opinions import average_opinion, sample_blocks
from ..reader import Reader
from ..sets import LabelSet


def round_facts(
    store: Reader, label_set: LabelSet | None, missing: Collection[int], most_blocks: int | None, damaged: list[str]
) -> list[dict[str, Any]]:
    """JSON-able facts of each round, of round 0 too, of which only ``images`` are known; empty without rounds.

    ``label_set``: whose teacher's ``agreement`` is told. This and the mean score are over ``blocks_read`` blocks of each round:
    all, or of all rounds together about ``most_blocks``. ``missing``: blocks without images. Damaged blocks are named in
    ``damaged`` and left out.
    """
    rounds = store.rounds
    if not rounds:
        return []
    facts = [_described(0, range(rounds[0].start), store.identity, {})]
    facts += [_described(one.number, range(one.start, one.stop), one.identity, one.description) for one in rounds]
    for one in facts:
        ids = range(one["start"], min(one["start"] + one["images"], store.num_images))
        there = [block for block in _blocks_of(store, ids) if block not in missing]
        each = len(there) if most_blocks is None else max(1, most_blocks // len(facts))
        read = sample_blocks(there, each)
        one |= {"blocks_read": len(read), "blocks_made": len(there)}
        one["mean_score"] = _mean_score(store, ids, read, damaged) if one["score"] else None
        one["agreement"] = None if label_set is None else _agreement(label_set, ids, read, damaged)
    return facts


def followed_in_words(facts: Mapping[str, Any]) -> str:
    """What a round followed: ``resnet18 1a2b3c4d``, the beginning of its sha256."""
    student = facts["student"]
    if student is None:
        return "no student" if facts["number"] else "the recipe"
    return f"{student['architecture']} {student['sha256'][:8]}"


def made_in_words(facts: Mapping[str, Any]) -> str:
    """How a round differed from the recipe: ``best of 4 at 5 steps, 12 to 40 of a class``."""
    words = []
    if facts["candidates"] > 1:
        steps = facts["candidate_steps"]
        words.append(f"best of {facts['candidates']}" + ("" if steps is None else f" at {steps} steps"))
    if facts["strength"]:
        words.append(f"pushed by {facts['strength']:g}")
    if facts["class_images"]:
        words.append("{:,} to {:,} of a class".format(*facts["class_images"]))
    if facts["class_guidance"]:
        words.append("guidance {:.3g} to {:.3g}".format(*facts["class_guidance"]))
    return ", ".join(words)


def _described(number: int, ids: range, identity: str, said: Mapping[str, Any]) -> dict[str, Any]:
    student, counts, scales = (said.get(key) for key in ("student", "class_counts", "class_guidance"))
    return {
        "number": number,
        "start": ids.start,
        "images": len(ids),
        "identity": identity,
        "student": student
        and {"architecture": student["config"].get("architecture", "student"), "sha256": student["file_sha256"]},
        "labels": said.get("labels"),
        "score": said.get("score"),
        "candidates": said.get("candidates", 1),
        "candidate_steps": said.get("candidate_steps"),
        "strength": said.get("strength", 0.0),
        "class_images": counts and [min(counts), max(counts)],
        "class_guidance": scales and [min(scales), max(scales)],
    }


def _blocks_of(store: Reader, ids: range) -> range:
    """The blocks that hold some of these ids."""
    return range(ids.start // store.block_size, -(-ids.stop // store.block_size)) if ids else range(0)


def _mean_score(store: Reader, ids: range, blocks: Sequence[int], damaged: list[str]) -> float | None:
    column = store.columns.get(layout.SCORE)
    of_blocks = {} if column is None else column.read_blocks(blocks, damaged)
    scores = [values[np.isin(store.block_ids(block), ids)] for block, values in of_blocks.items()]
    known = np.concatenate([np.zeros(0), *scores])
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None


def _agreement(label_set: LabelSet, ids: range, blocks: Sequence[int], damaged: list[str]) -> float | None:
    absent = set(label_set.missing_blocks())
    opinions = label_set.opinions([block for block in blocks if block not in absent])
    damaged += opinions.damaged
    own = np.isin(opinions.ids, ids)
    return average_opinion(opinions.class_ids[own], opinions.quality[own])["agreement"] if own.any() else None
