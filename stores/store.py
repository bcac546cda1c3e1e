"""The store: images, views and labels of one recipe, read by image id in any order and written a block at a time."""

import errno
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from . import layout
from .codecs import Codec
from .errors import (
    DamagedChunkError,
    MissingBlockError,
    NotAStoreError,
    StoreWriteError,
    UsageError,
)
from .identity import fingerprint, refuse_mismatch
from .image_codecs import ImageCodec, parse_image_codec, stored_image_codec
from .sets import Ids, LabelSet, Rows, ViewSet
from .zarr_tree import ZarrTree


class Store:
    """A store in a folder or a bucket. Made by :func:`create_store`, opened by :func:`open_store`. Can be pickled to workers.

    ``images[ids]`` uint8 (n, H, W, 3) RGB · ``class_ids[ids]`` int32 (n,) · ``views[name][ids]`` float32 (n, V, P) ·
    ``labels[name].logits(ids)`` float32 (n, V, C).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._tree = ZarrTree(path)
        self._present: dict[str, set[int]] = {}
        self._label_sets: dict[str, LabelSet] = {}
        self._attributes: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Store({self.path!r}: {self.num_images} images of {'x'.join(map(str, self.image_shape))})"

    # What the store is

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's attributes: recipe, identity, class names, versions ..."""
        if self._attributes is None:
            self._attributes = self._tree.attributes()
        return self._attributes

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that determines the pixels."""
        return self.attributes["recipe"]

    @property
    def identity(self) -> str:
        """sha256 of the recipe."""
        return self.attributes["identity"]

    @property
    def source(self) -> str | None:
        """Where the generator was found when the store was made."""
        return self.attributes["source"]

    @property
    def class_names(self) -> list[str]:
        return self.attributes["class_names"]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def block_size(self) -> int:
        return self.attributes["block_size"]

    @property
    def image_codec(self) -> ImageCodec:
        """How pixels are written: raw, webp or jpeg."""
        return stored_image_codec(self.attributes.get("image_codec", "raw"))

    def as_stored(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 (n, H, W, 3) as a reader will get them when they have been written: what a teacher is to look at."""
        return self.image_codec.as_stored(images)

    @property
    def num_images(self) -> int:
        return self.images.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3)"""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def num_blocks(self) -> int:
        return -(-self.num_images // self.block_size)

    def block_ids(self, block: int) -> range:
        """The image ids of a block; the last block may hold fewer than ``block_size``."""
        return range(block * self.block_size, min((block + 1) * self.block_size, self.num_images))

    # Reading

    @property
    def images(self) -> Rows:
        return Rows(self, layout.IMAGES)

    @property
    def class_ids(self) -> Rows:
        return Rows(self, layout.CLASS_IDS)

    @property
    def views(self) -> dict[str, ViewSet]:
        """View sets by name."""
        return {name: ViewSet(self, name) for name in self._tree.children(layout.VIEWS)}

    @property
    def labels(self) -> dict[str, LabelSet]:
        """Label sets by name. One whose creation was interrupted is not there yet."""
        names = self._tree.children(layout.LABELS)
        return {n: LabelSet(self, n) for n in names if "identity" in self._tree.attributes(f"{layout.LABELS}/{n}")}

    def _label_set(self, name: str) -> LabelSet:
        """A fitted label set, kept: its constants are read once."""
        if name not in self._label_sets:
            self._label_sets[name] = LabelSet(self, name)
        return self._label_sets[name]

    def missing_blocks(self) -> list[int]:
        """Blocks whose images have not been made, ascending; read off the store itself by one listing."""
        return self._missing(layout.IMAGES)

    def resolve_ids(self, ids: Ids) -> np.ndarray:
        """Any way of naming ids -> int64 (n,); a boolean mask over all N images selects its true ones."""
        if isinstance(ids, slice):
            return np.arange(*ids.indices(self.num_images))
        array = np.asarray(ids)
        if array.dtype == bool:
            if array.shape != (self.num_images,):
                raise UsageError(f"A mask over image ids must have shape ({self.num_images},), not {array.shape}.")
            return np.flatnonzero(array)
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise UsageError(f"Image ids must be a list of whole numbers, not {array.dtype} of shape {array.shape}.")
        return array.astype(np.int64)

    # Writing

    def write_block(
        self,
        block: int,
        *,
        images: np.ndarray | None = None,
        class_ids: np.ndarray | None = None,
        views: Mapping[str, np.ndarray] | None = None,
        labels: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        """Write what is given of one block of n ids: views, then labels, then class ids, images last.

        ``images`` uint8 (n, H, W, 3); ``class_ids`` int32 (n,); ``views`` name -> float32 (n, V, P); ``labels`` name ->
        (what the codec takes, float32 logits (n, V, C) or features (n, V, d); float32 quality (n, 3)). Everything is
        checked (shape, dtype, range, finite) before the first byte is written. Raises ``UsageError`` on wrong data,
        ``StoreWriteError`` if the disk fails.
        """
        if not 0 <= block < self.num_blocks:
            raise UsageError(f"{self.path} has blocks 0 to {self.num_blocks - 1}, there is no block {block}.")
        count = len(self.block_ids(block))
        pending: list[tuple[str, np.ndarray]] = []
        for name, rows in (views or {}).items():
            node = f"{layout.VIEWS}/{name}"
            pending.append((node, self._checked(node, rows, count, "float32")))
        for name, (values, quality) in (labels or {}).items():
            label_set = self._label_set(name)
            if values.shape[:2] != (count, label_set.num_views):
                raise UsageError(
                    f"Block {block} of {label_set.node} takes {count} images of {label_set.num_views} views, "
                    f"not {values.shape[:2]}; nothing was written."
                )
            node = f"{label_set.node}/{layout.QUALITY}"
            pending.append((node, self._checked(node, quality, count, "float32")))
            for part, rows in label_set.coder.encode(values).items():
                node = label_set.array_nodes[part]
                pending.append((node, self._checked(node, rows, count, str(self._tree.dtype(node)))))
        if class_ids is not None:
            rows = self._checked(layout.CLASS_IDS, class_ids, count, "int32")
            if rows.min() < 0 or rows.max() >= self.num_classes:
                raise UsageError(f"Class ids of block {block} reach {rows.max()}; the store has {self.num_classes}.")
            pending.append((layout.CLASS_IDS, rows))
        if images is not None:
            pending.append((layout.IMAGES, self._checked(layout.IMAGES, images, count, "uint8")))
        for node, rows in pending:
            self._write(node, block, rows)

    def add_view_set(
        self, name: str, num_views: int, components: Sequence[str], description: Mapping[str, Any]
    ) -> None:
        """Make room for a view set, or check that the one of this name has the same description.

        ``description`` is everything that determines the views; its fingerprint is the view set's identity.
        """
        _check_name(name, "view set")
        description = {"components": list(components), "num_views": num_views, **description}
        node = f"{layout.VIEWS}/{name}"
        if name in self._tree.children(layout.VIEWS):
            stored = self._tree.attributes(node)
            refuse_mismatch(
                f"View set {name!r} of {self.path}",
                {key: stored.get(key) for key in stored if key != "identity"},
                description,
                "Leave the differing options out to use the store's views, or give the new set another name.",
            )
            return
        self._tree.create_group(layout.VIEWS)
        attributes = {**description, "identity": fingerprint({"store": self.identity, **description})}
        spec = layout.views_spec(num_views, len(components))
        self._tree.create_array(node, spec, self.num_images, self.block_size, attributes)

    def add_label_set(
        self, name: str, *, teacher: Mapping[str, Any], source: str, view_set: str, codec: Codec, num_classes: int
    ) -> None:
        """Begin a label set, or check that the one of this name has the same teacher, views and codec.

        A codec that must be fitted gets its arrays by :meth:`fit_label_set`, any other at once.
        ``teacher`` is what the teacher is (weights' hash, preprocessing), ``source`` where it was found: the latter is
        kept for later runs and is no part of the identity.
        """
        _check_name(name, "label set")
        views = self.views[view_set]
        description = {
            "teacher": dict(teacher),
            "view_set": view_set,
            "num_views": views.num_views,
            "codec": codec.to_json(),
            "num_classes": num_classes,
        }
        node = f"{layout.LABELS}/{name}"
        self._tree.create_group(layout.LABELS)
        self._tree.create_group(node)
        stored = self._tree.attributes(node)
        if "identity" in stored:
            refuse_mismatch(
                f"Label set {name!r} of {self.path}",
                {key: stored.get(key) for key in stored if key not in ("identity", "source", "fitted")},
                description,
                "Give the new labels another name (--name), or leave the differing options out.",
            )
            return
        identity = fingerprint({"store": self.identity, "views": views.identity, **description})
        self._tree.set_attributes({**description, "source": source, "identity": identity}, node)
        if not codec.needs:
            self.fit_label_set(name, codec.fit(num_classes))

    def fit_label_set(self, name: str, constants: Mapping[str, np.ndarray]) -> None:
        """Write the constants of a label set's codec and make room for its blocks; once only, they never change."""
        label_set = LabelSet(self, name)
        if label_set.fitted:
            raise UsageError(f"Label set {name!r} of {self.path} has its constants already.")
        coder = label_set.codec.bind(label_set.num_classes, constants)
        if constants:
            self._tree.create_group(f"{label_set.node}/{layout.CONSTANTS}")
        for part, values in constants.items():
            self._tree.write_constant(f"{label_set.node}/{layout.CONSTANTS}/{part}", values)
        for part, spec in {layout.QUALITY: layout.quality_spec(), **coder.arrays(label_set.num_views)}.items():
            self._tree.create_array(f"{label_set.node}/{part}", spec, self.num_images, self.block_size)
        # The mark comes last: what was interrupted before it is done again.
        self._tree.set_attributes({"fitted": True}, label_set.node)

    def grow(self, num_images: int) -> None:
        """Make room for more images of the same recipe. What is there stays as it is.

        A last block that is only partly used is deleted first, images before all else, so that it is made again whole:
        an image depends on its id alone, so its old pixels come back.
        """
        self.check_growth(num_images)
        if num_images == self.num_images:
            return
        nodes = self._array_nodes()
        if self.num_images % self.block_size:
            for node in nodes:
                self._tree.delete_block(node, self.num_blocks - 1)
        # Images last: should this be interrupted, the store still has its old length and growing starts again.
        for node in reversed(nodes):
            if self._tree.shape(node)[0] != num_images:
                self._tree.resize(node, num_images)
        self._present.clear()
        self.touch()

    def check_growth(self, num_images: int) -> None:
        """Raise ``UsageError`` if :meth:`grow` would."""
        if num_images < self.num_images:
            raise UsageError(
                f"{self.path} holds {self.num_images} images and can't shrink to {num_images}; "
                "ask for at least as many, or leave --images out."
            )

    def sweep_partials(self) -> int:
        """Delete what killed writers left behind; returns the number of files."""
        return self._tree.sweep_partials()

    def touch(self, versions: Mapping[str, str] | None = None) -> None:
        """Set the time of the last change, and the versions of the libraries that made it."""
        self._tree.set_attributes({"updated": _now(), **({"versions": dict(versions)} if versions else {})})
        self._attributes = None

    # Below: one array, one block

    def _array_nodes(self) -> list[str]:
        """All arrays, images first."""
        nodes = [layout.IMAGES, layout.CLASS_IDS]
        for label_set in filter(lambda label_set: label_set.fitted, self.labels.values()):
            nodes += [f"{label_set.node}/{layout.QUALITY}", *label_set.array_nodes.values()]
        return nodes + [view_set.node for view_set in self.views.values()]

    def _missing(self, node: str) -> list[int]:
        self._present[node] = self._tree.present_blocks(node)
        return [block for block in range(self.num_blocks) if block not in self._present[node]]

    def _require_blocks(self, node: str, blocks: np.ndarray) -> None:
        for _ in range(2):  # a block may have been made since the last listing
            if absent := sorted(set(blocks.tolist()) - self._present.get(node, set())):
                self._missing(node)
        if absent:
            raise MissingBlockError(
                f"Block {absent[0]} of {node} in {self.path} has not been made yet ({len(absent)} of the blocks asked "
                "for are missing): run the command that makes it (dmkd generate, import or label) again."
            )

    def _read(self, node: str, ids: np.ndarray) -> np.ndarray:
        if ids.size and (ids.min() < 0 or ids.max() >= self.num_images):
            bad = ids[(ids < 0) | (ids >= self.num_images)][0]
            raise UsageError(f"{self.path} has image ids 0 to {self.num_images - 1}, there is no {bad}.")
        blocks = ids // self.block_size
        self._require_blocks(node, np.unique(blocks))
        rows = np.empty((len(ids), *self._tree.shape(node)[1:]), self._tree.dtype(node))

        def read(block: int) -> None:
            wanted = blocks == block
            rows[wanted] = self._decoded(node, block)[ids[wanted] - block * self.block_size]

        self._tree.for_each(read, np.unique(blocks).tolist())
        return rows

    def _read_block(self, node: str, block: int) -> np.ndarray:
        self._require_blocks(node, np.array([block]))
        return self._decoded(node, block)

    def _decoded(self, node: str, block: int) -> np.ndarray:
        try:
            return self._tree.read_block(node, block)
        except (ValueError, RuntimeError) as error:
            raise DamagedChunkError(
                f"Chunk {self._tree.chunk_path(node, block)} is damaged ({error}): `dmkd verify --repair` deletes what "
                "is broken, so that the command that made it makes it again."
            ) from error

    def _checked(self, node: str, rows: np.ndarray, count: int, dtype: str) -> np.ndarray:
        """``rows`` if it is exactly what the array takes. Neither zarr nor h5py checks: both broadcast or truncate."""
        expected = (count, *self._tree.shape(node)[1:])
        if rows.shape != expected or rows.dtype != np.dtype(dtype):
            raise UsageError(
                f"{node} takes {dtype} of shape {expected} here, not {rows.dtype} of shape {rows.shape}; "
                "nothing was written."
            )
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            raise UsageError(f"What is to be written to {node} holds NaN or infinite values; nothing was written.")
        return rows

    def _write(self, node: str, block: int, rows: np.ndarray) -> None:
        try:
            self._tree.write_block(node, block, rows)
        except OSError as error:
            reason = {
                errno.ENOSPC: "the disk is full; free some space",
                errno.EDQUOT: "the disk quota is used up; free some space",
                errno.EROFS: "the file system is read-only",
                errno.EACCES: "there is no permission to write",
                errno.EFBIG: "the file would be larger than allowed here",
            }.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
            raise StoreWriteError(
                f"Could not write {self._tree.chunk_path(node, block)}: {reason}, then run the same command again; "
                "what was written before is whole."
            ) from error


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
) -> Store:
    """Make an empty store for ``num_images`` images of one recipe. ``block_size`` None: chosen by image size and count.

    ``source`` is where the generator was found: kept for later runs, no part of the identity. ``image_codec`` (raw, webp,
    jpeg:95) should be in the recipe too, as it may determine pixels.

    Raises ``UsageError`` if the path is taken by something else. A creation that was interrupted is done again.
    """
    if num_images < 1:
        raise UsageError(f"A store needs at least one image, not {num_images}.")
    block_size = block_size or layout.choose_block_size(num_images, image_shape)
    image_codec = str(parse_image_codec(image_codec))
    store = Store(path)
    tree = store._tree
    if tree.exists():
        if tree.attributes().get("state") != "creating":
            raise UsageError(f"{path} is taken already; give another --store or delete it.")
    elif tree.taken():
        raise UsageError(f"{path} is there already and is no dmkd store; give another --store.")
    try:
        tree.create_root()
        tree.set_attributes({"dmkd_format": layout.FORMAT_VERSION, "state": "creating"})
        for node, spec in {
            layout.CLASS_IDS: layout.class_ids_spec(),
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
                "block_size": block_size,
                "image_codec": image_codec,
                "created": _now(),
                "updated": _now(),
                "versions": dict(versions or {}),
            }
        )
    except OSError as error:
        raise StoreWriteError(f"Could not make a store at {path}: {error.strerror or error}.") from error
    return store


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store. Raises ``NotAStoreError`` in one sentence if there is none at ``path``."""
    path = os.fspath(path)
    store = Store(path)
    tree = store._tree
    if not tree.exists():
        if not tree.taken():
            raise NotAStoreError(f"There is no store at {path}.")
        raise NotAStoreError(f"{path} is no dmkd store: it holds no Zarr v3 group.")
    attributes = tree.attributes()
    if "dmkd_format" not in attributes:
        raise NotAStoreError(f"{path} is a Zarr group, but no dmkd store.")
    if attributes["dmkd_format"] != layout.FORMAT_VERSION:
        raise NotAStoreError(
            f"{path} is written in dmkd format {attributes['dmkd_format']}; this version reads {layout.FORMAT_VERSION}."
        )
    if attributes.get("state") != "ready":
        raise NotAStoreError(
            f"The making of {path} was interrupted before its first block: run the same command again."
        )
    return store


def store_exists(path: str) -> bool:
    """Whether :func:`open_store` would succeed, or would refuse for a reason that the user must hear."""
    tree = ZarrTree(path)
    return tree.exists() and tree.attributes().get("state") != "creating"


def _check_name(name: str, what: str) -> None:
    if not name or not all(c.isalnum() or c in "._-" for c in name) or name.startswith((".", "_")):
        raise UsageError(f"{name!r} can't name a {what}: use letters, digits, '.', '_' and '-'.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
