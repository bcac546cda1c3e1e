"""A store in a local folder, listed by the system itself: zarr takes five times as long, which shows at 20,000 blocks."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


class Folder:
    """A :class:`dmkd.stores.trees.place.Place`: a local folder at ``path``."""

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

    def read_bytes(self, key: str, start: int | None = None, stop: int | None = None) -> bytes | None:
        """A file, or these bytes of it; None if it is not there."""
        try:
            with open(Path(self.path) / key, "rb") as file:
                file.seek(start or 0)
                return file.read(-1 if stop is None else stop - (start or 0))
        except FileNotFoundError:
            return None

    def write_bytes(self, key: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        with self.new_file(key) as file:
            file.write(content)

    @contextmanager
    def new_file(self, key: str) -> Iterator[BinaryIO]:
        """A file that is there once the context ends without an exception."""
        path = Path(self.path) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with open(partial, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # its parts are deleted next
            partial.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, key: str) -> None:
        """Delete a file, if it is there."""
        (Path(self.path) / key).unlink(missing_ok=True)
