"""The store: images, views and labels of one recipe, read by image id in any order and written a block at a time."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from . import layout
from .checks import bind_views, image_checks, label_checks, quality_checks
from .codecs import Codec
from .errors import (
    DamagedChunkError,
    DamagedMetadataError,
    MissingBlockError,
    NewerFormatError,
    NotAStoreError,
    StoreWriteError,
    UsageError,
    write_error,
)
from .identity import fingerprint, refuse_mismatch
from .image_codecs import RAW, ImageCodec, parse_image_codec, stored_image_codec
from .rows import CheckRows, ClassRows, Ids, ImageRows, KeptChunks, Rows, by_block
from .run_log import RunLog, read_runs
from .sets import LabelSet, ViewSet
from .trees.tree import open_tree

if TYPE_CHECKING:
    from PIL.Image import Image
    from xarray import DataTree

    from .trees.tree import Tree


class Store:
    """A store in a folder, a bucket or an HDF5 file. Made by :func:`create_store`, opened by
    :func:`open_store`. Can be pickled to workers.

    ``images[ids]`` uint8 (n, H, W, 3) RGB · ``class_ids[ids]`` int32 (n,) · ``views[name][ids]`` float32 (n, V, P) ·
    ``labels[name].logits(ids)`` float32 (n, V, C). Every row is proved to be its image's before it is handed out; who
    reads chunk files past this class does it with ``checks[ids]`` uint32 (n, 2) and :func:`dmkd.stores.checks.image_checks`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._tree = open_tree(path)
        self._present: dict[str, set[int]] = {}
        self._kept = KeptChunks()
        self._label_sets: dict[str, LabelSet] = {}
        self._fitted: list[LabelSet] | None = None
        self._attributes: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Store({self.path!r}: {self.num_images} images of {'x'.join(map(str, self.image_shape))})"

    def _repr_html_(self) -> str:
        """A card for notebooks: what the store is, its labels, some images. Takes at most a second and raises nothing."""
        from .showing.html_card import html_card

        return html_card(self)

    # What the store is

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's attributes: recipe, identity, class names, versions ..."""
        if self._attributes is None:
            self._attributes = self._tree.attributes()
        return self._attributes

    @property
    def format(self) -> int:
        """The number of the format that the store is written in, see :mod:`dmkd.stores.layout`."""
        return layout.stored_format(self.attributes)

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
        return ImageRows(self, layout.IMAGES)

    @property
    def class_ids(self) -> Rows:
        return ClassRows(self, layout.CLASS_IDS)

    @property
    def checks(self) -> Rows:
        """uint32 (N, 2): what :func:`dmkd.stores.checks.image_checks` gives of each image."""
        return CheckRows(self, layout.CHECKS)

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

    # Looking

    def show(self, ids: Ids, labels: str | None = None, columns: int | None = None) -> "Image":
        """A contact sheet of these images, at most 400, as a Pillow image: a notebook shows it when it ends a cell.

        Captions have id, class, and the probability and entropy of the label set ``labels`` (None: the first that has labels
        of all of them). Small images are enlarged pixel by pixel. ``columns`` None: 8, or what fits.
        Raises ``UsageError`` for an unknown label set, ``MissingBlockError`` for images that have not been made.
        """
        from .showing.contact_sheet import show_images

        wanted = self.resolve_ids([int(ids)] if isinstance(ids, int | np.integer) else ids)
        return show_images(self, wanted.tolist(), self._labels_of(wanted, labels), columns)

    def to_xarray(self) -> "DataTree":
        """The store as an xarray DataTree, read lazily through this store, without dask.

        At the root ``images`` uint8 (image, y, x, channel) and ``class_ids`` int32 (image,); at ``/views/<name>`` ``views``
        float32 (image, view, component); at ``/labels/<name>`` ``logits`` float32 (image, view, class), decoded, and
        ``quality`` float32 (image, opinion). Attributes are those of the store. Reading rows raises as the store does.
        Raises ``UsageError`` if xarray is not installed.
        """
        from .showing.xarray_tree import to_xarray

        return to_xarray(self)

    def _labels_of(self, ids: np.ndarray, name: str | None) -> LabelSet | None:
        """The label set of this name; without a name the first that has labels of all these images, or None."""
        label_sets = self.labels
        if name is not None:
            if name not in label_sets:
                there = f"it has {', '.join(label_sets)}" if label_sets else "it has none"
                raise UsageError(f"{self.path} has no label set {name!r}; {there}.")
            return label_sets[name]
        blocks = set((ids // self.block_size).tolist())
        whole = (one for one in label_sets.values() if one.fitted and not blocks & set(one.missing_blocks()))
        return next(whole, None)

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
        """Write what is given of one block of n ids: views, then labels, then class ids and checks, images last.

        ``images`` uint8 (n, H, W, 3) and ``class_ids`` int32 (n,) go together; ``views`` name -> float32 (n, V, P); ``labels``
        name -> (what the codec takes, float32 logits (n, V, C) or features (n, V, d); float32 quality (n, 3)), of images and
        views that are given too or stored already. Everything is checked (shape, dtype, range, finite) before the
        first byte is written. What no longer holds counts as missing from then on: labels that were made from other images
        or views than these. Raises ``UsageError`` on wrong data, ``StoreWriteError`` if the disk fails.
        """
        if not 0 <= block < self.num_blocks:
            raise UsageError(f"{self.path} has blocks 0 to {self.num_blocks - 1}, there is no block {block}.")
        if (images is None) != (class_ids is None):
            raise UsageError("Images and their class ids are written together; nothing was written.")
        ids = np.array(self.block_ids(block))
        of_images, new_checks = self._image_arrays(ids, images, class_ids)
        of_views = self._view_arrays(ids, views or {})
        of_labels = self._label_arrays(block, ids, new_checks, of_views, labels or {})
        try:
            with self._tree.transaction():
                self._retire(block, ids, new_checks, of_views, of_labels)
                for node, rows in {**of_views, **of_labels, **of_images}.items():
                    self._write(node, block, rows)
        except OSError as error:
            raise write_error(f"block {block} of {self.path}", error) from error
        self._kept.forget([block])

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
        for part, spec in layout.label_specs(coder.arrays(label_set.num_views)).items():
            self._tree.create_array(f"{label_set.node}/{part}", spec, self.num_images, self.block_size)
        # The mark comes last: what was interrupted before it is done again.
        self._tree.set_attributes({"fitted": True}, label_set.node)
        self._fitted = None

    def grow(self, num_images: int) -> None:
        """Make room for more images of the same recipe. What is there stays as it is.

        A last block that is only partly used is deleted first, images before all else, so that it is made again whole:
        an image depends on its id alone, so its old pixels come back.
        """
        self.check_growth(num_images)
        if num_images == self.num_images:
            return
        nodes = self._array_nodes()
        with self._tree.transaction():
            if self.num_images % self.block_size:
                for node in nodes:
                    self._tree.delete_block(node, self.num_blocks - 1)
            # Images last: should this be interrupted, the store still has its old length and growing starts again.
            for node in reversed(nodes):
                if self._tree.shape(node)[0] != num_images:
                    self._tree.resize(node, num_images)
        self._present.clear()
        self._kept = KeptChunks()
        self.touch()

    def check_growth(self, num_images: int) -> None:
        """Raise ``UsageError`` if :meth:`grow` would."""
        if num_images < self.num_images:
            raise UsageError(
                f"{self.path} holds {self.num_images} images and can't shrink to {num_images}; "
                "ask for at least as many, or leave --images out."
            )

    @property
    def card(self) -> dict[str, Any]:
        """The data set's card: ``readme`` (Markdown) and ``licence``; {} if none was written. For people alone."""
        # An attribute and no file: Zarr warns of every file in a group that is none of its own, and other backends have none.
        try:
            return self._tree.attributes(layout.CARD)
        except KeyError:
            return {}

    def write_card(self, readme: str, licence: str) -> None:
        """Replace the card. Raises ``StoreWriteError`` if the disk fails."""
        try:
            self._tree.create_group(layout.CARD)
            self._tree.set_attributes({"readme": readme, "licence": licence}, layout.CARD)
        except OSError as error:
            raise StoreWriteError(f"Could not write the card of {self.path}: {error.strerror or error}.") from error

    def log_run(self, **facts: Any) -> RunLog:
        """A log of what this process is about to do; ``facts`` are JSON-able. Use it as a context."""
        return RunLog(self._tree, facts)

    def runs(self) -> list[dict[str, Any]]:
        """The runs that made blocks of this store, as :func:`dmkd.stores.run_log.read_runs` gives them."""
        return read_runs(self._tree)

    def sweep_partials(self) -> int:
        """Delete what killed writers left behind; returns the number of files."""
        return self._tree.sweep_partials()

    def touch(self, versions: Mapping[str, str] | None = None) -> None:
        """Set the time of the last change, and the versions of the libraries that made it."""
        self._tree.set_attributes({"updated": _now(), **({"versions": dict(versions)} if versions else {})})
        self._attributes = None

    # Below: what is written of one block, node -> rows in the order of writing

    def _image_arrays(
        self, ids: np.ndarray, images: np.ndarray | None, class_ids: np.ndarray | None
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Class ids, checks and images; and the checks once more. Nothing and None without images."""
        if images is None or class_ids is None:
            return {}, None
        class_ids = self._checked(layout.CLASS_IDS, class_ids, len(ids), "int32")
        if class_ids.min() < 0 or class_ids.max() >= self.num_classes:
            raise UsageError(
                f"Class ids of block {ids[0] // self.block_size} reach {class_ids.max()}; the store has {self.num_classes}."
            )
        images = self._checked(layout.IMAGES, images, len(ids), "uint8")
        checks = image_checks(ids, class_ids, self.as_stored(images))
        return {layout.CLASS_IDS: class_ids, layout.CHECKS: checks, layout.IMAGES: images}, checks

    def _view_arrays(self, ids: np.ndarray, views: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = {}
        for name, rows in views.items():
            node = f"{layout.VIEWS}/{name}"
            _, num_views, stored = self._tree.shape(node)
            arrays[node] = bind_views(ids, self._checked(node, rows, len(ids), "float32", (num_views, stored - 1)))
        return arrays

    def _label_arrays(
        self,
        block: int,
        ids: np.ndarray,
        new_checks: np.ndarray | None,
        new_views: Mapping[str, np.ndarray],
        labels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """Quality, checks and the codec's arrays of each label set."""
        if not labels:
            return {}
        of_images = self.checks.block(block) if new_checks is None else new_checks
        arrays: dict[str, np.ndarray] = {}
        for name, (values, quality) in labels.items():
            label_set = self._label_set(name)
            if values.shape[:2] != (len(ids), label_set.num_views):
                raise UsageError(
                    f"Block {block} of {label_set.node} takes {len(ids)} images of {label_set.num_views} views, "
                    f"not {values.shape[:2]}; nothing was written."
                )
            quality = self._checked(f"{label_set.node}/{layout.QUALITY}", quality, len(ids), "float32")
            encoded = label_set.coder.encode(values)
            for part, node in label_set.array_nodes.items():
                self._checked(node, encoded[part], len(ids), str(self._tree.dtype(node)))
            views = new_views.get(label_set.views_node)
            if views is None:
                views = self._read_small(label_set.views_node, ids)
            arrays[f"{label_set.node}/{layout.QUALITY}"] = quality
            arrays[label_set.checks_node] = label_checks(label_set.identity, ids, of_images, views, quality, encoded)
            arrays |= {node: encoded[part] for part, node in label_set.array_nodes.items()}
        return arrays

    def _retire(
        self,
        block: int,
        ids: np.ndarray,
        new_checks: np.ndarray | None,
        new_views: Mapping[str, np.ndarray],
        new_labels: Mapping[str, np.ndarray],
    ) -> None:
        """Delete the markers of what will not hold once the new rows are written: from here on, whatever happens, it counts
        as missing. What is written anew as it was keeps its marker, so that a block can be made twice."""
        made = new_checks is not None and self._tree.has_block(layout.IMAGES, block)
        if made and not self._holds(layout.CHECKS, block, new_checks):
            self._delete_marker(layout.IMAGES, block)
        if self._fitted is None:  # listed once: in a bucket every attribute that is read is a request
            self._fitted = [label_set for label_set in self.labels.values() if label_set.fitted]
        for label_set in self._fitted:
            if not self._tree.has_block(label_set.marker, block):
                continue
            if label_set.checks_node in new_labels:
                holds = self._holds(label_set.checks_node, block, new_labels[label_set.checks_node])
            else:
                views = new_views.get(label_set.views_node)
                holds = views is None or self._holds(label_set.views_node, block, views)
                holds = holds and (new_checks is None or self._labels_hold(label_set, block, ids, new_checks))
            if not holds:
                self._delete_marker(label_set.marker, block)

    def _labels_hold(self, label_set: LabelSet, block: int, ids: np.ndarray, new_checks: np.ndarray) -> bool:
        """Whether a block's labels were made from images of these checks: told by their own checks, since the image checks
        that are stored may be missing or damaged."""
        quality = self._stored(f"{label_set.node}/{layout.QUALITY}", block)
        stored = self._stored(label_set.checks_node, block)
        if quality is None or stored is None:
            return False
        return np.array_equal(quality_checks(label_set.identity, ids, new_checks, quality), stored[:, 0])

    def _holds(self, node: str, block: int, rows: np.ndarray | None) -> bool:
        """Whether a block's chunk is there and holds these rows."""
        stored = self._stored(node, block)
        return stored is not None and rows is not None and np.array_equal(stored, rows)

    def _stored(self, node: str, block: int) -> np.ndarray | None:
        """A block's rows as they are, or None if there are none or they can't be read."""
        try:
            return self._tree.read_block(node, block) if self._tree.has_block(node, block) else None
        except (ValueError, RuntimeError):
            return None

    def _delete_marker(self, node: str, block: int) -> None:
        self._tree.delete_block(node, block)
        self._present.get(node, set()).discard(block)

    # Below: one array, one block

    def _array_nodes(self) -> list[str]:
        """All arrays, images first, and of each label set the marker first."""
        nodes = [layout.IMAGES, layout.CHECKS, layout.CLASS_IDS]
        for label_set in filter(lambda label_set: label_set.fitted, self.labels.values()):
            nodes += reversed(label_set.array_nodes.values())
            nodes += [label_set.checks_node, f"{label_set.node}/{layout.QUALITY}"]
        return nodes + [view_set.node for view_set in self.views.values()]

    def _missing(self, node: str) -> list[int]:
        self._present[node] = self._tree.present_blocks(node)
        return [block for block in range(self.num_blocks) if block not in self._present[node]]

    def _require_blocks(self, node: str, blocks: Iterable[int]) -> None:
        for _ in range(2):  # a block may have been made since the last listing
            if absent := sorted(set(blocks) - self._present.get(node, set())):
                self._missing(node)
        if absent:
            raise MissingBlockError(
                f"Block {absent[0]} of {node} in {self.path} has not been made yet ({len(absent)} of the blocks asked "
                "for are missing): run the command that makes it (dmkd generate, import or label) again; "
                "if that finds nothing to do, run `dmkd verify --repair` first."
            )

    def _read(self, node: str, ids: np.ndarray) -> np.ndarray:
        """Rows as they are stored, not yet proved to be those of these ids, (n,)."""
        return self._gather(node, ids, self._decoded)

    def _read_small(self, node: str, ids: np.ndarray) -> np.ndarray:
        """As :meth:`_read`, of an array whose chunks are worth keeping in memory."""
        return self._gather(node, ids, self._kept_block)

    def _gather(self, node: str, ids: np.ndarray, read: Callable[[str, int], np.ndarray]) -> np.ndarray:
        if ids.size and (ids.min() < 0 or ids.max() >= self.num_images):
            bad = ids[(ids < 0) | (ids >= self.num_images)][0]
            raise UsageError(f"{self.path} has image ids 0 to {self.num_images - 1}, there is no {bad}.")
        places = dict(by_block(ids, self.block_size))
        self._require_blocks(node, places)
        rows = np.empty((len(ids), *self._tree.shape(node)[1:]), self._tree.dtype(node))

        def take(block: int) -> None:
            wanted = places[block]
            rows[wanted] = read(node, block)[ids[wanted] - block * self.block_size]

        self._tree.for_each(take, places)
        return rows

    def _read_block(self, node: str, block: int) -> np.ndarray:
        self._require_blocks(node, [block])
        return self._decoded(node, block)

    def _kept_block(self, node: str, block: int) -> np.ndarray:
        rows = self._kept.get(node, block)
        if rows is None:
            rows = self._decoded(node, block)
            self._kept.put(node, block, rows)
        return rows

    def _decoded(self, node: str, block: int) -> np.ndarray:
        try:
            return self._tree.read_block(node, block)
        except DamagedMetadataError:
            raise
        except (ValueError, RuntimeError) as error:
            raise DamagedChunkError(
                f"Chunk {self._tree.chunk_path(node, block)} is damaged ({error}): `dmkd verify --repair` deletes what "
                "is broken, so that the command that made it makes it again."
            ) from error

    def _checked(
        self, node: str, rows: np.ndarray, count: int, dtype: str, shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """``rows`` if they are exactly what the array takes, or each of them ``shape``. Neither zarr nor h5py checks: both
        broadcast or truncate."""
        expected = (count, *(self._tree.shape(node)[1:] if shape is None else shape))
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
            raise write_error(self._tree.chunk_path(node, block), error) from error


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
    if image_codec != RAW and not tree.image_files:
        raise UsageError(
            f"{path}: {tree.a_kind} holds pixels as they are; --image-codec {image_codec} is for Zarr stores."
        )
    if tree.exists():
        there = tree.attributes()
        if layout.stored_format(there) is not None:
            _refuse_other_formats(path, tree, there)
        if there.get("state") != "creating":
            raise UsageError(f"{path} is taken already; give another --store or delete it.")
    elif tree.taken():
        raise UsageError(f"{path} is there already and is no dmkd store; give another --store.")
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
    """Open a store. Raises ``NotAStoreError`` in one sentence if there is none at ``path``, ``NewerFormatError`` if a newer
    dmkd made it."""
    path = os.fspath(path)
    store = Store(path)
    tree = store._tree
    if not tree.exists():
        if not tree.taken():
            raise NotAStoreError(f"There is no store at {path}.")
        raise NotAStoreError(f"{path} is no dmkd store: it holds no {tree.kind}.")
    attributes = tree.attributes()
    _refuse_other_formats(path, tree, attributes)
    if attributes.get("state") != "ready":
        raise NotAStoreError(
            f"The making of {path} was interrupted before its first block: run the same command again."
        )
    return store


def store_exists(path: str) -> bool:
    """Whether :func:`open_store` would succeed, or would refuse for a reason that the user must hear."""
    tree = open_tree(path)
    return tree.exists() and tree.attributes().get("state") != "creating"


def _refuse_other_formats(path: str, tree: "Tree", attributes: Mapping[str, Any]) -> None:
    """Raise unless these are the attributes of a store in the format that this dmkd reads and writes."""
    found, known = layout.stored_format(attributes), layout.FORMAT_VERSION
    if found == known:
        return
    if found is None:
        raise NotAStoreError(f"{path} is no dmkd store: its {tree.kind} lacks the attribute {layout.FORMAT}.")
    if not isinstance(found, int) or found < known:
        raise NotAStoreError(f"{path} is no dmkd store: its attribute {layout.FORMAT} is {found!r}.")
    raise NewerFormatError(f"{path} has format {found}, this dmkd reads format {known}: upgrade dmkd.")


def _check_name(name: str, what: str) -> None:
    if not name or not all(c.isalnum() or c in "._-" for c in name) or name.startswith((".", "_")):
        raise UsageError(f"{name!r} can't name a {what}: use letters, digits, '.', '_' and '-'.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
