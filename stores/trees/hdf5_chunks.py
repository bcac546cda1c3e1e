"""Chunks of an HDF5 array, written and read without h5py, just as HDF5's own filters would: shuffle, deflate, Fletcher-32.

Plain h5py reads what is written here, and the other way round.
"""

import zlib
from typing import Any

import numpy as np
from numcodecs import Fletcher32, Shuffle

DEFLATE_LEVEL = 4
CHECKSUM_BYTES = 4


def filter_options(compressed: bool) -> dict[str, Any]:
    """Arguments of h5py's ``create_dataset`` for an array whose chunks are read and written here."""
    return {
        "shuffle": compressed,
        "compression": "gzip" if compressed else None,
        "compression_opts": DEFLATE_LEVEL if compressed else None,
        "fletcher32": True,
    }


def chunk_sizes(array: Any) -> dict[int, int]:
    """Block -> bytes of its stored chunk, by one walk through the array's index."""
    sizes: dict[int, int] = {}

    def note(chunk: Any) -> None:
        sizes[chunk.chunk_offset[0] // array.chunks[0]] = chunk.size

    array.id.chunk_iter(note)
    return sizes


def write_chunk(array: Any, block: int, rows: np.ndarray) -> None:
    """Write a block's rows (n, ...) as one chunk, with fill values where a last block has fewer.

    Not by h5py's array[...] = rows: where a damaged chunk is in the way, HDF5 may want to read it first.
    """
    if len(rows) < array.chunks[0]:
        whole = np.full(array.chunks, array.fillvalue, array.dtype)
        whole[: len(rows)] = rows
        rows = whole
    content: Any = np.ascontiguousarray(rows, array.dtype).reshape(-1).view(np.uint8)
    if array.shuffle:
        content = Shuffle(array.dtype.itemsize).encode(content)
    if array.compression:
        content = zlib.compress(content, array.compression_opts)
    array.id.write_direct_chunk(_corner(array, block), bytes(Fletcher32().encode(content)), 0)


def read_chunk(array: Any, block: int) -> np.ndarray:
    """A whole chunk (B, ...). Raises ``ValueError`` if it is damaged. What other programs wrote is read by h5py alone."""
    if array.shuffle != bool(array.compression) or array.compression not in (None, "gzip") or not array.fletcher32:
        start = block * array.chunks[0]
        return read_checked(array, slice(start, start + array.chunks[0]))
    try:
        chunk: Any = None
        if not array.compression:  # of known length; and readers may change what is read into numpy's memory
            chunk = np.empty(array.dtype.itemsize * int(np.prod(array.chunks)) + CHECKSUM_BYTES, np.uint8)
        skipped, chunk = array.id.read_direct_chunk(_corner(array, block), out=chunk)
        if len(chunk) <= CHECKSUM_BYTES:
            raise ValueError(f"it has {len(chunk)} bytes")
        content = Fletcher32().decode(chunk)
        if array.compression:
            content = Shuffle(array.dtype.itemsize).decode(zlib.decompress(content))
        rows = np.frombuffer(content, array.dtype).reshape(array.chunks)
    except (RuntimeError, ValueError, OSError, zlib.error) as error:
        raise ValueError(reason_of(error)) from error
    if skipped:
        raise ValueError("a filter was skipped")
    return rows


def read_checked(array: Any, rows: slice = slice(None)) -> np.ndarray:
    """Rows as h5py reads them. Raises ``ValueError`` if a chunk is damaged."""
    try:
        return array[rows] if array.ndim else array[()]
    except OSError as error:
        raise ValueError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """The part in brackets of HDF5's messages: its own reason."""
    text = str(error)
    return text[text.find("(") + 1 : text.rfind(")")] if "(" in text else text


def _corner(array: Any, block: int) -> tuple[int, ...]:
    return (block * array.chunks[0], *[0] * (array.ndim - 1))
