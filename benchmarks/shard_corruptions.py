"""Corrupts a packed store in every way that its shards, and the loose blocks beside them, go bad; for corruptions.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from corruptions import Corruption, make_store

from dmkd.stores import Store, open_store, packing
from dmkd.stores.trees import shards
from dmkd.stores.trees.packed import DELETED

BLOCKS_PER_SHARD = 3

kinds = (
    "bit of a chunk",
    "bit of the index",
    "cut off",
    "zeroed",
    "shard deleted",
    "shards swapped",
    "shard of another store",
    "index points to another block",
    "index points outside",
    "index leaves a block out",
    "loose block damaged",
    "loose block of another block",
    "loose block of another store",
    "deleted marker",
    "deleted marker damaged",
)
DELETIONS = ("shard deleted", "index leaves a block out", "deleted marker")  # what was there is missing, and said to be
HARMLESS = "bit of padding"


def make_packed_store(path: Path | str, seed: int = 0) -> Store:
    """As :func:`corruptions.make_store`, of two shards an array."""
    store = make_store(path, seed, num_images=96)
    choose, packing.choose_blocks_per_shard = (
        packing.choose_blocks_per_shard,
        lambda chunk_bytes, blocks: BLOCKS_PER_SHARD,
    )
    try:
        packing.pack(store)
    finally:
        packing.choose_blocks_per_shard = choose
    return store


class Shard:
    """A shard's file, taken apart."""

    def __init__(self, folder: Path, number: int) -> None:
        (self.file,) = [file for file in folder.iterdir() if file.name.split(".")[0] == str(number)]
        self.ending = self.file.name.removeprefix(str(number))
        self.content = self.file.read_bytes()
        tail = self.content[-shards.index_bytes(BLOCKS_PER_SHARD) :]
        self.index = shards.parse_index(tail, BLOCKS_PER_SHARD, len(self.content)).copy()
        self.blocks = range(number * BLOCKS_PER_SHARD, (number + 1) * BLOCKS_PER_SHARD)

    def chunk(self, place: int) -> bytes:
        start, length = self.index[place].tolist()
        return self.content[start : start + length]

    def flipped(self, start: int, stop: int, rng: np.random.Generator) -> bytes:
        """With one bit from ``start`` to ``stop`` another."""
        content, at = bytearray(self.content), int(rng.integers(start, stop))
        content[at] ^= 1 << int(rng.integers(8))
        return bytes(content)

    def with_entry(self, place: int, start: int, length: int) -> bytes:
        """With another entry in the index, whose checksum is right."""
        index = self.index.copy()
        index[place] = start, length
        tail = index.astype("<u8").tobytes()
        return self.content[: -len(tail) - 4] + tail + google_crc32c.value(tail).to_bytes(4, "little")


def corrupt(store: Store, other: Store, rng: np.random.Generator, kind: str, node: str) -> Corruption:
    """Corrupt one shard of ``node``, or what is loose beside it. ``other``: a store of the same shape and other contents."""
    first, second = (Shard(Path(store.path) / node, int(number)) for number in rng.permutation(2))
    foreign = Shard(Path(other.path) / node, first.blocks.start // BLOCKS_PER_SHARD)
    place, neighbour = (int(p) for p in rng.permutation(BLOCKS_PER_SHARD)[:2])
    start, length = first.index[place].tolist()
    index_at = len(first.content) - shards.index_bytes(BLOCKS_PER_SHARD)
    one, all_of_it = (first.blocks[place],), tuple(first.blocks)
    loose = first.file.with_name(f"c.{one[0]}{first.ending}")
    chunk = bytearray(first.chunk(place))
    chunk[int(rng.integers(len(chunk)))] ^= 1 << int(rng.integers(8))
    gaps = [(int(begin + size), int(first.index[at + 1, 0])) for at, (begin, size) in enumerate(first.index[:-1])]
    outside = [(index_at, length), (start, 2**63), (2**64 - 2, 8), (index_at - 1, 2)][int(rng.integers(4))]
    change: dict[str, Callable[[], tuple[tuple[int, ...], dict[Path, bytes | None]]]] = {
        HARMLESS: lambda: ((), {first.file: first.flipped(*gaps[place % len(gaps)], rng)}),
        "bit of a chunk": lambda: (one, {first.file: first.flipped(start, start + length, rng)}),
        "bit of the index": lambda: (all_of_it, {first.file: first.flipped(index_at, len(first.content), rng)}),
        "cut off": lambda: (all_of_it, {first.file: first.content[: int(rng.integers(len(first.content)))]}),
        "zeroed": lambda: (all_of_it, {first.file: bytes(len(first.content))}),
        "shard deleted": lambda: (all_of_it, {first.file: None}),
        "shards swapped": lambda: (
            (*first.blocks, *second.blocks),
            {first.file: second.content, second.file: first.content},
        ),
        "shard of another store": lambda: (all_of_it, {first.file: foreign.content}),
        "index points to another block": lambda: (
            one,
            {first.file: first.with_entry(place, *first.index[neighbour].tolist())},
        ),
        "index points outside": lambda: (all_of_it, {first.file: first.with_entry(place, *outside)}),
        "index leaves a block out": lambda: (one, {first.file: first.with_entry(place, shards.ABSENT, shards.ABSENT)}),
        "loose block damaged": lambda: (one, {loose: bytes(chunk)}),
        "loose block of another block": lambda: (one, {loose: first.chunk(neighbour)}),
        "loose block of another store": lambda: (one, {loose: foreign.chunk(place)}),
        "deleted marker": lambda: (one, {loose: DELETED}),
        "deleted marker damaged": lambda: (one, {loose: DELETED[:-1] + b"x"}),
    }
    blocks, contents = change[kind]()
    before = {file: file.read_bytes() if file.exists() else None for file in contents}
    for file, content in contents.items():
        Corruption.put(file, content)
    return Corruption(kind, node, blocks, before, deletion=kind in DELETIONS)


def plan(nodes: list[str], count: int) -> list[tuple[str, str]]:
    """``count`` kinds and arrays, all of them in turn. Views alone say which images they are of, and not which store's: only the
    labels that were made of them prove that, so other stores' views are left out."""
    pairs = [
        (kind, node)
        for node in nodes
        for kind in kinds
        if not (node.startswith("views/") and kind.endswith("of another store"))
    ]
    return [pairs[number * 7 % len(pairs)] for number in range(count)]


def harmless(store: Store, other: Store, rng: np.random.Generator, read: Callable[[Store], Any]) -> dict[str, int]:
    """A bit of padding of each array -> how many were damaged, how many of these changed what a reader gets."""
    wanted, nodes, changed = read(store), store.array_nodes(), 0
    for node in nodes:
        corruption = corrupt(store, other, rng, HARMLESS, node)
        changed += read(open_store(store.path)) != wanted
        corruption.undo()
    return {"of_padding": len(nodes), "of_padding_noticed": changed}
