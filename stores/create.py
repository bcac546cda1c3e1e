"""Creating a store, opening one, and refusing paths that hold none or one of another format."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from . import layout
from .errors import NewerFormatError, NotAStoreError, StoreWriteError, UsageError
from .identity import fingerprint
from .image_codecs import RAW, parse_image_codec
from .run_log import utc_now
from .store import Store
from .trees.tree import Tree, open_tree

PULLING = "pulling"  # the root's state while a copy is coming from the hub


def create_store(
    path: str,
    *,
    recipe: Mapping[str, Any],
    num_images: int,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    block_size: int | None = None,
    versions: Mapping[str, str] | None = None,
    source: str | None = None,
    image_codec: str = "raw",
    class_wnids: Sequence[str] | None = None,
) -> Store:
    """Make an empty store for ``num_images`` images of one recipe. ``block_size`` None: chosen by image size.

    ``source`` is where the generator was found: kept for later runs, not part of the identity. ``image_codec`` (raw, webp,
    jpeg:95) should be in the recipe too, as it may determine pixels. ``class_wnids``: the classes' WordNet ids, by which
    ImageNet's folders are named.

    Raises ``UsageError`` if the path is taken by something else. A creation that was interrupted starts over.
    """
    if num_images < 1:
        raise UsageError(f"A store needs at least one image, not {num_images}.")
    block_size = block_size or layout.choose_block_size(image_shape)
    image_codec = str(parse_image_codec(image_codec))
    store = Store(path)
    tree = store.chunks.tree
    if image_codec != RAW and not tree.image_files:
        raise UsageError(f"{path}: {tree.a_kind} holds raw pixels; --image-codec {image_codec} is for Zarr stores.")
    if tree.exists():
        there = tree.attributes()
        if layout.stored_format(there) is not None:
            _refuse_other_formats(path, tree, there)
        if there.get("state") != "creating":
            raise UsageError(f"{path} already exists; give another --store or delete it.")
    elif tree.taken():
        raise UsageError(f"{path} already exists and is not a dmkd store; give another --store.")
    try:
        tree.create_root()
        tree.set_attributes({layout.FORMAT: layout.FORMAT_VERSION, "state": "creating"})
        for node, spec in {
            layout.CLASS_IDS: layout.class_ids_spec(),
            layout.CHECKS: layout.checks_spec(),
            layout.IMAGES: layout.images_spec(image_shape, image_codec),
        }.items():
            tree.create_array(node, spec, num_images, block_size)
        tree.set_attributes(
            {
                "state": "ready",
                "recipe": dict(recipe),
                "identity": fingerprint(recipe),
                "source": source,
                "class_names": list(class_names),
                **({"class_wnids": list(class_wnids)} if class_wnids is not None else {}),
                "block_size": block_size,
                "image_codec": image_codec,
                "created": utc_now(),
                "updated": utc_now(),
                "versions": dict(versions or {}),
            }
        )
    except OSError as error:
        raise StoreWriteError(f"Could not make a store at {path}: {error.strerror or error}.") from error
    return store


def begin_anew(store: Store) -> None:
    """Let :func:`create_store` replace a store that was made for other images than there turn out to be.

    Raises ``UsageError`` if it has a block or a label set already.
    """
    if store.labels or len(store.missing_blocks()) < store.num_blocks:
        raise UsageError(f"{store.path} holds images or labels: delete it, or give another --store.")
    store.chunks.tree.set_attributes({"state": "creating"})


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store. Raises ``NotAStoreError`` in one sentence if there is none at ``path``, ``NewerFormatError`` if a newer
    dmkd made it."""
    path = os.fspath(path)
    store = Store(path)
    tree = store.chunks.tree
    if not tree.exists():
        if not tree.taken():
            raise NotAStoreError(f"There is no store at {path}.")
        raise NotAStoreError(f"{path} is not a dmkd store: it holds no {tree.kind}.")
    attributes = tree.attributes()
    _refuse_other_formats(path, tree, attributes)
    if attributes.get("state") == PULLING:
        raise NotAStoreError(f"{path} was not pulled to its end: rerun the same `dmkd pull` to complete it.")
    if attributes.get("state") != "ready":
        raise NotAStoreError(f"Creating {path} was interrupted before its first block: rerun the same command.")
    return store


def store_exists(path: str) -> bool:
    """Whether :func:`open_store` would succeed, or would refuse for a reason that the user needs to see."""
    tree = open_tree(path)
    return tree.exists() and tree.attributes().get("state") != "creating"


def _refuse_other_formats(path: str, tree: Tree, attributes: Mapping[str, Any]) -> None:
    """Raise unless these are the attributes of a store in the format that this dmkd reads and writes."""
    found, known = layout.stored_format(attributes), layout.FORMAT_VERSION
    if found == known:
        return
    if found is None:
        raise NotAStoreError(f"{path} is not a dmkd store: its {tree.kind} lacks the attribute {layout.FORMAT}.")
    if not isinstance(found, int) or found < known:
        raise NotAStoreError(f"{path} is not a dmkd store: its attribute {layout.FORMAT} is {found!r}.")
    raise NewerFormatError(f"{path} has format {found}, but this dmkd reads format {known}: upgrade dmkd.")
