"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmkd.stores.errors import write_error

PARTIAL = ".partial"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, beside ``path``, which it becomes if all goes well. Raises ``StoreWriteError`` if the disk fails."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise write_error(str(path), error) from error
    finally:
        partial.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(content)


def sweep_partials(folder: Path) -> None:
    """Delete what killed writers left behind."""
    for leftover in folder.rglob(f".*{PARTIAL}"):
        leftover.unlink(missing_ok=True)
