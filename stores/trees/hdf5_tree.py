"""A :class:`dmkd.stores.trees.tree.Tree` in one HDF5 file, which plain h5py opens without plugins.

Groups, arrays and chunks are HDF5's own. Each chunk ends in HDF5's checksum (Fletcher-32), so h5py refuses a damaged one, and
compression is by shuffle and deflate (:mod:`dmkd.stores.trees.hdf5_chunks`). Attributes are JSON, as text. A file
changes by transactions that happen as a whole or not at all (:mod:`dmkd.stores.trees.journaled_file`): HDF5 alone may leave
a file that can't be opened.

HDF5 can't delete a chunk: deleted blocks are named in their array's attribute ``deleted_blocks``.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from typing import Any, TypeVar

import h5py
import numpy as np

from ..errors import StoreError, UsageError
from ..image_codecs import parse_image_codec
from ..layout import ArraySpec
from .hdf5_chunks import chunk_sizes, filter_options, read_checked, read_chunk, reason_of, write_chunk
from .journaled_file import USER_BLOCK, Changes, Snapshot, Version, locked, new_file, read_version, settle

# Chunk indexes that stay fast however many chunks there are, and checksums of all that HDF5 itself writes. Since HDF5 1.10.
FORMAT = ("v110", "v110")
DELETED = "deleted_blocks"
OWN_ATTRIBUTES = (DELETED, "DIMENSION_LABELS")  # of arrays, but not part of the store's

Item = TypeVar("Item")
Result = TypeVar("Result")


class Hdf5Tree:
    """One HDF5 file. Opens on first use in each process, so it can be pickled to workers; threads may share it."""

    kind = "HDF5 file"
    a_kind = "an HDF5 file"
    metadata_file = "the file"
    image_files = False
    reads_at_once = 1
    one_writer = True  # file locks can't be relied on between machines

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._file: h5py.File | None = None  # what is read from
        self._opened: FileIO | None = None  # the same file, as the system opened it
        self._version: Version | None = None  # of what is read
        self._changing: h5py.File | None = None  # inside a transaction
        self._present: dict[str, set[int]] = {}  # array -> blocks that are there, in what is read

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    # Groups and attributes

    def exists(self) -> bool:
        """Whether the path holds an HDF5 file."""
        return os.path.isfile(self.path) and bool(h5py.is_hdf5(self.path))

    def taken(self) -> bool:
        """Whether anything is at the path, a store or not."""
        return os.path.lexists(self.path)

    def create_root(self) -> None:
        """Make the file. An existing one is kept."""
        if self.exists():
            return
        with new_file() as content:
            h5py.File(content, "w", libver=FORMAT, userblock_size=USER_BLOCK).close()
            content.save_new(self.path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Changes made inside happen as a whole at the end, or not at all; one process at a time. May be nested."""
        with self._lock:
            if self._changing is not None:
                yield
                return
            with locked(self.path) as (descriptor, version):
                if self._version != version:
                    self._present.clear()
                changes = Changes(descriptor)
                self._changing = h5py.File(changes, "r+", libver=FORMAT)
                try:
                    yield
                    self._changing.close()
                    new = changes.commit(self.path, version)
                except BaseException:
                    self._present.clear()
                    raise
                finally:
                    self._changing.close()
                    self._changing = None
                    self._close()
            self._open()
            if self._version != new:  # another process was faster
                self._present.clear()

    def create_group(self, node: str, attributes: Mapping[str, Any] | None = None) -> None:
        with self._writing() as file:
            _set_attributes(file.require_group(node), attributes or {})

    def attributes(self, node: str = "") -> dict[str, Any]:
        """A node's attributes, freshly read from the store."""
        return self._reading(lambda file: _attributes(file[node or "/"]))

    def set_attributes(self, attributes: Mapping[str, Any], node: str = "") -> None:
        """Replace the values of these attributes; the others stay."""
        with self._writing() as file:
            _set_attributes(file[node or "/"], attributes)

    def children(self, node: str) -> list[str]:
        """Names of the groups and arrays directly below a group, sorted; none if there is no such group."""
        return self._reading(lambda file: sorted(file[node or "/"]) if not node or node in file else [])

    def names(self, node: str) -> list[str]:
        """As :meth:`children`: a file holds nothing else."""
        return self.children(node)

    # Arrays

    def create_array(
        self, node: str, spec: ArraySpec, num_rows: int, block_size: int, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Make an array of ``num_rows`` rows, replacing an existing one.

        Chunks hold raw pixels, whatever lossless image codec a Zarr store would write them in. Raises ``UsageError`` for jpeg.
        """
        if parse_image_codec(spec.image_codec).lossy:
            raise UsageError(
                f"{self.path}: an HDF5 file holds raw pixels, not JPEG files: keep these images in a Zarr store."
            )
        with self._writing() as file:
            if node in file:
                del file[node]
            array = file.create_dataset(
                node,
                shape=(num_rows, *spec.shape),
                maxshape=(None, *spec.shape),
                chunks=(block_size, *spec.shape),
                dtype=np.dtype(spec.dtype).newbyteorder("<"),
                fillvalue=spec.fill_value,
                **filter_options(compressed=spec.compression is not None),
            )
            for axis, name in enumerate(("image", *spec.dims)):
                array.dims[axis].label = name
            _set_attributes(array, attributes or {})
            self._present.pop(node, None)

    def write_constant(self, node: str, values: np.ndarray) -> None:
        """Write an array that has nothing to do with images, in one chunk, replacing an existing one."""
        with self._writing() as file:
            if node in file:
                del file[node]
            file.create_dataset(node, data=values, chunks=tuple(max(1, n) for n in values.shape), fletcher32=True)

    def read_constant(self, node: str) -> np.ndarray:
        return self._reading(lambda file: read_checked(_array(file, node)))

    def shape(self, node: str) -> tuple[int, ...]:
        return self._reading(lambda file: _array(file, node).shape)

    def dtype(self, node: str) -> np.dtype:
        return self._reading(lambda file: _array(file, node).dtype.newbyteorder("="))

    def resize(self, node: str, num_rows: int) -> None:
        with self._writing() as file:
            _array(file, node).resize(num_rows, axis=0)

    # Blocks

    def present_blocks(self, node: str) -> set[int]:
        """Blocks whose chunk exists and that were not deleted, by one walk through the array's index."""
        return set(self._reading(lambda file: self._list(file, node)))

    def has_block(self, node: str, block: int) -> bool:
        return self._reading(lambda file: block in self._list(file, node))

    def write_block(self, node: str, block: int, rows: np.ndarray) -> None:
        """Write a block's rows as one chunk. The caller has checked shape and dtype."""
        with self._writing() as file:
            array = _array(file, node)
            present = self._list(file, node)
            write_chunk(array, block, rows)
            if block in (deleted := _deleted(array)):
                _set_attributes(array, {DELETED: sorted(deleted - {block})})
            present.add(block)

    def read_block(self, node: str, block: int) -> np.ndarray:
        """The rows of one block. A wrong checksum is a ``ValueError``; the caller says which chunk it was."""

        def read(file: h5py.File) -> np.ndarray:
            array = _array(file, node)
            if block not in self._list(file, node):
                raise ValueError("there is no such chunk")
            start = block * array.chunks[0]
            return read_chunk(array, block)[: array.shape[0] - start]

        return self._reading(read)

    def chunk_bytes(self, node: str) -> dict[int, int]:
        """Block -> bytes of its chunk as it is stored, of those that exist, by one walk through the array's index."""

        def read(file: h5py.File) -> dict[int, int]:
            present = self._list(file, node)
            return {block: size for block, size in chunk_sizes(_array(file, node)).items() if block in present}

        return self._reading(read)

    def for_each(self, work: Callable[[int], None], blocks: Iterable[int]) -> None:
        """Run ``work``, which reads a block, on each block."""
        for block in blocks:
            work(block)

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results of ``work``, which reads, in the order of ``items``."""
        return [work(item) for item in items]

    def delete_block(self, node: str, block: int) -> None:
        """From now on the block counts as missing, and h5py reads fill values there."""
        with self._writing() as file:
            array = _array(file, node)
            present = self._list(file, node)
            if block in present:
                write_chunk(array, block, np.empty((0, *array.shape[1:]), array.dtype))
                _set_attributes(array, {DELETED: sorted(_deleted(array) | {block})})
                present.remove(block)

    def chunk_path(self, node: str, block: int) -> str:
        """Where a block's chunk is, for messages: as h5py's users would write it."""
        size = self._reading(lambda file: _array(file, node).chunks[0])
        return f"{node}[{block * size}:{(block + 1) * size}] of {self.path}"

    def look_again(self) -> None:
        """Each look is at the file as it is."""

    def is_chunk_file(self, node: str, block: int) -> bool:
        """Whether a chunk is a file of its own: never."""
        return False

    def has_plain_files(self, node: str) -> bool:
        """Whether each chunk is a file of its own, or part of one as it is in memory: never."""
        return False

    def mapped_chunk(self, node: str, block: int) -> np.ndarray:
        raise FileNotFoundError(self.chunk_path(node, block))

    def count_partials(self) -> int:
        """None: the next writer overwrites whatever was left behind."""
        return 0

    def sweep_partials(self) -> int:
        return 0

    # Below: the file, open at its current version

    @contextmanager
    def _writing(self) -> Iterator[h5py.File]:
        with self.transaction():
            assert self._changing is not None
            yield self._changing

    def _reading(self, read: Callable[[h5py.File], Result]) -> Result:
        """What ``read`` gives, of a file that nobody changed while it ran."""
        with self._lock:
            if self._changing is not None:
                return read(self._changing)
            while True:
                file, version = self._current(), self._version
                try:
                    result = read(file)
                except Exception:
                    if self._current() is file and self._version == version:
                        raise
                else:
                    if version is None or read_version(self._descriptor) == version:
                        return result

    def _current(self) -> h5py.File:
        """The file, reopened if it has been changed."""
        settle(self.path)
        if self._file is not None:
            same = os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
            if same and read_version(self._descriptor) == self._version:
                return self._file
            self._present.clear()
        return self._open()

    def _open(self) -> h5py.File:
        self._close()
        self._opened = FileIO(self.path)
        self._version = read_version(self._descriptor)
        try:
            self._file = h5py.File(Snapshot(self._descriptor), "r")
        except OSError as error:
            version, self._version = self._version, None
            if os.path.exists(f"{self.path}.journal") or read_version(self._descriptor) != version:
                return self._current()  # it was being changed just then
            raise StoreError(
                f"{self.path} can't be opened ({reason_of(error)}): it is damaged or truncated; restore it from a backup."
            ) from error
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _descriptor(self) -> int:
        assert self._opened is not None
        return self._opened.fileno()

    def _list(self, file: h5py.File, node: str) -> set[int]:
        """Blocks that are there; kept until another process changes the file."""
        if node not in self._present:
            array = _array(file, node)
            self._present[node] = chunk_sizes(array).keys() - _deleted(array)
        return self._present[node]


def _array(file: h5py.File, node: str) -> Any:
    array = file[node]
    if not isinstance(array, h5py.Dataset):
        raise KeyError(f"{node} is not an array")
    return array


def _attributes(node: Any) -> dict[str, Any]:
    found = {}
    for name in node.attrs:
        if name not in OWN_ATTRIBUTES:
            text = node.attrs[name]
            found[name] = json.loads(text if isinstance(text, bytes | str) else str(text))
    return found


def _set_attributes(node: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        text = json.dumps(value).encode()
        # Of fixed length: HDF5 keeps other strings where nothing is checksummed.
        node.attrs.create(name, np.array(text, h5py.string_dtype("utf-8", len(text))))


def _deleted(array: Any) -> set[int]:
    return set(json.loads(array.attrs[DELETED])) if DELETED in array.attrs else set()
