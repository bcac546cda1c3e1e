"""What verifying a store may find, in one sentence each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ERROR, WARNING, NOTE = "error", "warning", "note"

IDS_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was found. ``block`` None: it concerns the whole ``node`` (an array or a group, "" the store)."""

    severity: str  # ERROR: the store is damaged; WARNING: odd, but readable; NOTE: not done yet
    node: str
    sentence: str
    block: int | None = None
    # Whether deleting chunks lets the next run make sound ones: true of wrong bytes, not of wrong attributes.
    repairable: bool = False
    # Whether it says that images or labels are not there yet: the store is incomplete.
    incomplete: bool = False

    @property
    def where(self) -> str:
        return (self.node or "store") + ("" if self.block is None else f", block {self.block}")

    def to_json(self) -> dict[str, Any]:
        return {"severity": self.severity, "where": self.where, "block": self.block, "sentence": self.sentence}


def show_ids(ids: Sequence[int] | np.ndarray) -> str:
    """``3 images (7, 8, 100)``, the first ids only."""
    return f"{len(ids):,} image{'s' if len(ids) != 1 else ''} ({some([str(int(i)) for i in ids])})"


def some(texts: Sequence[str]) -> str:
    """The first texts, with commas in between."""
    return ", ".join(texts[:IDS_SHOWN]) + (", …" if len(texts) > IDS_SHOWN else "")
