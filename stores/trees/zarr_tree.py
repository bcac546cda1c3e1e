"""A :class:`dmkd.stores.trees.tree.Tree` in Zarr v3: in a folder, in a bucket, or on the Hugging Face hub."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr
import zarr.errors
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.core.sync import sync
from zarr.errors import ContainsGroupError

from .. import image_chunks, locations  # noqa: F401  # image_chunks registers its codecs with zarr
from ..errors import DamagedMetadataError
from ..image_codecs import parse_image_codec
from ..layout import ArraySpec
from . import shards
from .folder import Folder
from .packed import PackedArray
from .packed_remote import KeptSpans
from .zarr_array import ZarrArray

if TYPE_CHECKING:
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
        self._arrays: dict[str, ZarrArray] = {}
        self._kept: KeptSpans | None = None
        self._opening = Lock()
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

    def create_group(self, node: str, attributes: Mapping[str, Any] | None = None) -> None:
        if attributes is None:
            self._root.require_group(node)
            return
        try:
            self._root.create_group(node, attributes=dict(attributes))
        except ContainsGroupError:
            self.set_attributes(attributes, node)

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
        self._arrays.pop(node, None)
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
        return np.asarray(self._array(node).loose[...])

    def shape(self, node: str) -> tuple[int, ...]:
        return self._array(node).loose.shape

    def dtype(self, node: str) -> np.dtype:
        return self._array(node).loose.dtype

    def resize(self, node: str, num_rows: int) -> None:
        array = self._node(node)  # read again: zarr writes the attributes anew, as they were when the array was opened
        assert isinstance(array, zarr.Array)
        array.resize((num_rows, *array.shape[1:]))
        self._arrays.pop(node, None)
        self._pack_if_many(node)

    # Blocks

    def present_blocks(self, node: str) -> set[int]:
        """Blocks whose chunk exists, by one listing (zarr's ``nchunks_initialized`` is quadratic)."""
        present = self._array(node).present()
        if present is None:  # another process has packed it
            self._arrays.pop(node)
            present = self._array(node).present()
        return present or set()

    def chunk_bytes(self, node: str) -> dict[int, int]:
        """Block -> bytes of its chunk as it is stored, of those that exist, by one listing."""
        return self._array(node).chunk_bytes()

    def has_block(self, node: str, block: int) -> bool:
        array = self._array(node)
        return array.packed.has(block) if array.packed else sync(self._root.store.exists(array.key(block)))

    def write_block(self, node: str, block: int, rows: np.ndarray) -> None:
        """Write a block's rows as one chunk, atomically. The caller has checked shape and dtype."""
        self._array(node).write(block, rows)

    def read_block(self, node: str, block: int) -> np.ndarray:
        """The rows of one block. A wrong checksum is a ``ValueError``; the caller says which chunk it was."""
        return self._array(node).read(block)

    def look_again(self) -> None:
        """Read metadata, listings and indices anew."""
        self._arrays.clear()
        self._kept = None

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
        array = self._array(node)
        if array.packed:
            array.packed.delete(block)
        else:
            sync(self._root.store.delete(array.key(block)))

    def chunk_path(self, node: str, block: int) -> str:
        """Where a block's chunk is, for messages."""
        return self._array(node).path(block)

    def is_chunk_file(self, node: str, block: int) -> bool:
        """Whether a user can copy and delete this chunk alone, at its :meth:`chunk_path`."""
        return self._array(node).is_file(block)

    def has_plain_files(self, node: str) -> bool:
        """Whether each chunk is in a local file: the rows as they are in memory here, in C order, then their crc32c."""
        return self._array(node).has_plain_files

    def mapped_chunk(self, node: str, block: int) -> np.ndarray:
        """A chunk of an array that :meth:`has_plain_files`, uint8, mapped from its file."""
        for _ in range(2):
            if (chunk := self._array(node).mapped(block)) is not None:
                return chunk
            self._arrays.pop(node, None)  # another process may have packed it
        raise FileNotFoundError(self.chunk_path(node, block))

    # Packing

    def nodes(self) -> list[str]:
        """All groups and arrays below the root, parents before children."""
        return sorted(path for path, _ in self._root.members(max_depth=None))

    def packed(self, node: str) -> PackedArray | None:
        """The blocks of an array that is packed, by its metadata as they are now."""
        self._arrays.pop(node, None)
        return self._array(node).packed

    def chunk(self, node: str, block: int) -> bytes | None:
        """A block's chunk as it is stored; None if it is missing."""
        return self._array(node).chunk(block)

    def make_packed(self, node: str, blocks_per_shard: int) -> None:
        """Write the metadata of a packed array in place of a loose one's: its blocks are loose until they are folded."""
        key = f"{node}/zarr.json"
        content = self.place.read_bytes(key)
        if content is None:
            raise KeyError(node)
        metadata = json.loads(content)
        if shards.blocks_per_shard(metadata) is None:
            self.place.write_bytes(key, json.dumps(shards.as_packed(metadata, blocks_per_shard), indent=2).encode())
        self._arrays.pop(node, None)

    def _pack_if_many(self, node: str) -> None:
        array = self._array(node)
        blocks = -(-array.loose.shape[0] // array.block_size)
        if not array.packed and blocks > MOST_LOOSE_BLOCKS:
            chunk_bytes = math.prod(array.loose.chunks) * array.loose.dtype.itemsize
            self.make_packed(node, shards.choose_blocks_per_shard(chunk_bytes, blocks))

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

    def _array(self, node: str) -> ZarrArray:
        with self._opening:  # threads that begin together ask a bucket once
            array = self._arrays.get(node)
            if array is None:
                found = self._node(node)
                if not isinstance(found, zarr.Array):
                    raise KeyError(f"{node} is not an array")
                self._kept = self._kept or KeptSpans()
                array = self._arrays[node] = ZarrArray(self.place, node, found, self._kept)
            return array
