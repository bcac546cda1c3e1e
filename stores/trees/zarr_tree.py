"""A :class:`dmkd.stores.trees.tree.Tree` in Zarr v3, in a folder or a bucket."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr
import zarr.errors
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore

from .. import image_chunks, locations  # noqa: F401  # image_chunks registers its codecs with zarr
from ..errors import DamagedMetadataError
from ..image_codecs import parse_image_codec
from ..layout import ArraySpec
from .folder import Folder

if TYPE_CHECKING:
    from .bucket import Bucket

CHUNK_NAME = re.compile(r"c\.(\d+)(?:\.0)*")

Item = TypeVar("Item")
Result = TypeVar("Result")


class ZarrTree:
    """One Zarr v3 hierarchy. Opens on first use in each process, so it can be pickled to workers."""

    kind = "Zarr v3 group"
    a_kind = "a Zarr store"
    metadata_file = "zarr.json"
    image_files = True
    chunk_files = True
    one_writer = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: Folder | Bucket | None = None
        self._arrays: dict[str, zarr.Array] = {}
        self._group: zarr.Group | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def transaction(self) -> AbstractContextManager[None]:
        """Where HDF5 must change as a whole, Zarr need not: each chunk and each node's metadata is a file of its own."""
        return nullcontext()

    # Groups and attributes

    def exists(self) -> bool:
        """Whether the path holds a Zarr v3 group. Raises ``DamagedMetadataError`` if it holds one that can't be read."""
        try:
            with self._naming_damage(""):
                zarr.open_group(self._place.storage, mode="r", zarr_format=3)  # any other mode makes the folder
        except DamagedMetadataError:
            raise
        except (zarr.errors.GroupNotFoundError, FileNotFoundError, NotADirectoryError, ValueError):
            return False
        return True

    def taken(self) -> bool:
        """Whether anything is at the path, a store or not; an empty folder does not count."""
        return self._place.taken()

    def create_root(self) -> None:
        """Make the root group. An existing one is kept."""
        self._group = zarr.open_group(self._place.storage, mode="a", zarr_format=3)

    def create_group(self, node: str) -> None:
        self._root.require_group(node)

    def attributes(self, node: str = "") -> dict[str, Any]:
        """A node's attributes, freshly read from the store."""
        return dict(self._node(node).attrs.asdict())

    def set_attributes(self, attributes: Mapping[str, Any], node: str = "") -> None:
        """Replace the values of these attributes; the others stay."""
        target = self._node(node)
        target.attrs.put({**target.attrs.asdict(), **attributes})

    def children(self, node: str) -> list[str]:
        """Names of the groups and arrays directly below a group, sorted; none if there is no such group."""
        prefix, zarr_store = f"{node}/" if node else "", self._root.store
        return [name for name in self.names(node) if sync(zarr_store.exists(f"{prefix}{name}/zarr.json"))]

    def names(self, node: str) -> list[str]:
        """Names of everything directly below a node except its metadata, sorted: groups, arrays, chunks."""
        return sorted(name for name in self._place.names(node) if name != "zarr.json")

    # Arrays

    def create_array(
        self, node: str, spec: ArraySpec, num_rows: int, block_size: int, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Make an array of ``num_rows`` rows, replacing an existing one."""
        itemsize = np.dtype(spec.dtype).itemsize
        # Measured on quantised KLT coefficients: level 9 saves 0 to 3 % more and takes six times as long or longer.
        bitshuffle = BloscCodec(cname="zstd", clevel=7, shuffle="bitshuffle", typesize=itemsize)
        by_name: dict[str | None, list[Any]] = {None: [], "zstd": [ZstdCodec(level=3)], "bitshuffle": [bitshuffle]}
        self._root.create_array(
            node,
            shape=(num_rows, *spec.shape),
            chunks=(block_size, *spec.shape),
            dtype=spec.dtype,
            fill_value=spec.fill_value,
            filters=[TransposeCodec(order=spec.order)] if spec.order else [],
            serializer=parse_image_codec(spec.image_codec).serializer()
            or BytesCodec(endian="little" if itemsize > 1 else None),
            compressors=[*by_name[spec.compression], Crc32cCodec()],
            dimension_names=("image", *spec.dims),
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=dict(attributes or {}),
            overwrite=True,
        )
        self._arrays.pop(node, None)

    def write_constant(self, node: str, values: np.ndarray) -> None:
        """Write an array that has nothing to do with images, in one chunk, replacing an existing one."""
        array = self._root.create_array(
            node,
            shape=values.shape,
            chunks=tuple(max(1, length) for length in values.shape),
            dtype=values.dtype,
            serializer=BytesCodec(endian="little" if values.dtype.itemsize > 1 else None),
            compressors=[Crc32cCodec()],
            chunk_key_encoding={"name": "default", "separator": "."},
            overwrite=True,
            config={"write_empty_chunks": True},
        )
        array[...] = values

    def read_constant(self, node: str) -> np.ndarray:
        return np.asarray(self._array(node)[...])

    def shape(self, node: str) -> tuple[int, ...]:
        return self._array(node).shape

    def dtype(self, node: str) -> np.dtype:
        return self._array(node).dtype

    def resize(self, node: str, num_rows: int) -> None:
        self._arrays.pop(node, None)  # zarr writes the attributes again, as they were when the array was opened
        array = self._array(node)
        array.resize((num_rows, *array.shape[1:]))
        self._arrays.pop(node)

    # Blocks

    def present_blocks(self, node: str) -> set[int]:
        """Blocks whose chunk exists, by one listing (zarr's ``nchunks_initialized`` is quadratic)."""
        return {int(match[1]) for name in self._place.names(node) if (match := CHUNK_NAME.fullmatch(name))}

    def chunk_bytes(self, node: str) -> dict[int, int]:
        """Block -> bytes of its chunk as it is stored, of those that exist, by one listing."""
        sizes = self._place.sizes(node)
        return {int(match[1]): size for name, size in sizes.items() if (match := CHUNK_NAME.fullmatch(name))}

    def has_block(self, node: str, block: int) -> bool:
        return sync(self._root.store.exists(f"{node}/{self._chunk_name(node, block)}"))

    def write_block(self, node: str, block: int, rows: np.ndarray) -> None:
        """Write a block's rows as one chunk, atomically. The caller has checked shape and dtype."""
        array = self._array(node)
        start = block * array.chunks[0]
        try:
            array[start : start + len(rows)] = rows
        except FileNotFoundError:
            # Another process, starting or ending on this store, took our temporary file for a dead writer's.
            array[start : start + len(rows)] = rows

    def read_block(self, node: str, block: int) -> np.ndarray:
        """The rows of one block. A wrong checksum is zarr's ``ValueError``; the caller says which chunk it was."""
        array = self._array(node)
        start = block * array.chunks[0]
        return np.asarray(array[start : start + array.chunks[0]])

    def for_each(self, work: Callable[[int], None], blocks: Iterable[int]) -> None:
        """Run ``work``, which reads a block, on each block: several at once in a bucket, where most of the time is waiting."""
        for _ in self.map(work, blocks):
            pass

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results of ``work``, which reads, in the order of ``items``: run as in :meth:`for_each`."""
        if self._place.reads_at_once == 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(self._place.reads_at_once) as pool:
            return list(pool.map(work, items))

    def delete_block(self, node: str, block: int) -> None:
        sync(self._root.store.delete(f"{node}/{self._chunk_name(node, block)}"))

    def chunk_path(self, node: str, block: int) -> str:
        """Where a block's chunk is, for messages."""
        return locations.join(self.path, node, self._chunk_name(node, block))

    def has_plain_files(self, node: str) -> bool:
        """Whether each chunk is a local file of the rows as they are in memory here, in C order, then their crc32c."""
        array = self._array(node)
        if not isinstance(array.metadata, ArrayV3Metadata):
            return False
        codecs = [codec.to_dict()["name"] for codec in array.metadata.codecs]
        native = sys.byteorder == "little" or array.dtype.itemsize == 1
        return isinstance(array.store, LocalStore) and codecs == ["bytes", "crc32c"] and native

    def count_partials(self) -> int:
        return len(self._place.partials())

    def sweep_partials(self) -> int:
        """Delete the temporary files that killed writers left behind; returns how many. Object stores leave none."""
        leftovers = self._place.partials()
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)

    # Below: nodes, opened once in each process

    @property
    def _place(self) -> "Folder | Bucket":
        if self._opened is None:
            if locations.scheme(self.path):
                from .bucket import open_bucket

                self._opened = open_bucket(self.path)
            else:
                self._opened = Folder(self.path)
        return self._opened

    @property
    def _root(self) -> zarr.Group:
        if self._group is None:
            with self._naming_damage(""):
                self._group = zarr.open_group(self._place.storage, mode="r+", zarr_format=3)
        return self._group

    def _node(self, node: str) -> zarr.Group | zarr.Array:
        """A node, freshly read."""
        root = self._root
        with self._naming_damage(node):
            return root[node] if node else zarr.open_group(root.store, mode="r+", zarr_format=3)

    @contextmanager
    def _naming_damage(self, node: str) -> Iterator[None]:
        """Metadata that is not JSON is reported by the name of its file."""
        try:
            yield
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            file = locations.join(self.path, *filter(None, [node]), "zarr.json")
            raise DamagedMetadataError(
                f"{file} is damaged ({error}): restore this one file from a backup of the store."
            ) from error

    def _array(self, node: str) -> zarr.Array:
        if node not in self._arrays:
            array = self._node(node)
            if not isinstance(array, zarr.Array):
                raise KeyError(f"{node} is not an array")
            # Chunks full of the fill value must be written too: an all-black block is done, not missing.
            # open_array(config=...) is silently ignored on an existing array in zarr 3.1.6; with_config works.
            self._arrays[node] = array.with_config({"write_empty_chunks": True})
        return self._arrays[node]

    def _chunk_name(self, node: str, block: int) -> str:
        return "c." + ".".join([str(block)] + ["0"] * (self._array(node).ndim - 1))
