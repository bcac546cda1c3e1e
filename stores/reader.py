"""Everything that can be read from a store: what it is, rows by image id in any order, what is missing, its runs."""

from typing import Any

import numpy as np

from . import layout
from .chunks import Chunks, Ids
from .columns import Column, read_columns
from .errors import UsageError
from .image_codecs import ImageCodec, stored_image_codec
from .rounds import StoredRound, read_rounds
from .rows import CheckRows, ClassRows, ImageRows, Rows
from .run_log import read_runs, run_summaries
from .sets import LabelSet, ViewSet, read_label_sets, read_view_sets


class Reader:
    """A store in a folder, a bucket or an HDF5 file, to be read. Can be pickled to workers.

    ``images[ids]`` uint8 (n, H, W, 3) RGB · ``class_ids[ids]`` int32 (n,) · ``views[name][ids]`` float32 (n, V, P) ·
    ``labels[name].logits(ids)`` float32 (n, V, C) · ``columns[name][ids]`` float64 (n,). Every row is proved to be its
    image's before it is handed out; code that reads chunk files itself does this with ``checks[ids]`` uint32 (n, 2) and
    :func:`dmkd.stores.checks.image_checks`.

    Blocks are seen as soon as they are written. Attributes, view sets and label sets are read at the first look and kept (in a
    bucket each is a request): what another process has added since is seen by a newly opened store, or after
    :meth:`refresh`.
    """

    held_to: dict[str, str] | None = None  # name and sha256 of the tag that what is read is held to (tagged_store.py)

    def __init__(self, path: str) -> None:
        self.path = path
        self.chunks = Chunks(path)
        self._views: dict[str, ViewSet] | None = None
        self._labels: dict[str, LabelSet] | None = None
        self._columns: dict[str, Column] | None = None
        self._rounds: list[StoredRound] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        return f"{type(self).__name__}({self.path!r}: {self.num_images} images of {shape})"

    def refresh(self) -> None:
        """Reread attributes, view sets and label sets when they are next asked for."""
        self.chunks.refresh()
        self._forget_sets()

    def _forget_sets(self) -> None:
        self._views = self._labels = self._columns = self._rounds = None

    # What the store is

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's attributes: recipe, identity, class names, versions ..."""
        return self.chunks.attributes

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
    def class_wnids(self) -> tuple[str, ...] | None:
        """WordNet ids of the classes, where they were known when the store was made."""
        wnids = self.attributes.get("class_wnids")
        return None if wnids is None else tuple(wnids)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def block_size(self) -> int:
        return self.chunks.block_size

    @property
    def image_codec(self) -> ImageCodec:
        """How pixels are written: raw, webp or jpeg."""
        return stored_image_codec(self.attributes.get("image_codec", "raw"))

    def as_stored(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 (n, H, W, 3) as a reader will get them once they have been written: what a teacher must see."""
        return self.image_codec.as_stored(images)

    @property
    def num_images(self) -> int:
        return self.chunks.num_images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3)"""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def num_blocks(self) -> int:
        return self.chunks.num_blocks

    def block_ids(self, block: int) -> range:
        """The image ids of a block; the last block may hold fewer than ``block_size``."""
        return self.chunks.block_ids(block)

    # Its rows

    @property
    def images(self) -> Rows:
        return ImageRows(self.chunks, layout.IMAGES)

    @property
    def class_ids(self) -> Rows:
        return ClassRows(self.chunks, layout.CLASS_IDS)

    @property
    def checks(self) -> Rows:
        """uint32 (N, 2): what :func:`dmkd.stores.checks.image_checks` gives of each image."""
        return CheckRows(self.chunks, layout.CHECKS)

    @property
    def views(self) -> dict[str, ViewSet]:
        """View sets by name, as they were at the first look."""
        if self._views is None:
            self._views = read_view_sets(self.chunks)
        return dict(self._views)

    @property
    def labels(self) -> dict[str, LabelSet]:
        """Label sets by name, as they were at the first look. One whose creation was interrupted is left out."""
        if self._labels is None:
            self._labels = read_label_sets(self.chunks)
        return dict(self._labels)

    @property
    def columns(self) -> dict[str, Column]:
        """Columns by name, as they were at the first look."""
        if self._columns is None:
            self._columns = read_columns(self.chunks)
        return dict(self._columns)

    @property
    def rounds(self) -> list[StoredRound]:
        """Rounds 1, 2, ..., as they were at the first look; images before the first one's are round 0."""
        if self._rounds is None:
            self._rounds = read_rounds(self.chunks)
        return list(self._rounds)

    @property
    def lineage(self) -> str:
        """The identity of the last round, which follows from those before it; without rounds the store's own."""
        return self.rounds[-1].identity if self.rounds else self.identity

    def lineage_of(self, ids: np.ndarray) -> str:
        """The identity that decides the images with these ids, int64 (n,), n > 0: of the last round that made one of them. Later
        rounds do not change it."""
        number = np.searchsorted([one.start for one in self.rounds], ids.max(), side="right")
        return self.rounds[number - 1].identity if number else self.identity

    def column(self, name: str) -> Column:
        """The column of this name. Raises ``UsageError`` if there is none."""
        if name not in self.columns:
            raise UsageError(f"{self.path} has no column {name!r}; it has {', '.join(self.columns) or 'none'}.")
        return self.columns[name]

    @property
    def selections(self) -> dict[str, str]:
        """Saved selections: name -> expression."""
        try:
            return dict(self.chunks.tree.attributes(layout.SELECTIONS))
        except KeyError:
            return {}

    def missing_blocks(self) -> list[int]:
        """Blocks whose images have not been made, ascending; read off the store itself by one listing."""
        return self.chunks.missing(layout.IMAGES)

    def resolve_ids(self, ids: Ids) -> np.ndarray:
        """Any way of naming ids -> int64 (n,); a boolean mask over all N images selects its true ones."""
        return self.chunks.resolve_ids(ids)

    # Notes by people and programs

    @property
    def card(self) -> dict[str, Any]:
        """The data set's card: ``readme`` (Markdown) and ``licence``; {} if none was written. For people only."""
        # An attribute, not a file: Zarr warns about every foreign file in a group, and other backends have no files.
        try:
            return self.chunks.tree.attributes(layout.CARD)
        except KeyError:
            return {}

    def runs(self) -> list[dict[str, Any]]:
        """The runs that made blocks of this store, as :func:`dmkd.stores.run_log.read_runs` gives them."""
        return read_runs(self.chunks.tree)

    def run_summaries(self) -> list[dict[str, Any]]:
        """The same runs in brief, as :func:`dmkd.stores.run_log.run_summaries` gives them; reads two parts of each at most."""
        return run_summaries(self.chunks.tree)
