"""Packing a store: its blocks, a file each, become shards of about a gigabyte that are mapped and read as before.

A store stays packed: blocks that are made later are loose until they are folded into shards, at the end of the run that made
them or by the next :func:`pack`. Whoever reads through dmkd sees them all the time; other readers of Zarr see what is in shards.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from .at_work import RunsAtWork
from .errors import DamagedChunkError, DmkdError, UsageError, write_error
from .store import Store
from .trees.shards import choose_blocks_per_shard

if TYPE_CHECKING:
    from .trees.packed import PackedArray
    from .trees.zarr_tree import ZarrTree

FOLD_EVERY = 512  # blocks that are made, between two looks for full shards

Advance = Callable[[int], object]


def is_packed(store: Store) -> bool:
    """Whether every block of the store is in a shard."""
    tree = zarr_tree(store)
    return tree is not None and all((p := tree.packed(node)) and not p.loose() for node in store.array_nodes())


def chunks_to_pack(store: Store) -> int:
    """How many chunks :func:`pack` would put into shards. Raises ``UsageError`` for a store that can't be packed."""
    return sum(len(_loose(packable(store), node)) for node in store.array_nodes())


def count_files(store: Store) -> int:
    """Files, or objects, of the store's arrays, groups and constants."""
    tree = packable(store)
    nodes = ["", *tree.nodes()]
    return sum(len(tree.place.names(node)) for node in nodes) - len(nodes) + 1  # a node's name is its group's too


def pack(store: Store, advance: Advance = lambda chunks: None) -> None:
    """Put every block into a shard, in place. ``advance`` is told numbers of chunks.

    Needs the space of one shard beside the store. If it is killed nothing is lost: the store can be read, by dmkd alone, and
    the same call goes on. Raises ``UsageError`` for a store that is no Zarr store or that another process is writing,
    ``StoreWriteError`` if the disk fails, ``DamagedChunkError`` at the end if there were damaged chunks: their shards were left
    as they are.
    """
    tree = packable(store)
    store.require_writable()
    refuse_at_work(store)
    try:
        tree.sweep_partials()
        for node in store.array_nodes():
            tree.make_packed(node, choose_blocks_per_shard(typical_chunk_bytes(tree, node), store.num_blocks))
        _fold(store, tree, only_full=False, advance=advance)
    except OSError as error:
        raise write_error(store.path, error) from error
    store.touch()


def refuse_at_work(store: Store) -> None:
    """Raise ``UsageError`` if another process is writing the store."""
    if others := RunsAtWork(store.chunks.tree).besides(""):
        raise UsageError(f"{store.path} is being written by {others[0]}: pack it when that has ended.")


def fold_packed(store: Store) -> None:
    """At the end of a run: put loose blocks of arrays that are packed into shards. Does nothing to a store that is not. While
    other runs are at work, only full shards are written: the last one to end writes the others."""
    tree = zarr_tree(store)
    if tree is not None and any(tree.packed(node) for node in store.array_nodes()):
        try:
            _fold(store, tree, only_full=bool(RunsAtWork(tree).besides("")), advance=lambda chunks: None)
        except OSError as error:
            raise write_error(store.path, error) from error


class Folding:
    """While blocks are being made: puts those of full shards into them from time to time, in a thread of its own. A context.

    What fails here is left for the end of the run, which says so.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._tree = store, zarr_tree(store)
        self._blocks = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Folding":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread:
            self._thread.join()

    def block_done(self) -> None:
        """One more block has been made."""
        self._blocks += 1
        if self._tree is None or self._blocks % FOLD_EVERY or (self._thread and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._fold, name="dmkd-folding")
        self._thread.start()

    def _fold(self) -> None:
        assert self._tree is not None
        with suppress(DmkdError, OSError):
            _fold(Store(self._store.path), self._tree, only_full=True, advance=lambda chunks: None)


def zarr_tree(store: Store) -> "ZarrTree | None":
    """The store's tree if it is one whose arrays can be packed."""
    from .trees.zarr_tree import ZarrTree

    tree = store.chunks.tree
    return tree if isinstance(tree, ZarrTree) else None


def packable(store: Store) -> "ZarrTree":
    tree = zarr_tree(store)
    if tree is None:
        raise UsageError(f"{store.path} is {store.chunks.tree.a_kind}: only a Zarr store has files to pack.")
    return tree


def _fold(store: Store, tree: "ZarrTree", only_full: bool, advance: Advance) -> None:
    damaged: list[str] = []
    for node in store.array_nodes():
        if packed := tree.packed(node):
            blocks = packed.fold(soundness_of(packed), only_full, advance)
            damaged += [tree.chunk_path(node, block) for block in blocks]
    if damaged:
        raise DamagedChunkError(
            f"{len(damaged)} damaged chunks of {store.path} were not packed, nor were their neighbours (the first is "
            f"{damaged[0]}): run `dmkd verify --repair`, rerun the command that made them, then `dmkd pack` again."
        )


def soundness_of(packed: "PackedArray") -> Callable[[bytes], bool]:
    """Whether a chunk is what was written: each ends in its crc32c."""
    size = packed.shape.chunk_bytes

    def check(chunk: bytes) -> bool:
        right_size = size is None or len(chunk) == size
        return right_size and google_crc32c.value(chunk[:-4]) == int.from_bytes(chunk[-4:], "little")

    return check


def _loose(tree: "ZarrTree", node: str) -> set[int]:
    packed = tree.packed(node)
    return packed.loose() if packed else tree.present_blocks(node)


def typical_chunk_bytes(tree: "ZarrTree", node: str) -> float:
    """The mean of those that are there; of none, what they are uncompressed."""
    sizes = list(tree.chunk_bytes(node).values())
    return float(np.mean(sizes)) if sizes else _raw_chunk_bytes(tree, node)


def _raw_chunk_bytes(tree: "ZarrTree", node: str) -> float:
    shape, block_size = tree.shape(node), tree.attributes()["block_size"]
    return float(block_size * np.prod(shape[1:]) * tree.dtype(node).itemsize)
