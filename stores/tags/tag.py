"""What a tag is, and where it is kept: a group ``tags/<name>`` with the manifest as an attribute, and the digests of all blocks.

The manifest says what was in the store, in numbers that depend neither on the backend nor on how chunks are compressed or packed:
of every array the sha256 over its blocks' digests, of every constant its sha256, and the identities of the recipe, the view
sets, the label sets, the columns and the rounds. Its own sha256, of the manifest as canonical JSON, is what a paper cites. The
digests show which blocks differ.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import layout
from ..chunks import Chunks
from ..errors import DamagedChunkError, DamagedMetadataError, NewerFormatError, UsageError
from ..identity import is_fingerprint
from ..reader import Reader

DIGESTS = "digests"  # the constant that holds them
DIGEST_BYTES = 32  # all zero: the block was not there
MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Tag:
    """What a store held when it was tagged."""

    name: str
    manifest: dict[str, Any]
    sha256: str  # of the manifest, 64 hex digits: depends on what was there alone, not on the tag's name or time
    created: str  # ISO 8601

    @property
    def num_images(self) -> int:
        """Images that the store had room for."""
        return self.manifest["num_images"]

    @property
    def images_made(self) -> int:
        """Images that were there."""
        return self.manifest["images_made"]

    @property
    def block_size(self) -> int:
        return self.manifest["block_size"]

    @property
    def num_blocks(self) -> int:
        return -(-self.num_images // self.block_size)

    @property
    def arrays(self) -> dict[str, dict[str, Any]]:
        """Node -> dtype, shape, number of blocks that were there, sha256."""
        return self.manifest["arrays"]

    @property
    def bytes(self) -> int:
        """Of the arrays, uncompressed, as if no block were missing."""
        every = (*self.arrays.values(), *self.manifest["constants"].values())
        return sum(math.prod(facts["shape"]) * np.dtype(facts["dtype"]).itemsize for facts in every)

    def block_ids(self, block: int) -> range:
        """The image ids of a block, as far as there were any."""
        return range(block * self.block_size, min((block + 1) * self.block_size, self.num_images))


def node_of(name: str) -> str:
    return f"{layout.TAGS}/{name}"


def digest(rows: np.ndarray) -> bytes:
    """The sha256 of rows (n, ...): C order, little-endian."""
    rows = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    return hashlib.sha256(rows.reshape(-1).view(np.uint8).data).digest()


def facts_of(constant: np.ndarray) -> dict[str, Any]:
    """What the manifest says of a constant."""
    return {"dtype": str(constant.dtype), "shape": list(constant.shape), "sha256": digest(constant).hex()}


def read_tags(store: Reader) -> dict[str, Tag]:
    """All tags of a store by name, sorted. One whose making was interrupted is left out."""
    tree = store.chunks.tree
    names = tree.children(layout.TAGS)
    found = zip(names, tree.map(lambda name: tree.attributes(node_of(name)), names), strict=True)
    return {
        name: Tag(name, its["manifest"], its.get("sha256", ""), its.get("created", ""))
        for name, its in found
        if its.get("manifest")
    }


def read_tag(store: Reader, name: str) -> Tag:
    """The tag of this name. Raises ``UsageError`` if there is none, ``DamagedMetadataError`` if it is not what was written,
    ``NewerFormatError`` if it is of a kind that this dmkd does not know."""
    tags = read_tags(store)
    if name not in tags:
        raise UsageError(
            f"{store.path} has no tag {name!r}; it has {', '.join(tags) or 'none'}. `dmkd tag {store.path} {name}` makes it."
        )
    tag = tags[name]
    if not is_fingerprint(tag.sha256, tag.manifest):
        raise DamagedMetadataError(
            f"Tag {name} of {store.path} is not what was written: its manifest gives another sha256. Bring its attributes back "
            f"from a copy, or make it again (`dmkd tag {store.path} {name} --replace`)."
        )
    if tag.manifest["version"] != MANIFEST_VERSION:
        raise NewerFormatError(f"Tag {name} of {store.path} was made by a newer dmkd: upgrade dmkd.")
    return tag


def read_digests(chunks: Chunks, tag: Tag) -> dict[str, np.ndarray]:
    """Node -> the digests of its blocks, uint8 (blocks, 32). Raises ``DamagedChunkError`` if they are not the manifest's."""
    node = f"{node_of(tag.name)}/{DIGESTS}"
    try:
        digests = dict(zip(sorted(tag.arrays), chunks.tree.read_constant(node), strict=True))
    except (ValueError, RuntimeError, KeyError) as error:
        raise DamagedChunkError(f"The digests of tag {tag.name} of {chunks.path} can't be read ({error}).") from error
    for array, facts in tag.arrays.items():
        if digest(digests[array]).hex() != facts["sha256"]:
            raise DamagedChunkError(f"The digests of tag {tag.name} of {chunks.path} are not those of its manifest.")
    return digests


def present(digests: np.ndarray) -> list[int]:
    """The blocks that were there, ascending, of digests uint8 (blocks, 32)."""
    return np.flatnonzero(digests.any(1)).tolist()
