"""Rows of a store's arrays by image id, each proved to be that image's before it is handed out (:mod:`dmkd.stores.checks`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from . import layout
from .checks import class_checks, encoded_checks, image_checks, quality_checks, views_bound
from .chunks import Chunks, Ids
from .errors import DamagedChunkError

Read = TypeVar("Read")


class Rows(ABC):
    """One array of a store, read by image id: ``rows[7]``, ``rows[10:20]``, ``rows[[5, 3, 3]]``.

    ``shape`` is (N, ...) and ``dtype`` that of the array. Reading ids of a block that has not been made raises
    ``MissingBlockError``, never fill values; a damaged chunk, or one that belongs elsewhere, raises ``DamagedChunkError``.
    """

    def __init__(self, chunks: Chunks, node: str) -> None:
        self._chunks, self._node = chunks, node

    def __getitem__(self, ids: Ids) -> np.ndarray:
        if isinstance(ids, int | np.integer):
            return self[[int(ids)]][0]
        wanted = self._chunks.resolve_ids(ids)
        return proved(self._chunks, wanted, lambda: self._proved(wanted, self._chunks.read(self._node, wanted)))

    @property
    def shape(self) -> tuple[int, ...]:
        return self._chunks.shape(self._node)

    @property
    def dtype(self) -> np.dtype:
        return self._chunks.dtype(self._node)

    def __len__(self) -> int:
        return self.shape[0]

    def block(self, block: int) -> np.ndarray:
        """All rows of one block."""
        ids = np.array(self._chunks.block_ids(block))
        return proved(self._chunks, ids, lambda: self._proved(ids, self._chunks.read_block(self._node, block)))

    def prove(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Raise ``DamagedChunkError`` unless ``rows``, (n, ...) straight from the file, are those of ids int64 (n,)."""
        proved(self._chunks, ids, lambda: self._proved(ids, rows))

    @abstractmethod
    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """``rows`` as a reader gets them, after making sure that they belong to these ids, (n,)."""


class ImageRows(Rows):
    """uint8 (N, H, W, 3)"""

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        class_ids = self._chunks.read_small(layout.CLASS_IDS, ids)
        stored = self._chunks.read_small(layout.CHECKS, ids)
        found = image_checks(ids, class_ids, rows)
        # The pixels are at fault only where class ids and checks agree.
        self._chunks.refuse((layout.CLASS_IDS, layout.CHECKS), ids, found[:, 0] != stored[:, 0])
        self._chunks.refuse((self._node,), ids, found[:, 1] != stored[:, 1])
        return rows


class ClassRows(Rows):
    """int32 (N,)"""

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        stored = self._chunks.read_small(layout.CHECKS, ids)
        self._chunks.refuse((self._node, layout.CHECKS), ids, class_checks(ids, rows) != stored[:, 0])
        return rows


class CheckRows(Rows):
    """uint32 (N, 2): the image checks, of which the first column is proved here and the second by the pixels."""

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        class_ids = self._chunks.read_small(layout.CLASS_IDS, ids)
        self._chunks.refuse((self._node, layout.CLASS_IDS), ids, class_checks(ids, class_ids) != rows[:, 0])
        return rows


class ViewRows(Rows):
    """float32 (N, V, P): without the last component of the array, which says which image they belong to."""

    @property
    def shape(self) -> tuple[int, ...]:
        num_images, num_views, stored = super().shape
        return num_images, num_views, stored - 1

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        self._chunks.refuse((self._node,), ids, ~views_bound(ids, rows))
        return np.ascontiguousarray(rows[:, :, :-1])


class QualityRows(Rows):
    """float32 (N, 3) of the label set with this identity."""

    def __init__(self, chunks: Chunks, node: str, identity: str) -> None:
        super().__init__(chunks, node)
        self._identity = identity

    def _proved(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        checks = f"{self._node.rsplit('/', 1)[0]}/{layout.CHECKS}"
        stored = self._chunks.read_small(checks, ids)
        found = quality_checks(self._identity, ids, self._chunks.read_small(layout.CHECKS, ids), rows)
        self._chunks.refuse((self._node, checks), ids, found != stored[:, 0])
        return rows


def proved_encoded(
    chunks: Chunks,
    identity: str,
    ids: np.ndarray,
    arrays: dict[str, np.ndarray],
    nodes: dict[str, str],
    checks: str,
    views: str,
) -> dict[str, np.ndarray]:
    """``arrays``, the codec's (name -> (n, ...), stored at ``nodes``) of the label set with this identity, after making sure that
    they belong to ids int64 (n,) and were made from the images and ``views`` that are there now."""
    of_images, of_views = chunks.read_small(layout.CHECKS, ids), chunks.read_small(views, ids)
    found = encoded_checks(identity, ids, of_images, of_views, arrays)
    wrong = found != chunks.read_small(checks, ids)[:, 1]
    chunks.refuse((*nodes.values(), checks, views), ids, wrong)
    return arrays


def proved(chunks: Chunks, ids: np.ndarray, read: Callable[[], Read]) -> Read:
    """What ``read`` gives. Another process may have rewritten a block since the small arrays that prove it were kept: if
    anything is wrong they are dropped, and everything is read once more before the error is raised. Or have packed the array."""
    try:
        return read()
    except DamagedChunkError:
        chunks.look_again(np.unique(ids // chunks.block_size).tolist())
        return read()
