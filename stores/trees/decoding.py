"""A chunk's bytes to the rows of its block. What nearly all chunks are, plain rows or image files, is decoded here; Zarr, which
copies more, decodes what is compressed."""

from typing import TYPE_CHECKING

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

from ..image_chunks import ImageFilesCodec
from .plain_chunks import checked, decode_plain, is_plain

if TYPE_CHECKING:
    from zarr.core.metadata import ArrayV3Metadata


def decode_chunk(chunk: bytes, array: "zarr.Array", block: int) -> np.ndarray:
    """A block's rows (n, ...). Raises ``ValueError`` if its chunk is damaged."""
    start = block * array.chunks[0]
    if is_plain(array):
        return decode_plain(chunk, array)[: array.shape[0] - start]
    metadata: ArrayV3Metadata = array.metadata  # type: ignore[assignment]
    match metadata.codecs:
        case (ImageFilesCodec() as codec, Crc32cCodec()):
            return codec.decode_images(checked(chunk).data, array.chunks)[: array.shape[0] - start]
    key = metadata.encode_chunk_key((block, *[0] * (array.ndim - 1)))
    alone = MemoryStore({key: default_buffer_prototype().buffer.from_bytes(chunk)})
    opened: zarr.Array = zarr.Array(zarr.AsyncArray(metadata, StorePath(alone)))
    return np.asarray(opened[start : start + array.chunks[0]])
