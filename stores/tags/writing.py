"""Making a tag: everything that it will cover is read, proved and hashed; it is there when its manifest is."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from .. import layout
from ..errors import StoreError, UsageError, write_error
from ..identity import fingerprint
from ..names import check_name
from ..reader import Reader
from ..run_log import utc_now
from ..verifying.finding import ERROR
from ..verifying.verifier import Verifier
from .covered import constants_of, descriptions_of, parts_of, reader_of
from .tag import DIGEST_BYTES, DIGESTS, MANIFEST_VERSION, Tag, digest, facts_of, node_of, present, read_tags

THREADS = 8  # hashing and reading mapped files leave Python to others

Result = TypeVar("Result")


def write_tag(
    store: Reader, name: str, advance: Callable[[int], object] = lambda blocks: None, *, replace: bool = False
) -> Tag:
    """Tag what a store holds now -> the tag; an existing one of this name if nothing has changed since.

    Everything is proved to be sound before it is tagged. A store that is unfinished can be tagged: the tag covers the blocks
    that are done. ``advance`` gets numbers of blocks. Raises ``UsageError`` if the name is taken by a tag of something else and
    not to be replaced, ``DamagedChunkError`` or ``StoreError`` if the store is damaged, ``StoreWriteError`` if the disk fails.
    """
    check_name(name, "tag")
    for finding in Verifier(store).attributes():
        if finding.severity == ERROR:
            raise StoreError(f"{store.path} is damaged and was not tagged ({finding.where}: {finding.sentence})")
    digests = _hash_blocks(store, advance)
    if not digests[layout.IMAGES].any():
        raise UsageError(f"{store.path} holds no images yet: there is nothing to tag.")
    tree, node = store.chunks.tree, node_of(name)
    constants = {constant: tree.read_constant(constant) for constant in constants_of(store)}
    manifest = {
        "version": MANIFEST_VERSION,
        **descriptions_of(store),
        "num_images": store.num_images,
        "images_made": sum(len(store.block_ids(block)) for block in present(digests[layout.IMAGES])),
        "block_size": store.block_size,
        "arrays": {
            array: {
                "dtype": str(store.chunks.dtype(array)),
                "shape": list(store.chunks.shape(array)),
                "blocks": len(present(these)),
                "sha256": digest(these).hex(),
            }
            for array, these in digests.items()
        },
        "constants": {constant: facts_of(values) for constant, values in constants.items()},
    }
    tag = Tag(name, manifest, fingerprint(manifest), utc_now())
    if not replace and (before := read_tags(store).get(name)):
        if before.sha256 != tag.sha256:
            raise UsageError(
                f"{store.path} has another tag {name}, of what it held on {before.created[:10]}: choose another name, or replace "
                f"it (--replace). `dmkd verify {store.path} --tag {name}` shows what has changed."
            )
        return before
    try:
        with tree.transaction():
            tree.create_group(layout.TAGS)
            tree.create_group(node)
            if tree.attributes(node):
                tree.set_attributes(
                    {"manifest": None}, node
                )  # from here on there is no tag, until all of the new one is
            tree.write_constant(f"{node}/{DIGESTS}", np.stack([digests[array] for array in sorted(digests)]))
            facts = {"manifest": manifest, "sha256": tag.sha256, "created": tag.created}
            tree.set_attributes(facts, node)
    except OSError as error:
        raise write_error(f"tag {name} of {store.path}", error) from error
    return tag


def _hash_blocks(store: Reader, advance: Callable[[int], object]) -> dict[str, np.ndarray]:
    """Node -> digests of its blocks, uint8 (blocks, 32), in the order of the arrays' names."""
    parts = parts_of(store)
    readers = {node: reader_of(store.chunks, node) for part in parts for node in part.nodes}
    digests = {node: np.zeros((store.num_blocks, DIGEST_BYTES), np.uint8) for node in sorted(readers)}

    def hash_block(block: int) -> None:
        ids = np.array(store.block_ids(block))
        for part in parts:
            if block in part.blocks:
                rows = {node: readers[node](block)[: len(ids)] for node in part.nodes}
                part.prove(ids, rows)
                for node, these in rows.items():
                    digests[node][block] = np.frombuffer(digest(these), np.uint8)

    for _ in on_threads(hash_block, range(store.num_blocks)):
        advance(1)
    return digests


def on_threads(work: Callable[[int], Result], blocks: Sequence[int]) -> Iterator[Result]:
    """The results of ``work``, which reads and hashes a block, in the order of ``blocks``."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, blocks)
