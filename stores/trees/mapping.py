"""Files, or parts of them, mapped into memory."""

import mmap
import os

import numpy as np


def open_file(path: str) -> int | None:
    """A descriptor to read from; None if there is no such file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def map_file(path: str) -> np.ndarray | None:
    """A whole file, uint8; None if it is not there. Raises ``ValueError`` if it is empty."""
    file = open_file(path)
    if file is None:
        return None
    try:
        return map_part(file, 0, os.fstat(file).st_size)
    finally:
        os.close(file)


def map_part(file: int, start: int, length: int) -> np.ndarray:
    """Part of an open file, uint8, that stays mapped when the file is closed. Raises ``ValueError`` if the file is too short."""
    # Beyond the end of the file, mapped memory is an error that no program survives.
    if start + length > os.fstat(file).st_size or not length:
        raise ValueError("the file is too short")
    page = start - start % mmap.ALLOCATIONGRANULARITY
    content = mmap.mmap(file, start + length - page, access=mmap.ACCESS_READ, offset=page)
    return np.frombuffer(content, np.uint8)[start - page :]
