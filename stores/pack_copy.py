"""A packed copy of a store, in another folder or in a bucket: shards are written as such, and no chunk is decoded."""

import json
from functools import partial

from .convert import begin
from .create import open_store
from .errors import DamagedChunkError, UsageError, write_error
from .packing import Advance, packable, refuse_at_work, soundness_of, typical_chunk_bytes
from .store import Store
from .trees import shards
from .trees.tree import open_tree
from .trees.zarr_tree import ZarrTree


def chunks_to_copy(store: Store) -> int:
    """How many chunks :func:`pack_copy` handles. Raises ``UsageError`` for a store that can't be packed."""
    return sum(len(packable(store).present_blocks(node)) for node in store.array_nodes())


def pack_copy(source: Store, path: str, advance: Advance = lambda chunks: None) -> Store:
    """Copy a Zarr store to ``path``, packed -> the copy. ``advance`` is told numbers of chunks.

    After an interruption the same call goes on with the shards that are missing; if ``source`` has changed meanwhile, with all of
    them. Raises ``UsageError`` if the path is taken or no Zarr store's, or if another process is writing ``source``,
    ``DamagedChunkError`` if ``source`` is damaged, ``StoreWriteError`` if the disk fails.
    """
    tree, target = packable(source), open_tree(path)
    if not isinstance(target, ZarrTree):
        raise UsageError(f"{path}: {target.a_kind} has no shards; `dmkd convert` makes one.")
    refuse_at_work(source)
    begin(source, target, path)
    try:
        target.sweep_partials()
        changed = {"updated": tree.attributes().get("updated")}
        if target.attributes().get("updated") != changed["updated"]:
            for node in source.array_nodes():
                for name in target.place.names(node):
                    target.place.remove(f"{node}/{name}")
            target.set_attributes(changed)
        _copy_metadata(source, tree, target)
        for node in source.array_nodes():
            packed = target.packed(node)
            assert packed is not None
            try:
                read = partial(tree.chunk, node)
                for count in packed.fill(tree.chunk_bytes(node), read, soundness_of(packed)):
                    advance(count)
            except ValueError as error:
                raise DamagedChunkError(
                    f"{source.path} can't be copied ({error}): run `dmkd verify {source.path} --repair` first."
                ) from error
        target.set_attributes(tree.attributes())  # the state among them, so this comes last
    except OSError as error:
        raise write_error(path, error) from error
    return open_store(path)


def _copy_metadata(source: Store, tree: ZarrTree, target: ZarrTree) -> None:
    """Groups, constants, and the arrays of blocks as they are once they are packed."""
    arrays = source.array_nodes()
    for node in tree.nodes():
        content = tree.place.read_bytes(f"{node}/zarr.json")
        assert content is not None
        if node in arrays:
            metadata = json.loads(content)
            if shards.blocks_per_shard(metadata) is None:
                count = shards.choose_blocks_per_shard(typical_chunk_bytes(tree, node), source.num_blocks)
                content = json.dumps(shards.as_packed(metadata, count), indent=2).encode()
            if target.place.read_bytes(f"{node}/zarr.json") is None:
                target.place.write_bytes(f"{node}/zarr.json", content)
            continue
        target.place.write_bytes(f"{node}/zarr.json", content)
        if json.loads(content)["node_type"] == "array":
            for name in tree.place.sizes(node):
                chunk = tree.place.read_bytes(f"{node}/{name}")
                if chunk is not None and name != "zarr.json":
                    target.place.write_bytes(f"{node}/{name}", chunk)
