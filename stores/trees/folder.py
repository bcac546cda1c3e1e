"""A store in a local folder, listed by the system itself: zarr takes five times as long, which shows at 20,000 blocks.

:class:`dmkd.stores.trees.bucket.Bucket` has the same methods.
"""

import os
from contextlib import suppress
from pathlib import Path


class Folder:
    """What :class:`dmkd.stores.trees.zarr_tree.ZarrTree` needs of the place it is in: a local folder at ``path``."""

    reads_at_once = 1

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def storage(self) -> str:
        """What zarr is to open."""
        return self.path

    def taken(self) -> bool:
        """Whether there is anything at all; an empty folder does not count."""
        local = Path(self.path)
        return local.exists() and not (local.is_dir() and not any(local.iterdir()))

    def names(self, prefix: str) -> list[str]:
        """Names directly below a prefix; none if there is no such folder."""
        try:
            return os.listdir(Path(self.path) / prefix)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def sizes(self, prefix: str) -> dict[str, int]:
        """Name -> bytes of the files directly below a prefix."""
        sizes: dict[str, int] = {}
        with suppress(FileNotFoundError), os.scandir(Path(self.path) / prefix) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # a temporary file that has been renamed since
                    sizes[entry.name] = entry.stat().st_size
        return sizes

    def partials(self) -> list[Path]:
        """Temporary files that killed writers left behind, or that a writer is about to rename."""
        return sorted(Path(self.path).rglob("*.partial"))
