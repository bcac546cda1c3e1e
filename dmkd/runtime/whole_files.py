"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmkd.stores.errors import write_error

PARTIAL = ".partial"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """While ``path`` is written: raises ``StoreWriteError`` if the disk fails."""
    try:
        yield
    except OSError as error:
        raise write_error(str(path), error) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, beside ``path``, which it becomes if all goes well. Raises ``StoreWriteError`` if the disk fails."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write ``path`` whole. Raises ``StoreWriteError`` if the disk fails."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def append_line(path: Path, line: str) -> None:
    """Add a line, on a line of its own whatever a killed process left. Raises ``StoreWriteError`` if the disk fails."""
    torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with writing(path), path.open("a") as file:
        file.write(("\n" if torn else "") + line + "\n")


def sweep_partials(folder: Path) -> None:
    """Delete what killed writers left behind."""
    for leftover in folder.rglob(f".*{PARTIAL}"):
        leftover.unlink(missing_ok=True)
