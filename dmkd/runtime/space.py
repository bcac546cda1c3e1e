"""What this machine has to spare: memory, and room on a disk."""

import os
import shutil
from pathlib import Path

from dmkd.stores import locations

MEMORY_BYTES = 4 * 2**30  # of a store that a loader may hold, unless it is told


def available_memory() -> int:
    """Bytes that processes can take without swapping; where the system does not say, all the memory there is."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_disk(path: str) -> int | None:
    """Bytes free on the disk where ``path`` lies or would; None in a bucket, or where a file system does not say."""
    if locations.scheme(path):
        return None
    place = Path(path).resolve()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return None
    return usage.free if usage.total else None


def byte_size(count: float) -> str:
    """``12.6 MB``, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError
