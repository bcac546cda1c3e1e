"""The store: a :class:`~dmkd.stores.reader.Reader` that is also written, a block at a time."""

import errno
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from . import layout, locations
from .chunks import Ids
from .codecs import Codec
from .column_writing import add_column, remove_column
from .errors import StoreWriteError, UsageError, write_error
from .identity import fingerprint, refuse_mismatch
from .names import check_name
from .reader import Reader
from .round_writing import COLUMN_DESCRIPTIONS, add_round
from .run_log import RunLog, utc_now
from .sets import LabelSet
from .writing import new_block, write

if TYPE_CHECKING:
    from PIL.Image import Image
    from xarray import DataTree


class Store(Reader):
    """A store in a folder, a bucket or an HDF5 file. Made by :func:`create_store`, opened by
    :func:`open_store`. Can be pickled to workers.

    ``images[ids]`` uint8 (n, H, W, 3) RGB · ``class_ids[ids]`` int32 (n,) · ``views[name][ids]`` float32 (n, V, P) ·
    ``labels[name].logits(ids)`` float32 (n, V, C), and everything else of a :class:`~dmkd.stores.reader.Reader`. Blocks are
    seen as soon as they are written; view and label sets as they were at this object's first look, last addition or refresh.
    """

    # Looking

    def _repr_html_(self) -> str:
        """A card for notebooks: what the store is, its labels, some images. Takes at most a second and never raises."""
        from .showing.html_card import html_card

        return html_card(self)

    def show(self, ids: Ids, labels: str | None = None, columns: int | None = None) -> "Image":
        """A contact sheet of these images, at most 400, as a Pillow image: a notebook shows it when it ends a cell.

        Captions have id, class, and the probability and entropy of the label set ``labels`` (None: the first that has labels
        for all of them). Small images are enlarged pixel by pixel. ``columns`` None: 8, or what fits.
        Raises ``UsageError`` for an unknown label set, ``MissingBlockError`` for images that have not been made.
        """
        from .showing.contact_sheet import show_images

        return show_images(self, ids, labels, columns)

    def browse(self) -> Any:
        """The page of ``dmkd browse`` as a widget, at the end of a notebook cell: images, views and labels to look through.

        Raises ``UsageError`` if anywidget is not installed."""
        # By name, at use: stores are read without the packages that render views.
        return import_module("dmkd.browse").widget([self.path])

    def to_xarray(self) -> "DataTree":
        """The store as an xarray DataTree, read lazily through this store, without dask.

        At the root ``images`` uint8 (image, y, x, channel) and ``class_ids`` int32 (image,); at ``/views/<name>`` ``views``
        float32 (image, view, component); at ``/labels/<name>`` ``logits`` float32 (image, view, class), decoded, and
        ``quality`` float32 (image, opinion). Attributes are those of the store. Reading rows raises as the store does.
        Raises ``UsageError`` if xarray is not installed.
        """
        from .showing.xarray_tree import to_xarray

        return to_xarray(self)

    # Writing

    def write_block(
        self,
        block: int,
        *,
        images: np.ndarray | None = None,
        class_ids: np.ndarray | None = None,
        views: Mapping[str, np.ndarray] | None = None,
        labels: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Write the given parts of one block of n ids: views, then labels, then class ids and checks, images last.

        ``images`` uint8 (n, H, W, 3) and ``class_ids`` int32 (n,) go together; ``views`` name -> float32 (n, V, P); ``labels``
        name -> (what the codec takes, float32 logits (n, V, C) or features (n, V, d); float32 quality (n, 3)), of images and
        views that are given too or stored already; ``columns`` name -> float64 (n,), of new images of a store with rounds.
        Everything is checked (shape, dtype, range, finite) before the first byte is written. What no longer holds counts as
        missing from then on: labels that were made from other images or views than these. Raises ``UsageError`` on wrong data,
        ``StoreWriteError`` if the disk fails.
        """
        write(self, new_block(self, block, images, class_ids, views or {}, labels or {}, columns or {}))

    def add_view_set(
        self, name: str, num_views: int, components: Sequence[str], description: Mapping[str, Any]
    ) -> None:
        """Make room for a view set, or check that the one of this name has the same description.

        ``description`` is everything that determines the views; its fingerprint is the view set's identity.
        """
        check_name(name, "view set")
        description = {"components": list(components), "num_views": num_views, **description}
        node = f"{layout.VIEWS}/{name}"
        if name in self.chunks.tree.children(layout.VIEWS):
            stored = self.chunks.tree.attributes(node)
            refuse_mismatch(
                f"View set {name!r} of {self.path}",
                {key: stored.get(key) for key in stored if key != "identity"},
                description,
                "Leave the differing options out to use the store's views, or give the new set another name.",
            )
        else:
            self.chunks.tree.create_group(layout.VIEWS)
            attributes = {**description, "identity": fingerprint({"store": self.identity, **description})}
            spec = layout.views_spec(num_views, len(components))
            self.chunks.tree.create_array(node, spec, self.num_images, self.block_size, attributes)
        self._forget_sets()

    def add_label_set(
        self,
        name: str,
        *,
        teacher: Mapping[str, Any],
        source: str,
        view_set: str,
        codec: Codec,
        num_classes: int,
        quality_view: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a label set, or check that the one of this name has the same teacher, views and codec.

        A codec that must be fitted gets its arrays by :meth:`fit_label_set`, any other at once.
        ``teacher`` is what the teacher is (weights' hash, preprocessing), ``source`` where it was found: the latter is
        kept for later runs and is not part of the identity. ``quality_view``: the view that the quality is of, where that
        is not the canonical one of its views; a set that is there goes on as it was begun.
        """
        check_name(name, "label set")
        self._forget_sets()  # another process may have added the views
        views = self.views[view_set]
        description = {
            "teacher": dict(teacher),
            "view_set": view_set,
            "num_views": views.num_views,
            "codec": codec.to_json(),
            "num_classes": num_classes,
        }
        node = f"{layout.LABELS}/{name}"
        self.chunks.tree.create_group(layout.LABELS)
        there = name in self.chunks.tree.children(layout.LABELS)
        stored = self.chunks.tree.attributes(node) if there else {}
        if "identity" in stored:
            refuse_mismatch(
                f"Label set {name!r} of {self.path}",
                _with_precision({key: stored[key] for key in stored if key not in _NOT_COMPARED}),
                _with_precision(description),
                "Give the new labels another name (--name), or leave the differing options out.",
            )
            return
        if quality_view is not None:
            description["quality_view"] = dict(quality_view)
        identity = fingerprint({"store": self.identity, "views": views.identity, **description})
        self.chunks.tree.create_group(node, {**description, "source": source, "identity": identity})
        self._forget_sets()
        if not codec.needs:
            self.fit_label_set(name, codec.fit(num_classes))

    def add_column(self, name: str, values: np.ndarray, description: str = "", *, replace: bool = False) -> None:
        """Keep one number an image under a name: ``values``, real numbers (N,), of which those of missing images are not used.

        If interrupted, or when the store has grown, the same call writes what is missing. Raises ``UsageError`` for values of
        another shape, NaN or infinity, for a name that selections have a meaning for, and unless ``replace`` for a name under
        which there are other numbers."""
        check_name(name, "column")
        add_column(self, name, values, description, replace)
        self._forget_sets()

    def remove_column(self, name: str) -> None:
        """Delete a column. Raises ``UsageError`` if there is none."""
        if self.column(name).of_rounds:
            raise UsageError(f"Column {name} of {self.path} says how its rounds came about, and can't be removed.")
        remove_column(self, name)
        self._forget_sets()

    def save_selection(self, name: str, expression: str) -> None:
        """Keep a selection under a name, in place of one that is there."""
        check_name(name, "selection")
        self.chunks.tree.create_group(layout.SELECTIONS, {name: expression})

    def add_round(self, description: Mapping[str, Any], student: bytes | None = None) -> None:
        """Write down what the images from ``description["start"]`` on, ``description["images"]`` of them, are made by; then
        :meth:`grow`. ``student``: the safetensors file of the student that they follow, if they do, whose ``file_sha256`` is in
        ``description["student"]``. Raises ``UsageError`` if the store has a column ``round`` or ``score`` of its own, or another
        number of images than ``start``."""
        if description["start"] != self.num_images:
            raise UsageError(f"A round of {self.path} begins with image {self.num_images}, not {description['start']}.")
        for name, column in self.columns.items():
            if name in COLUMN_DESCRIPTIONS and not column.of_rounds:
                raise UsageError(
                    f"{self.path} has a column {name!r} of its own, which is what a store with rounds calls one of theirs: "
                    f"add it under another name, then `dmkd columns --remove {name}`."
                )
        add_round(self, description, student)
        self._forget_sets()

    def fit_label_set(self, name: str, constants: Mapping[str, np.ndarray]) -> None:
        """Write the constants of a label set's codec and make room for its blocks; once only, they never change."""
        label_set = LabelSet(self.chunks, name, self.chunks.tree.attributes(f"{layout.LABELS}/{name}"))
        if label_set.fitted:
            raise UsageError(f"Label set {name!r} of {self.path} already has its constants.")
        coder = label_set.codec.bind(label_set.num_classes, constants)
        if constants:
            self.chunks.tree.create_group(f"{label_set.node}/{layout.CONSTANTS}")
        for part, values in constants.items():
            self.chunks.tree.write_constant(f"{label_set.node}/{layout.CONSTANTS}/{part}", values)
        for part, spec in layout.label_specs(coder.arrays(label_set.num_views)).items():
            self.chunks.tree.create_array(f"{label_set.node}/{part}", spec, self.num_images, self.block_size)
        # The mark comes last: anything interrupted before it is redone.
        self.chunks.tree.set_attributes({"fitted": True}, label_set.node)
        self._forget_sets()

    def grow(self, num_images: int) -> None:
        """Make room for more images of the same recipe. Existing images stay as they are.

        A last block that is only partly used is deleted first, starting with its images, so that it is made again whole:
        an image depends on its id alone, so its old pixels come back.
        """
        self.check_growth(num_images)
        if num_images == self.num_images:
            return
        self.refresh()  # what another process has added must grow too
        nodes = self.array_nodes()
        with self.chunks.tree.transaction():
            if self.num_images % self.block_size:
                for node in nodes:
                    self.chunks.tree.delete_block(node, self.num_blocks - 1)
            # Images last: should this be interrupted, the store still has its old length and growing starts again.
            for node in reversed(nodes):
                if self.chunks.tree.shape(node)[0] != num_images:
                    self.chunks.tree.resize(node, num_images)
        self.touch()

    def array_nodes(self) -> list[str]:
        """All arrays, images first, and in each label set the marker first."""
        nodes = [layout.IMAGES, layout.CHECKS, layout.CLASS_IDS]
        for label_set in filter(lambda label_set: label_set.fitted, self.labels.values()):
            nodes += reversed(label_set.array_nodes.values())
            nodes += [label_set.checks_node, f"{label_set.node}/{layout.QUALITY}"]
        nodes += [column.node for column in self.columns.values()]
        return nodes + [view_set.node for view_set in self.views.values()]

    def check_growth(self, num_images: int) -> None:
        """Raise ``UsageError`` if :meth:`grow` would."""
        if num_images < self.num_images:
            raise UsageError(
                f"{self.path} holds {self.num_images} images and can't shrink to {num_images}; "
                "ask for at least as many, or leave --images out."
            )

    def write_card(self, readme: str, licence: str) -> None:
        """Replace the card. Raises ``StoreWriteError`` if the disk fails."""
        try:
            self.chunks.tree.create_group(layout.CARD, {"readme": readme, "licence": licence})
        except OSError as error:
            raise StoreWriteError(f"Could not write the card of {self.path}: {error.strerror or error}.") from error

    def require_writable(self) -> None:
        """Raise ``StoreWriteError`` if this process may not write the store: better now than after the first block has been
        computed, and ``UsageError`` for a store on the hub. Writes nothing; whether a bucket takes writes is only known once
        something is written."""
        locations.require_writable(self.path)
        if not locations.scheme(self.path) and not os.access(self.path, os.W_OK):
            read_only = os.statvfs(self.path).f_flag & os.ST_RDONLY
            raise write_error(self.path, OSError(errno.EROFS if read_only else errno.EACCES, ""))

    def log_run(self, **facts: Any) -> RunLog:
        """A log of what this process is about to do; ``facts`` are JSON-able. Use it as a context."""
        return RunLog(self.chunks.tree, facts)

    def sweep_partials(self) -> int:
        """Delete what killed writers left behind; returns the number of files."""
        return self.chunks.tree.sweep_partials()

    def touch(self, versions: Mapping[str, str] | None = None) -> None:
        """Set the time of the last change, by which caches know it, and the versions of the libraries that made it. Refreshes."""
        time = {"updated": utc_now("microseconds")}
        self.chunks.tree.set_attributes({**time, **({"versions": dict(versions)} if versions else {})})
        self.refresh()


# Of a label set that is there: where its teacher was found, how far it is, and what follows from teacher and views.
_NOT_COMPARED = ("identity", "source", "fitted", "quality_view")


def _with_precision(label_set: Mapping[str, Any]) -> dict[str, Any]:
    """A label set's description that says the teacher's precision, which is not written where it is float32."""
    return {**label_set, "teacher": {"precision": layout.DEFAULT_PRECISION, **label_set["teacher"]}}
