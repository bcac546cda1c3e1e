"""Where the numbers of a table come from: a store's class ids, the quality of each label set, each column."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dmkd.stores import Column, LabelSet, Store, layout
from dmkd.stores.checks import class_checks
from dmkd.stores.errors import DamagedChunkError, MissingBlockError
from dmkd.stores.mapped import block_reader

NO_CLASS = -1  # of an image that is not there

Key = tuple[str, str]  # class, labels or column; and its name
Found = tuple[np.ndarray, np.ndarray, list[str]]  # ids int64 (n,), rows (n, ...), a sentence for each damaged block


@dataclass(frozen=True)
class Source:
    """Rows of a store, a block at a time, every one proved to be its image's."""

    identity: str
    row: np.ndarray  # of an image that is not there
    missing_blocks: Callable[[], list[int]]
    read: Callable[[Sequence[int]], Found]

    def room(self, num_images: int) -> np.ndarray:
        """(N, ...), of images that are not there."""
        return np.repeat(self.row[None], num_images, 0)


def sources_of(store: Store) -> dict[Key, Source]:
    """All of a store. Label sets that were begun and have no labels are left out."""
    sources = {("class", ""): Source(store.identity, np.array(NO_CLASS, np.int32), list, _class_reader(store))}
    for name, labels in store.labels.items():
        if labels.fitted:
            row = np.full(3, np.nan, np.float32)
            sources["labels", name] = Source(labels.identity, row, labels.missing_blocks, _opinion_reader(labels))
    for name, column in store.columns.items():
        reader = _column_reader(store, column)
        sources["column", name] = Source(column.identity, np.array(np.nan), column.missing_blocks, reader)
    return sources


def _class_reader(store: Store) -> Callable[[Sequence[int]], Found]:
    nodes = (layout.CLASS_IDS, layout.CHECKS)

    def read_all(blocks: Sequence[int]) -> Found:
        read = block_reader(store.chunks, nodes)

        def one(block: int) -> tuple[np.ndarray, np.ndarray] | str:
            ids = np.array(store.block_ids(block))
            try:
                class_ids, checks = (read(node, block) for node in nodes)
            except (DamagedChunkError, MissingBlockError) as error:
                return str(error)
            if (class_checks(ids, class_ids) != checks[:, 0]).any():
                return f"Block {block} of {layout.CLASS_IDS} is damaged, or does not belong to its images."
            return ids, class_ids

        found = store.chunks.tree.map(one, blocks)
        rows = [pair for pair in found if not isinstance(pair, str)]
        ids, class_ids = (np.concatenate(parts) for parts in zip((_NO_IDS, _NO_CLASSES), *rows, strict=True))
        return ids, class_ids, [sentence for sentence in found if isinstance(sentence, str)]

    return read_all


def _opinion_reader(labels: LabelSet) -> Callable[[Sequence[int]], Found]:
    def read(blocks: Sequence[int]) -> Found:
        opinions = labels.opinions(blocks)
        return opinions.ids, opinions.quality, opinions.damaged

    return read


def _column_reader(store: Store, column: Column) -> Callable[[Sequence[int]], Found]:
    def read(blocks: Sequence[int]) -> Found:
        damaged: list[str] = []
        found = column.read_blocks(blocks, damaged)
        ids = np.concatenate([_NO_IDS, *(np.array(store.block_ids(block)) for block in found)])
        return ids, np.concatenate([np.zeros(0), *found.values()]), damaged

    return read


_NO_IDS, _NO_CLASSES = np.zeros(0, np.int64), np.zeros(0, np.int32)
