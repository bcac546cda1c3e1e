"""Shards: files that hold the chunks of many blocks, as Zarr's sharding codec has them.

A *packed* array has that codec in its metadata. Its inner chunks are the blocks, byte for byte what they are as files of their
own; a shard holds ``blocks_per_shard`` of them, one after the other, and ends in an index: for each block the offset and the
length of its chunk (uint64, little-endian; both 2**64 - 1 where there is none), then the index's crc32c. Chunks begin at
multiples of a page, small ones of a cache line, so that mapped rows are copied as fast as out of files of their own.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

SHARDING = "sharding_indexed"
SHARD_BYTES = 2**30
MOST_BLOCKS = 4096  # of a shard, so that no folder holds 10,000 loose blocks while it is filled
ABSENT = 2**64 - 1
PAGE, CACHE_LINE = 4096, 64
LARGE_BYTES = 64 * 2**10  # from which on a chunk begins at a page
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


def index_bytes(blocks_per_shard: int) -> int:
    return 16 * blocks_per_shard + 4


def parse_index(content: bytes, blocks_per_shard: int, shard_bytes: int) -> np.ndarray:
    """The index at the end of a shard of this size -> uint64 (blocks, 2): offsets and lengths. Raises ``ValueError`` if it is
    damaged or points outside the shard."""
    if len(content) != index_bytes(blocks_per_shard):
        raise ValueError(f"the shard is too short for the index of {blocks_per_shard:,} blocks")
    if google_crc32c.value(content[:-4]) != int.from_bytes(content[-4:], "little"):
        raise ValueError("stored and computed checksum of the shard's index do not match")
    index = np.frombuffer(content[:-4], "<u8").reshape(blocks_per_shard, 2)
    starts, lengths = index[blocks_in(index)].T
    room = np.uint64(shard_bytes - len(content))
    if (lengths > room).any() or (starts > room - lengths).any():
        raise ValueError("the shard's index points outside the shard")
    return index


def blocks_in(index: np.ndarray) -> np.ndarray:
    """Places in the shard, int64 (n,), of the blocks that an index has."""
    return np.flatnonzero(index[:, 0] != ABSENT)


def write_shard(file: BinaryIO, chunks: Iterable[bytes | None]) -> int:
    """Write a shard of these chunks, one for each of its blocks -> how many there are; None: the block is missing."""
    index, position = [], 0
    for chunk in chunks:
        if chunk is None:
            index.append((ABSENT, ABSENT))
            continue
        start = _aligned(position, len(chunk))
        file.write(bytes(start - position))
        file.write(chunk)
        index.append((start, len(chunk)))
        position = start + len(chunk)
    content = np.array(index, "<u8").tobytes()
    file.write(content + google_crc32c.value(content).to_bytes(4, "little"))
    return sum(start != ABSENT for start, _ in index)


def full_bytes(blocks: int, chunk_bytes: int, blocks_per_shard: int) -> int:
    """The size of a shard that holds ``blocks`` chunks of the same size."""
    stride = _aligned(chunk_bytes, chunk_bytes)
    return (blocks - 1) * stride + chunk_bytes + index_bytes(blocks_per_shard)


def choose_blocks_per_shard(chunk_bytes: float, blocks: int) -> int:
    """Blocks that make about a gigabyte, given the bytes of a typical chunk; of an array of few ``blocks``, which may grow, eight
    times as many as it has, as each takes 16 bytes in the index whether it is there or not."""
    return int(max(1, min(MOST_BLOCKS, 8 * blocks, SHARD_BYTES // max(1, chunk_bytes))))


def spans(index: np.ndarray, most_bytes: int) -> np.ndarray:
    """What is read together with each block of a shard by one request: uint64 (blocks, 2), where it begins and ends.

    Neighbouring chunks of ``most_bytes`` in all, or one chunk that is larger. Of a missing block: zeros.
    """
    found = np.zeros_like(index)
    places = blocks_in(index)
    places = places[np.argsort(index[places, 0], kind="stable")]
    first = 0
    for last in range(1, len(places) + 1):
        if last == len(places) or index[places[last]].sum() - index[places[first], 0] > most_bytes:
            found[places[first:last]] = index[places[first], 0], index[places[last - 1]].sum()
            first = last
    return found


def _aligned(position: int, chunk_bytes: int) -> int:
    to = PAGE if chunk_bytes >= LARGE_BYTES else CACHE_LINE
    return -(-position // to) * to


# An array's metadata (zarr.json), packed and loose


def blocks_per_shard(metadata: Mapping[str, Any]) -> int | None:
    """Of a packed array; None if it is not packed."""
    (codec, *others) = metadata["codecs"]
    if others or codec["name"] != SHARDING:
        return None
    return metadata["chunk_grid"]["configuration"]["chunk_shape"][0] // codec["configuration"]["chunk_shape"][0]


def as_packed(metadata: Mapping[str, Any], blocks: int) -> dict[str, Any]:
    """The metadata of a loose array, as it is once ``blocks`` of its blocks are one shard."""
    packed: dict[str, Any] = copy.deepcopy(dict(metadata))
    block_size, *others = packed["chunk_grid"]["configuration"]["chunk_shape"]
    packed["chunk_grid"]["configuration"]["chunk_shape"] = [blocks * block_size, *others]
    sharding = {
        "chunk_shape": [block_size, *others],
        "codecs": packed["codecs"],
        "index_codecs": _INDEX_CODECS,
        "index_location": "end",
    }
    packed["codecs"] = [{"name": SHARDING, "configuration": sharding}]
    # Shards are <shard>.0.0.0, loose blocks c.<block>.0.0.0: in one folder, and never taken for each other.
    packed["chunk_key_encoding"] = {"name": "v2", "configuration": {"separator": "."}}
    return packed


def as_loose(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of the array whose chunks are a packed array's loose blocks."""
    loose: dict[str, Any] = copy.deepcopy(dict(metadata))
    sharding = loose["codecs"][0]["configuration"]
    loose["chunk_grid"]["configuration"]["chunk_shape"] = sharding["chunk_shape"]
    loose["codecs"] = sharding["codecs"]
    loose["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": "."}}
    return loose
