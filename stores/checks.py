"""Checks that bind rows to their place, so that rows moved between blocks or copied from another store are found.

A chunk's own crc32c only says whether its bytes are the ones written, not whether they belong there. So every
image, and every image's labels, have a crc32c over what they belong to: the image's id and class, and for labels their set,
the image and the views that they were made from. A changed row goes unnoticed with a probability of 2**-32. Checks find
accidents; they do not protect against people, who can compute them too.
"""

import math
from collections.abc import Iterator, Mapping

import google_crc32c
import numpy as np

ID_MODULUS = 2**24  # float32 holds every whole number below


def image_checks(ids: np.ndarray, class_ids: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Ids int64 (n,), class ids int32 (n,), images uint8 (n, H, W, 3) -> uint32 (n, 2), the columns "class", "pixels".

    "class" is the crc32c of id (int64) and class id (int32); "pixels" that of the same 12 bytes followed by the pixels as a
    reader gets them, C order. All numbers little-endian.
    """
    of_class = class_checks(ids, class_ids)
    return np.stack([of_class, _extended(of_class, images)], 1)


def class_checks(ids: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """The column "class" alone: uint32 (n,)."""
    return _begun(ids, class_ids, "<i4")


def label_checks(
    identity: str,
    ids: np.ndarray,
    image_checks: np.ndarray,
    views: np.ndarray,
    quality: np.ndarray,
    arrays: Mapping[str, np.ndarray],
) -> np.ndarray:
    """The label set's identity, ids int64 (n,), their image checks uint32 (n, 2), views as stored float32 (n, V, P + 1),
    quality float32 (n, 3), the codec's arrays name -> (n, ...) in its order -> uint32 (n, 2), the columns "quality", "labels".

    Both are crc32c's that begin with the identity (hex digits, ASCII), the id (int64) and the image's check "pixels" (uint32).
    Then comes the row of quality; or the row of views, followed by that of each of the codec's arrays, C order. All
    numbers little-endian.
    """
    of_quality = quality_checks(identity, ids, image_checks, quality)
    return np.stack([of_quality, encoded_checks(identity, ids, image_checks, views, arrays)], 1)


def quality_checks(identity: str, ids: np.ndarray, image_checks: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """The column "quality" of :func:`label_checks` alone: uint32 (n,)."""
    return _extended(_begun(ids, image_checks[:, 1], "<u4", identity), quality)


def encoded_checks(
    identity: str, ids: np.ndarray, image_checks: np.ndarray, views: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The column "labels" of :func:`label_checks` alone: uint32 (n,)."""
    checks = _extended(_begun(ids, image_checks[:, 1], "<u4", identity), views)
    for rows in arrays.values():
        checks = _extended(checks, rows)
    return checks


def column_checks(identity: str, ids: np.ndarray, image_checks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The column's identity, ids int64 (n,), their image checks uint32 (n, 2) and numbers float64 (n,) -> uint32 (n,): crc32c's
    that begin as those of labels do; then comes the number."""
    return _extended(_begun(ids, image_checks[:, 1], "<u4", identity), values)


def bind_views(ids: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Views float32 (n, V, P) -> as stored, (n, V, P + 1): the last component says which image they belong to."""
    owners = np.broadcast_to(_owners(ids), (*views.shape[:2], 1))
    return np.concatenate([views, owners], 2)


def views_bound(ids: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Which views (n, V, P + 1), as stored, belong to these images: bool (n,)."""
    return (stored[:, :, -1:] == _owners(ids)).all((1, 2))


def _owners(ids: np.ndarray) -> np.ndarray:
    return (ids % ID_MODULUS).astype(np.float32)[:, None, None]


def _begun(ids: np.ndarray, values: np.ndarray, dtype: str, identity: str = "") -> np.ndarray:
    """The crc32c of an identity, each id and one more number: uint32 (n,)."""
    heads = np.empty(len(ids), [("id", "<i8"), ("value", dtype)])
    heads["id"], heads["value"] = ids, values
    return _extended(np.full(len(ids), google_crc32c.value(identity.encode()), np.uint32), heads)


def _extended(checks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Crc32c's uint32 (n,) of some bytes -> those of the same bytes, each followed by its row's."""
    return np.fromiter(map(google_crc32c.extend, checks.tolist(), _row_bytes(rows)), np.uint32, len(rows))


def _row_bytes(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The bytes of each row, C order, little-endian; contiguous rows are not copied."""
    rows = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    width = rows.dtype.itemsize * math.prod(rows.shape[1:])
    return iter(rows.reshape(-1).view(np.uint8).reshape(len(rows), width))
