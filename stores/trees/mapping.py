"""Files, or parts of them, mapped into memory.

Through the C library: Python's mmap, before 3.13, keeps a descriptor open for each map, and a process may have 1,024 of these by
default, which a store of 70,000 images would use up.
"""

import ctypes
import mmap
import os
import weakref

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


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
    """Part of an open file, uint8, read-only, mapped for as long as the array or a view of it is there; the file may be closed.
    Raises ``ValueError`` if the file is too short, ``OSError`` if the system refuses."""
    # Beyond the end of the file, mapped memory is an error that no program survives.
    if start + length > os.fstat(file).st_size or not length:
        raise ValueError("the file is too short")
    page = start - start % mmap.ALLOCATIONGRANULARITY
    size = start + length - page
    address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, page)
    if address == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    memory = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, size).atexit = False
    content = np.frombuffer(memoryview(memory), np.uint8)[start - page :]
    content.flags.writeable = False
    return content
