"""Plain chunks: the rows of a whole block in C order, little-endian, past the array's end fill values, then their crc32c."""

import math
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

if TYPE_CHECKING:
    import zarr

CHECKSUM_BYTES = 4


def is_plain(array: "zarr.Array") -> bool:
    """Whether an array's chunks are plain."""
    metadata: dict[str, Any] = array.metadata.to_dict()
    return [codec["name"] for codec in metadata["codecs"]] == ["bytes", "crc32c"]


def plain_bytes(array: "zarr.Array") -> int:
    """Bytes of such a chunk."""
    return math.prod(array.chunks) * array.dtype.itemsize + CHECKSUM_BYTES


def decode_plain(chunk: bytes, array: "zarr.Array") -> np.ndarray:
    """A chunk -> the rows of its block, fill values and all. Raises ``ValueError`` if it is damaged."""
    if len(chunk) != plain_bytes(array):
        raise ValueError(f"it has {len(chunk):,} bytes, not {plain_bytes(array):,}")
    content = checked(chunk)
    return content.view(array.dtype.newbyteorder("<")).reshape(array.chunks).astype(array.dtype, copy=False)


def checked(chunk: bytes) -> np.ndarray:
    """A chunk without the crc32c at its end, uint8 (n,), not copied. Raises ``ValueError`` if that is wrong."""
    content = np.frombuffer(chunk, np.uint8)[:-CHECKSUM_BYTES]
    if google_crc32c.value(content) != int.from_bytes(chunk[-CHECKSUM_BYTES:], "little"):
        raise ValueError("stored and computed checksum do not match")
    return content
