"""Rounds: images that were made after a look at a student, by what this said on top of the store's recipe.

The images before the first round follow the recipe alone; they are round 0. What each round was made by is an attribute of its
group, and its identity follows from that and from the identity before it: a chain that begins with the store's. Each image's
round and score are the columns ``round`` and ``score``, which are written together with its block.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from . import layout
from .chunks import Chunks
from .errors import MismatchError
from .identity import fingerprint, is_fingerprint


class StoredRound:
    """One round of a store: images ``start`` to ``stop - 1``. ``description`` is all that they were made by."""

    def __init__(self, chunks: Chunks, number: int, attributes: Mapping[str, Any]) -> None:
        """``attributes``: those of its node."""
        self.number = number
        self.node = f"{layout.ROUNDS}/{number}"
        self.identity: str = attributes["identity"]
        self.before: str = attributes["before"]
        self.description: dict[str, Any] = {
            key: value for key, value in attributes.items() if key not in ("identity", "before")
        }
        self.start: int = attributes["start"]
        self.stop: int = self.start + attributes["images"]
        self._chunks = chunks

    def student_weights(self) -> bytes:
        """The student's safetensors file. Raises ``MismatchError`` if it is not the one that was kept."""
        try:
            weights = self._chunks.tree.read_constant(f"{self.node}/{layout.STUDENT}").tobytes()
        except (ValueError, RuntimeError, KeyError) as error:
            raise MismatchError(
                f"The student of round {self.number} of {self._chunks.path} is damaged: bring {self.node} back from a copy."
            ) from error
        if fingerprint_of(weights) != self.description["student"]["file_sha256"]:
            raise MismatchError(
                f"The student of round {self.number} of {self._chunks.path} is not the one that its images followed: bring "
                f"{self.node} back from a copy."
            )
        return weights


def fingerprint_of(content: bytes) -> str:
    """sha256 of a file's content, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def round_identity(before: str, description: Mapping[str, Any]) -> str:
    """Of a round with this description, after the round, or the store's recipe, with identity ``before``."""
    return fingerprint({"before": before, **description})


def is_chained(one: StoredRound, before: str) -> bool:
    """Whether a round's identity follows from its description and from what was before it."""
    return one.before == before and is_fingerprint(one.identity, {"before": before, **one.description})


def read_rounds(chunks: Chunks) -> list[StoredRound]:
    """The rounds of a store, the first one first; one whose beginning was interrupted is left out."""
    tree = chunks.tree
    numbers = sorted(int(name) for name in tree.children(layout.ROUNDS) if name.isdecimal())
    found = tree.map(lambda number: tree.attributes(f"{layout.ROUNDS}/{number}"), numbers)
    return [StoredRound(chunks, number, its) for number, its in zip(numbers, found, strict=True) if its.get("identity")]
