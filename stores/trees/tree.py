"""What a store is written in: the methods that every backend has, and the list of backends.

A new backend is a class with the methods of :class:`Tree` in a file of its own, and an entry in :data:`BACKENDS`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import UsageError
from ..layout import ArraySpec, stored_format
from ..locations import scheme

if TYPE_CHECKING:  # `dmkd --help` need not wait for it
    import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")


class Tree(Protocol):
    """Groups and arrays at a path, named by nodes: ``""`` is the root, ``"labels/resnet34/logits"`` an array two groups below it.

    Groups and arrays carry attributes, which are JSON. Arrays are cut along their first axis into blocks, each of which
    is one chunk on disk and is written, read and deleted as a whole. Beside these there are constants: small arrays in
    one chunk that have nothing to do with images.

    A tree can be made for any path, whatever is there, and reads nothing before its first method call. It can be pickled to
    another process, which reopens it. Threads may share one; several processes may read, and write different blocks, at the
    same time (see ``one_writer``). Attributes, children and blocks are looked up at each call, so that what another process
    has written is seen; shapes and dtypes may be cached.

    A block is written or deleted, and attributes are set, as a whole or not at all, however the process ends: a reader sees
    what was there before, or what is there after. An array or a constant that was being made may be there in part;
    whoever makes one records afterwards that it is complete.

    Errors that any method may raise: ``OSError`` if the disk fails, which callers turn into a sentence, ``StoreError`` where
    the backend has one of its own, ``KeyError`` if a node is not there or is a group where an array is meant,
    ``DamagedMetadataError`` if a node's metadata can't be read.
    """

    path: str

    # What differs between backends, for callers that need to know

    kind: str  # what is at the path, for messages: "Zarr v3 group"
    a_kind: str  # a store of this kind, for messages: "an HDF5 file"
    metadata_file: str  # what to restore from a backup if attributes are damaged, for messages: "zarr.json"
    image_files: bool  # whether images can be written as JPEG and WebP files; if not, as pixels

    @property
    def reads_at_once(self) -> int:
        """Threads worth reading with: many where most of the time is waiting."""

    one_writer: bool  # whether all writing must be left to one process where workers are on several machines

    # The whole

    def exists(self) -> bool:
        """Whether there is a tree at the path, even an empty one. Creates nothing."""

    def taken(self) -> bool:
        """Whether anything is at the path, a tree or not. An empty folder does not count."""

    def create_root(self) -> None:
        """Make an empty tree, and the folders above it. An existing tree is kept as it is."""

    def transaction(self) -> AbstractContextManager[None]:
        """Within this context, changes belong together. They are visible to this tree at once; may be nested.

        Some backends make them as a whole at the end, or not at all if an exception leaves the context or the process
        dies. In others each happens when its method is called, in the order of the calls and never by half; callers
        therefore order changes so that the tree is sound after each of them.
        """

    def count_partials(self) -> int:
        """How many half-written files there are: left by killed writers, or about to be renamed by a writer."""

    def sweep_partials(self) -> int:
        """Delete these files -> how many there were. Harmless to a writer at work."""

    # Groups and attributes

    def create_group(self, node: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Make a group in a group that exists, at once with its attributes. An existing one is kept; these of its attributes are
        set."""

    def children(self, node: str) -> list[str]:
        """Names of the groups and arrays directly below a group, sorted; none if there is no such group."""

    def names(self, node: str) -> list[str]:
        """As :meth:`children`, by one listing without looking at each: other files there may be among them."""

    def attributes(self, node: str = "") -> dict[str, Any]:
        """The attributes of a group or an array."""

    def set_attributes(self, attributes: Mapping[str, Any], node: str = "") -> None:
        """Set these attributes (JSON-able) of a group or an array; the others stay."""

    # Arrays

    def create_array(
        self, node: str, spec: ArraySpec, num_rows: int, block_size: int, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Make an array (``num_rows``, \\*``spec.shape``) without blocks, in a group that exists; an existing one is
        replaced, blocks and attributes too.

        ``spec.compression``, ``order`` and ``image_codec`` say how a chunk is written; a backend replaces what it lacks
        with something that gives the same rows. Raises ``UsageError`` for an image codec where it can't: a lossy one without
        ``image_files``.
        """

    def shape(self, node: str) -> tuple[int, ...]:
        """(num_rows, ...)"""

    def dtype(self, node: str) -> "np.dtype":
        """The dtype of the rows in memory, in the byte order of this machine."""

    def resize(self, node: str, num_rows: int) -> None:
        """Make room for more rows. Existing blocks stay."""

    def write_constant(self, node: str, values: "np.ndarray") -> None:
        """Write a constant of any dtype and one axis or more, in a group that exists, replacing an existing one."""

    def read_constant(self, node: str) -> "np.ndarray":
        """A constant as it was written. Raises ``ValueError`` or ``RuntimeError`` if its chunk is damaged."""

    # Blocks of an array: block b holds the rows from b * block_size to (b + 1) * block_size, the last one what is left

    def present_blocks(self, node: str) -> set[int]:
        """Blocks whose chunk is there, by one listing; damaged ones count."""

    def chunk_bytes(self, node: str) -> dict[int, int]:
        """Block -> bytes of its chunk as it is stored, of those that are there, by one listing."""

    def has_block(self, node: str, block: int) -> bool:
        """Whether a block's chunk is there: also one that is full of the fill value, or damaged."""

    def write_block(self, node: str, block: int, rows: "np.ndarray") -> None:
        """Write all rows of a block (n, ...), whatever was there, damaged or not. The caller has checked shape and dtype."""

    def read_block(self, node: str, block: int) -> "np.ndarray":
        """The rows of a block that is there (n, ...), not to be changed in place.

        Raises ``ValueError`` or ``RuntimeError``, which says why, if the chunk is not what was written: each ends in a
        checksum. The caller says which chunk it was, see :meth:`chunk_path`. For a block that is not there: fill values or
        ``ValueError``.
        """

    def delete_block(self, node: str, block: int) -> None:
        """Delete a block's chunk, if it is there."""

    def chunk_path(self, node: str, block: int) -> str:
        """Where a block's chunk is, or would be, for messages."""

    def is_chunk_file(self, node: str, block: int) -> bool:
        """Whether a user can copy and delete this chunk alone, at its :meth:`chunk_path`."""

    def has_plain_files(self, node: str) -> bool:
        """Whether each chunk is a local file, or part of one: the rows of a whole block as they are in memory here, in
        C order, past the array's end fill values, then the crc32c of all this, 4 bytes little-endian."""

    def mapped_chunk(self, node: str, block: int) -> "np.ndarray":
        """Such a chunk, uint8 (bytes,), mapped from its file. Raises ``FileNotFoundError`` if it is not there, ``ValueError`` if
        the file is damaged."""

    def look_again(self) -> None:
        """Rely on nothing that was read before: of what is kept (shapes, listings) another process may have changed some."""

    # Reading many blocks

    def for_each(self, work: Callable[[int], None], blocks: Iterable[int]) -> None:
        """Run ``work``, which reads a block, on each of these; on several threads where most of the time is waiting."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results of ``work``, which reads, in the order of ``items``, run as in :meth:`for_each`."""


@dataclass(frozen=True)
class Backend:
    """A kind of tree, and how to recognise one without importing the libraries that read it."""

    claims: Callable[[str], bool]  # whether what is or will be at a path is of this kind
    open: Callable[[str], Tree]  # path -> its tree; its libraries are imported here
    is_store: Callable[[Path], bool]  # whether a local path that it claims holds a store of dmkd's


def _claims_hdf5(path: str) -> bool:
    if not path.lower().endswith((".h5", ".hdf5")):
        return False
    if scheme(path):
        raise UsageError(
            f"{path}: an HDF5 file must be on a disk; a store in a bucket is Zarr, and its name does not end in .h5 or .hdf5."
        )
    return True


def _open_hdf5(path: str) -> Tree:
    from .hdf5_tree import Hdf5Tree

    return Hdf5Tree(path)


def _is_hdf5_store(path: Path) -> bool:
    from .journaled_file import is_marked

    return is_marked(str(path))


def _open_zarr(path: str) -> Tree:
    from .zarr_tree import ZarrTree

    return ZarrTree(path)


def _is_zarr_store(path: Path) -> bool:
    try:
        return stored_format(json.loads((path / "zarr.json").read_text())["attributes"]) is not None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


# The first one that claims a path gets it; the last one claims every path.
BACKENDS = (
    Backend(_claims_hdf5, _open_hdf5, _is_hdf5_store),
    Backend(lambda path: True, _open_zarr, _is_zarr_store),
)


def open_tree(path: str) -> Tree:
    """The tree at ``path``, of the kind that the path names: HDF5 if it ends in .h5 or .hdf5, else Zarr. Nothing is read yet.
    Raises ``UsageError`` for a path that can't be a store's."""
    return _backend(path).open(path)


def stores_in(folder: Path) -> list[Path]:
    """All stores directly in a folder, sorted, whether they are sound or not."""
    return sorted(path for path in folder.iterdir() if _backend(str(path)).is_store(path))


def _backend(path: str) -> Backend:
    return next(backend for backend in BACKENDS if backend.claims(path))
