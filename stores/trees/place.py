"""Where a Zarr tree is: the methods that a folder (folder.py), a bucket (bucket.py) and a commit on the Hugging Face hub
(hub.py) have, and nothing of arrays."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Protocol


class Place(Protocol):
    """Files, or objects, below a path; ``key`` is a name below it, such as ``images/c.3.0.0.0``.

    Errors: ``OSError`` where a disk fails, a ``StoreError`` of one sentence where a bucket does.
    """

    path: str
    reads_at_once: int  # threads worth reading with

    @property
    def storage(self) -> Any:
        """What zarr is to open."""

    def taken(self) -> bool:
        """Whether there is anything at all; an empty folder does not count."""

    def names(self, prefix: str) -> list[str]:
        """Names directly below a prefix; none if there is no such thing."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """Name -> bytes of the files directly below a prefix."""

    def partials(self) -> list[Path]:
        """Temporary files that killed writers left behind, or that a writer is about to rename."""

    def read_bytes(self, key: str, start: int | None = None, stop: int | None = None) -> bytes | None:
        """A file, or these bytes of it; None if it is not there."""

    def write_bytes(self, key: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""

    def new_file(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A large file to be written from its beginning, that is there, in place of an old one and safe from a crash of the
        machine, once the context ends without an exception; else nothing has changed."""

    def remove(self, key: str) -> None:
        """Delete a file, if it is there."""
