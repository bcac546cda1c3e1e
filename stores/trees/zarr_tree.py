"""A :class:`dmkd.stores.trees.tree.Tree` in Zarr v3: in a folder, in a bucket, or on the Hugging Face hub."""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr
import zarr.errors
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import MemoryStore, StorePath

from .. import image_chunks, locations  # noqa: F401  # image_chunks registers its codecs with zarr
from ..errors import DamagedMetadataError
from ..image_codecs import parse_image_codec
from ..layout import ArraySpec
from . import shards
from .folder import Folder
from .mapping import map_file
from .packed import LOOSE_NAME, SHARD_NAME, PackedArray, ShapeOfArray
from .packed_local import LocalPacked
from .plain_chunks import decode_plain, is_plain

if TYPE_CHECKING:
    from .packed_remote import KeptSpans
    from .place import Place

# An array of more is packed from the start: file systems and hubs dislike folders of tens of thousands of files.
MOST_LOOSE_BLOCKS = 8192

Item = TypeVar("Item")
Result = TypeVar("Result")


class ZarrTree:
    """One Zarr v3 hierarchy. Opens on first use in each process, so it can be pickled to workers."""

    kind = "Zarr v3 group"
    a_kind = "a Zarr store"
    metadata_file = "zarr.json"
    image_files = True
    one_writer = False

    @property
    def reads_at_once(self) -> int:
        return self.place.reads_at_once

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: Place | None = None
        self._arrays: dict[str, zarr.Array] = {}
        self._packed_arrays: dict[str, PackedArray | None] = {}
        self._spans: KeptSpans | None = None
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
                zarr.open_group(self.place.storage, mode="r", zarr_format=3)  # any other mode makes the folder
        except DamagedMetadataError:
            raise
        except (zarr.errors.GroupNotFoundError, FileNotFoundError, NotADirectoryError, ValueError):
            return False
        return True

    def taken(self) -> bool:
        """Whether anything is at the path, a store or not; an empty folder does not count."""
        return self.place.taken()

    def create_root(self) -> None:
        """Make the root group. An existing one is kept."""
        self._group = zarr.open_group(self.place.storage, mode="a", zarr_format=3)

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
        return sorted(name for name in self.place.names(node) if name != "zarr.json")

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
        self._forget_array(node)
        self._pack_if_many(node)

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
        array = self._node(node)  # read again: zarr writes the attributes anew, as they were when the array was opened
        assert isinstance(array, zarr.Array)
        array.resize((num_rows, *array.shape[1:]))
        self._forget_array(node)
        self._pack_if_many(node)

    # Blocks

    def present_blocks(self, node: str) -> set[int]:
        """Blocks whose chunk exists, by one listing (zarr's ``nchunks_initialized`` is quadratic)."""
        if packed := self._packed(node):
            return packed.present()
        names = self.place.names(node)
        if any(map(SHARD_NAME.fullmatch, names)) and (packed := self.packed(node)):  # since we looked
            return packed.present()
        return {int(match[1]) for name in names if (match := LOOSE_NAME.fullmatch(name))}

    def chunk_bytes(self, node: str) -> dict[int, int]:
        """Block -> bytes of its chunk as it is stored, of those that exist, by one listing."""
        if packed := self._packed(node):
            return packed.chunk_bytes()
        sizes = self.place.sizes(node)
        return {int(match[1]): size for name, size in sizes.items() if (match := LOOSE_NAME.fullmatch(name))}

    def has_block(self, node: str, block: int) -> bool:
        if packed := self._packed(node):
            return packed.has(block)
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
        if packed := self._packed(node):
            packed.forget()

    def read_block(self, node: str, block: int) -> np.ndarray:
        """The rows of one block. A wrong checksum is zarr's ``ValueError``; the caller says which chunk it was."""
        if packed := self._packed(node):
            try:
                return self._decoded(node, block, packed.read(block))
            except ValueError:  # perhaps another process packed the array since we looked
                packed.forget()
                return self._decoded(node, block, packed.read(block))
        if not isinstance(self.place, Folder):
            return self._decoded(node, block, self.chunk(node, block))
        array = self._array(node)
        start = block * array.chunks[0]
        return np.asarray(array[start : start + array.chunks[0]])

    def _decoded(self, node: str, block: int, chunk: bytes | None) -> np.ndarray:
        """The rows of a chunk."""
        if chunk is None:
            raise ValueError("there is no such block")
        array = self._array(node)
        start = block * array.chunks[0]
        if is_plain(array):
            return decode_plain(chunk, array)[: array.shape[0] - start]
        key = f"{node}/{self._chunk_name(node, block)}"
        alone = MemoryStore({key: default_buffer_prototype().buffer.from_bytes(chunk)})
        opened: zarr.Array = zarr.Array(zarr.AsyncArray(array.metadata, StorePath(alone, node)))  # type: ignore[type-var]
        return np.asarray(opened[start : start + array.chunks[0]])

    def look_again(self) -> None:
        """Read metadata, listings and indices anew."""
        self._arrays.clear()
        self._packed_arrays.clear()
        self._spans = None

    def for_each(self, work: Callable[[int], None], blocks: Iterable[int]) -> None:
        """Run ``work``, which reads a block, on each block: several at once in a bucket, where most of the time is waiting."""
        for _ in self.map(work, blocks):
            pass

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results of ``work``, which reads, in the order of ``items``: run as in :meth:`for_each`."""
        if self.place.reads_at_once == 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(self.place.reads_at_once) as pool:
            return list(pool.map(work, items))

    def delete_block(self, node: str, block: int) -> None:
        if packed := self._packed(node):
            packed.delete(block)
            return
        sync(self._root.store.delete(f"{node}/{self._chunk_name(node, block)}"))

    def chunk_path(self, node: str, block: int) -> str:
        """Where a block's chunk is, for messages."""
        if (packed := self._packed(node)) and block not in packed.loose():
            return (
                f"{locations.join(self.path, packed.shard_key(block // packed.shape.blocks_per_shard))} (block {block})"
            )
        return locations.join(self.path, node, self._chunk_name(node, block))

    def is_chunk_file(self, node: str, block: int) -> bool:
        """Whether a user can copy and delete this chunk alone, at its :meth:`chunk_path`."""
        packed = self._packed(node)
        return packed is None or block in packed.loose()

    def has_plain_files(self, node: str) -> bool:
        """Whether each chunk is in a local file: the rows as they are in memory here, in C order, then their crc32c."""
        array = self._array(node)
        native = sys.byteorder == "little" or array.dtype.itemsize == 1
        return isinstance(self.place, Folder) and is_plain(array) and native

    def mapped_chunk(self, node: str, block: int) -> np.ndarray:
        """A chunk of an array that :meth:`has_plain_files`, uint8, mapped from its file."""
        for _ in range(2):
            packed = self._packed(node)
            chunk = packed.mapped(block) if isinstance(packed, LocalPacked) else map_file(self.chunk_path(node, block))
            if chunk is not None:
                return chunk
            self._forget_array(node)  # another process may have packed it
        raise FileNotFoundError(self.chunk_path(node, block))

    # Packing

    def nodes(self) -> list[str]:
        """All groups and arrays below the root, parents before children."""
        return sorted(path for path, _ in self._root.members(max_depth=None))

    def packed(self, node: str) -> PackedArray | None:
        """The blocks of an array that is packed, by its metadata as they are now."""
        self._forget_array(node)
        return self._packed(node)

    def chunk(self, node: str, block: int) -> bytes | None:
        """A block's chunk as it is stored; None if it is missing."""
        if packed := self._packed(node):
            return packed.read(block)
        return self.place.read_bytes(f"{node}/{self._chunk_name(node, block)}")

    def make_packed(self, node: str, blocks_per_shard: int) -> None:
        """Write the metadata of a packed array in place of a loose one's: its blocks are loose until they are folded."""
        key = f"{node}/zarr.json"
        content = self.place.read_bytes(key)
        if content is None:
            raise KeyError(node)
        metadata = json.loads(content)
        if shards.blocks_per_shard(metadata) is None:
            self.place.write_bytes(key, json.dumps(shards.as_packed(metadata, blocks_per_shard), indent=2).encode())
        self._forget_array(node)

    def _pack_if_many(self, node: str) -> None:
        array = self._array(node)
        if not self._packed(node) and array.shape[0] > array.chunks[0] * MOST_LOOSE_BLOCKS:
            chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
            self.make_packed(node, shards.choose_blocks_per_shard(chunk_bytes, -(-array.shape[0] // array.chunks[0])))

    def _packed(self, node: str) -> PackedArray | None:
        self._array(node)
        return self._packed_arrays[node]

    def _forget_array(self, node: str) -> None:
        self._arrays.pop(node, None)
        self._packed_arrays.pop(node, None)

    def count_partials(self) -> int:
        return len(self.place.partials())

    def sweep_partials(self) -> int:
        """Delete the temporary files that killed writers left behind; returns how many. Object stores leave none."""
        leftovers = self.place.partials()
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)

    # Below: nodes, opened once in each process

    @property
    def place(self) -> "Place":
        if self._opened is None:
            if locations.scheme(self.path) == locations.HUB:
                from .hub import HubCommit

                self._opened = HubCommit(self.path)
            elif locations.scheme(self.path):
                from .bucket import open_bucket

                self._opened = open_bucket(self.path)
            else:
                self._opened = Folder(self.path)
        return self._opened

    @property
    def _root(self) -> zarr.Group:
        if self._group is None:
            with self._naming_damage(""):
                self._group = zarr.open_group(self.place.storage, mode="r+", zarr_format=3)
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
            metadata = array.metadata
            packed = isinstance(metadata, ArrayV3Metadata) and shards.blocks_per_shard(metadata.to_dict())
            if packed:
                metadata = ArrayV3Metadata.from_dict(shards.as_loose(metadata.to_dict()))
                array = zarr.Array(zarr.AsyncArray(metadata, array.store_path))
            # Chunks full of the fill value must be written too: an all-black block is done, not missing.
            # open_array(config=...) is silently ignored on an existing array in zarr 3.1.6; with_config works.
            array = array.with_config({"write_empty_chunks": True})
            self._packed_arrays[node] = self._open_packed(node, array, packed) if packed else None
            self._arrays[node] = array
        return self._arrays[node]

    def _open_packed(self, node: str, array: zarr.Array, blocks_per_shard: int) -> PackedArray:
        shape = ShapeOfArray.of(array, blocks_per_shard)
        if isinstance(self.place, Folder):
            return LocalPacked(self.place, node, shape)
        from .packed_remote import KeptSpans, RemotePacked

        self._spans = self._spans or KeptSpans()
        return RemotePacked(self.place, node, shape, self._spans)

    def _chunk_name(self, node: str, block: int) -> str:
        return "c." + ".".join([str(block)] + ["0"] * (self._array(node).ndim - 1))
