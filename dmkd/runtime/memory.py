"""How this process keeps memory that was freed."""

import ctypes
import os
import sys

# glibc's numbers in mallopt(3), with the environment variables by which a user sets the same.
_OPTIONS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3}
_KEPT_BYTES = 512 * 2**20
_MMAP_BYTES = 32 * 2**20  # the most that every glibc takes on 64 bits


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for the next activation of the same size, instead of giving it back to the system.

    Otherwise each of a model's activations is mapped, filled with zeros page by page and unmapped: on a CPU that is a good part
    of the time. Does nothing where the C library is not glibc, or where the user has set one of the variables.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OPTIONS):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    for name, option in _OPTIONS.items():
        libc.mallopt(option, _MMAP_BYTES if name == "MALLOC_MMAP_THRESHOLD_" else _KEPT_BYTES)
