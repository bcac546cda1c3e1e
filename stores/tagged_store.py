"""A store as it was tagged: later images, labels and columns are not there, and what is read proves to be what was tagged."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np

from .chunks import Chunks
from .columns import Column
from .create import open_store
from .errors import StoreError, UsageError
from .rounds import StoredRound
from .sets import LabelSet, ViewSet
from .store import Store
from .tags.comparing import verify_small
from .tags.tag import Tag, present, read_digests, read_tag


class TaggedChunks(Chunks):
    """The chunks that a tag covers; other blocks count as missing."""

    def __init__(self, path: str, tag: Tag) -> None:
        self.tag = tag
        super().__init__(path)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "tag": self.tag}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["tag"])  # type: ignore[misc]

    @cached_property
    def _covered(self) -> dict[str, frozenset[int]]:
        return {node: frozenset(present(digests)) for node, digests in read_digests(self, self.tag).items()}

    @property
    def num_images(self) -> int:
        return self.tag.num_images

    def shape(self, node: str) -> tuple[int, ...]:
        return (self.num_images, *super().shape(node)[1:])

    def has(self, node: str, block: int) -> bool:
        return block in self._covered[node] and super().has(node, block)

    def missing(self, node: str) -> list[int]:
        super().missing(node)
        self._present[node] &= self._covered[node]
        return [block for block in range(self.num_blocks) if block not in self._present[node]]

    def decoded(self, node: str, block: int) -> np.ndarray:
        return super().decoded(node, block)[: len(self.block_ids(block))]  # the store may have grown in its last block


class TaggedStore(Store):
    """A store as it was when it was tagged, to be read. Made by :func:`open_tagged`; can be pickled to workers."""

    def __init__(self, path: str, tag: Tag) -> None:
        super().__init__(path)
        self.tag = tag
        self.chunks: Chunks = TaggedChunks(path, tag)
        self.held_to = {"name": tag.name, "sha256": tag.sha256}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "tag": self.tag}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["tag"])  # type: ignore[misc]

    @property
    def views(self) -> dict[str, ViewSet]:
        return {name: one for name, one in super().views.items() if name in self.tag.manifest["view_sets"]}

    @property
    def labels(self) -> dict[str, LabelSet]:
        return {name: one for name, one in super().labels.items() if name in self.tag.manifest["label_sets"]}

    @property
    def columns(self) -> dict[str, Column]:
        return {name: one for name, one in super().columns.items() if name in self.tag.manifest["columns"]}

    @property
    def rounds(self) -> list[StoredRound]:
        return [one for one in super().rounds if str(one.number) in self.tag.manifest.get("rounds", {})]


def open_tagged(
    path: str, name: str, labels: Iterable[str] = (), advance: Callable[[int], object] = lambda blocks: None
) -> TaggedStore:
    """Open a store as it was when it was tagged, after comparing with the tag whatever proves the other rows: class ids, checks,
    views, quality, columns and constants. Images and logits are proved by these when they are read.

    ``labels``: label sets that will be asked for. ``advance`` gets numbers of blocks. Raises ``UsageError`` if there is no such
    tag or it does not cover these labels, ``StoreError`` if the store differs from the tag.
    """
    store = open_store(path)
    tag = read_tag(store, name)
    covered = tag.manifest["label_sets"]
    for label_set in labels:
        if label_set in store.labels and label_set not in covered:
            raise UsageError(
                f"Tag {name} of {path} does not cover label set {label_set!r}, which came later; it covers "
                f"{', '.join(covered) or 'none'}. Choose of these, or make another tag (`dmkd tag {path} NAME`)."
            )
    if found := verify_small(store, tag, advance):
        more = f", and {len(found) - 1:,} differences more" if found[1:] else ""
        raise StoreError(
            f"{path} is not what was tagged {name} ({found[0].where}: {found[0].sentence.rstrip('.')}{more}): "
            f"`dmkd verify {path} --tag {name}` lists all differences."
        )
    return TaggedStore(path, tag)
