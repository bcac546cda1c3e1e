"""Whether a store is sound: every chunk of every array is read and looked at, one block at a time.

Checksums, shapes, ranges, identities and completeness. Runs no models: :mod:`dmkd.verify` checks whether pixels and logits are
those that the recipe and the teacher give.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import numpy as np

from .. import layout
from ..checks import class_checks, encoded_checks, image_checks, quality_checks, views_bound
from ..codecs import Coder
from ..columns import Column
from ..errors import DmkdError, StoreUnreachableError, first_line
from ..identity import is_fingerprint
from ..reader import Reader
from ..sets import LabelSet, ViewSet
from ..trees.tree import open_tree
from .arrays import look_at_array
from .columns import wrong_identity, wrong_numbers
from .constants import read_constants
from .finding import ERROR, NOTE, WARNING, Finding, show_ids, some
from .rounds import look_at_rounds
from .values import OddImages, decodes_finite, wrong_quality, wrong_views

_ROOT_ATTRIBUTES = ("recipe", "identity", "source", "class_names", "block_size")


class Verifier:
    """Looks at a store: :meth:`attributes`, then :meth:`block` for each block, then :meth:`summary`.

    ``chunks`` and ``bytes`` count what has been read; bytes are those of the arrays, uncompressed. ``num_blocks`` is 0 if
    not even the images' metadata can be read.
    """

    def __init__(self, store: Reader) -> None:
        self.store = store
        self.num_blocks = self.chunks = self.bytes = 0
        self.label_sets: list[LabelSet] = []  # those that are readable and have arrays
        self.coders: dict[str, Coder] = {}  # label set -> its coder, if its constants and arrays are sound
        self.parts: dict[str, list[str]] = {}  # label set -> its arrays of blocks, the marker last
        # Views (node, block) that some labels were made from, and those that some labels were not made from.
        self.confirmed_views: set[tuple[str, int]] = set()
        self.doubted_views: set[tuple[str, int]] = set()
        self._tree = open_tree(store.path)
        self._present: dict[str, set[int]] = {}
        self._view_sets: list[ViewSet] = []
        self._columns: list[Column] = []
        self._starts: list[int] = []  # of the rounds: the first image of each
        self._odd_images = OddImages()

    # Attributes, metadata and constants

    def attributes(self) -> Iterator[Finding]:
        """What can be found without reading a block. Must be exhausted first: it finds out which arrays there are."""
        store, tree = self.store, self._tree
        if lacking := [key for key in _ROOT_ATTRIBUTES if key not in store.attributes]:
            yield Finding(ERROR, "", f"The store's attributes lack {', '.join(lacking)}.")
            return
        try:
            image_shape, self.num_blocks = store.image_shape, store.num_blocks
        except (KeyError, ValueError, TypeError) as error:
            yield Finding(ERROR, layout.IMAGES, f"The array's metadata can't be read ({first_line(error)}).")
            return
        if not is_fingerprint(store.identity, store.recipe):
            yield Finding(
                ERROR,
                "",
                "The identity is not that of the recipe: the attributes were changed after the store was made.",
            )
        yield from self._array(layout.IMAGES, layout.images_spec((*image_shape[:2], 3)))
        yield from self._array(layout.CLASS_IDS, layout.class_ids_spec())
        yield from self._array(layout.CHECKS, layout.checks_spec())
        for name in tree.children(layout.VIEWS):
            yield from self._guarded(f"{layout.VIEWS}/{name}", self._view_set, name)
        for name in tree.children(layout.LABELS):
            yield from self._guarded(f"{layout.LABELS}/{name}", self._label_set, name)
        yield from look_at_rounds(store)
        self._starts = [one.start for one in store.rounds]
        for name in tree.children(layout.COLUMNS):
            yield from self._guarded(f"{layout.COLUMNS}/{name}", self._column, name)
        if leftovers := tree.count_partials():
            yield Finding(
                WARNING,
                "",
                f"{leftovers} half-written files (.partial) of a run that was killed, or that is going on just now.",
            )

    def _view_set(self, name: str) -> Iterator[Finding]:
        view_set = ViewSet(self.store.chunks, name, self._tree.attributes(f"{layout.VIEWS}/{name}"))
        whole = {"store": self.store.identity, **_without(view_set.attributes, "identity")}
        if not is_fingerprint(view_set.identity, whole):
            yield Finding(ERROR, view_set.node, "The identity is not that of the store and the views' description.")
        num_views = view_set.attributes["num_views"]
        yield from self._array(view_set.node, layout.views_spec(num_views, len(view_set.components)))
        self._view_sets.append(view_set)

    def _label_set(self, name: str) -> Iterator[Finding]:
        node = f"{layout.LABELS}/{name}"
        attributes = self._tree.attributes(node)
        if "identity" not in attributes:
            yield Finding(
                NOTE, node, "The making of this label set was interrupted before it had a name; nothing is in it."
            )
            return
        label_set = LabelSet(self.store.chunks, name, attributes)
        view_set = next((view_set for view_set in self._view_sets if view_set.name == label_set.view_set), None)
        if view_set is None:
            yield Finding(ERROR, node, f"Its view set {label_set.view_set!r} is not there or not readable.")
        else:
            description = _without(attributes, "identity", "source", "fitted")
            whole = {"store": self.store.identity, "views": view_set.identity, **description}
            if not is_fingerprint(label_set.identity, whole):
                yield Finding(
                    ERROR, node, "The identity is not that of the store, the views, the teacher and the codec."
                )
            if label_set.num_views != view_set.num_views:
                yield Finding(ERROR, node, f"It has {label_set.num_views} views and its view set {view_set.num_views}.")
        num_classes = self.store.num_classes
        if label_set.num_classes != num_classes:
            yield Finding(ERROR, node, f"It has {label_set.num_classes} classes and the store {num_classes}.")
        if view_set is None or label_set.num_views != view_set.num_views or label_set.num_classes != num_classes:
            return  # it would make every block look wrong
        if not label_set.fitted:
            yield Finding(NOTE, node, "It was begun and has no labels yet.", incomplete=True)
            return
        self.label_sets.append(label_set)
        # Without the constants the arrays can still be read, though not decoded: all but these are arrays of blocks.
        self.parts[name] = [f"{node}/{part}" for part in self._tree.children(node) if part != layout.CONSTANTS]
        constants, wrong = read_constants(self._tree, label_set)
        self.chunks += len(constants)
        self.bytes += sum(values.nbytes for values in constants.values())
        yield from wrong
        if len(constants) < len(label_set.codec.constants):
            return
        coder = label_set.codec.bind(label_set.num_classes, constants)
        specs = layout.label_specs(coder.arrays(label_set.num_views))
        self.parts[name] = [f"{node}/{part}" for part in specs]
        found: list[Finding] = []
        for part, spec in specs.items():
            found += self._array(f"{node}/{part}", spec)
        yield from found
        if not found:
            self.coders[name] = coder

    def _column(self, name: str) -> Iterator[Finding]:
        node = f"{layout.COLUMNS}/{name}"
        attributes = self._tree.attributes(node)
        if not attributes.get("identity"):  # removed, or begun
            return
        column = Column(self.store.chunks, name, attributes)
        if wrong_identity(self.store.identity, name, attributes):
            yield Finding(ERROR, node, "The identity is not that of the store and the column's name.")
        yield from self._array(node, layout.column_spec())
        self._columns.append(column)

    def _array(self, node: str, spec: layout.ArraySpec) -> Iterator[Finding]:
        """Whether an array is there and is what the layout says; lists its chunks."""
        self._present[node], findings = look_at_array(self._tree, node, spec, self.store.num_images, self.num_blocks)
        yield from findings

    def _guarded(self, node: str, look: Callable[[str], Iterator[Finding]], name: str) -> Iterator[Finding]:
        """The findings of ``look``; attributes that can't be understood are one of them."""
        try:
            yield from look(name)
        except StoreUnreachableError:  # says nothing about the store
            raise
        except (DmkdError, KeyError, ValueError, TypeError) as error:
            yield Finding(ERROR, node, f"Its attributes can't be read ({first_line(error)}).")

    # Blocks

    def block(self, block: int) -> Iterator[Finding]:
        """What is wrong with one block, in every array."""
        ids = np.array(self.store.block_ids(block))
        checks = yield from self._images(block, ids)
        views: dict[str, np.ndarray | None] = {}
        for view_set in self._view_sets:
            views[view_set.name] = yield from self._views(view_set, block, ids)
        for label_set in self.label_sets:
            yield from self._labels(label_set, block, ids, checks, views.get(label_set.view_set))
        for column in self._columns:
            yield from self._numbers(column, block, ids, checks)

    def _images(self, block: int, ids: np.ndarray) -> Generator[Finding, None, np.ndarray | None]:
        """Returns the image checks, if there are images and the checks can be relied on."""
        done = self.has(layout.IMAGES, block)
        class_ids, checks = None, None
        if self.has(layout.CLASS_IDS, block):
            class_ids = yield from self._read(layout.CLASS_IDS, block, len(ids))
            if class_ids is not None and (class_ids.min() < 0 or class_ids.max() >= self.store.num_classes):
                wrong = (class_ids < 0) | (class_ids >= self.store.num_classes)
                yield self._rows(
                    layout.CLASS_IDS, block, wrong, f"are out of range (the store has {self.store.num_classes} classes)"
                )
                class_ids = None
        elif done:
            yield Finding(
                ERROR, layout.CLASS_IDS, "There are images and no class ids of this block.", block, repairable=True
            )
        if self.has(layout.CHECKS, block):
            checks = yield from self._read(layout.CHECKS, block, len(ids))
        elif done:
            yield Finding(ERROR, layout.CHECKS, "There are images and no checks of this block.", block, repairable=True)
        images = (yield from self._read(layout.IMAGES, block, len(ids))) if done else None
        if images is not None:
            self._odd_images.look_at(images, block, int(ids[0]))
        # Without images the rest was left by an interrupted run and will be rewritten: some of it may be older.
        if not done or class_ids is None or checks is None:
            return None
        wrong = class_checks(ids, class_ids) != checks[:, 0]
        if wrong.any():
            what = "and the checks do not fit together: one of the two chunks is that of another block or store"
            yield self._rows(layout.CLASS_IDS, block, wrong, what)
            return None
        if images is not None:
            wrong = image_checks(ids, class_ids, images)[:, 1] != checks[:, 1]
            if wrong.any():
                what = "are other pixels than were written: those of another block or store, or overwritten"
                yield self._rows(layout.IMAGES, block, wrong, what)
        return checks

    def _views(self, view_set: ViewSet, block: int, ids: np.ndarray) -> Generator[Finding, None, np.ndarray | None]:
        """Returns the views as stored, if they are sound."""
        if not self.has(view_set.node, block):
            of_these = [label_set for label_set in self.label_sets if label_set.views_node == view_set.node]
            if any(self._labelled(label_set, block) for label_set in of_these):
                what = "The chunk is missing, and there are labels of these views."
                yield Finding(ERROR, view_set.node, what, block, repairable=True)
            return None
        stored = yield from self._read(view_set.node, block, len(ids))
        if stored is None:
            return None
        sound = True
        bound = views_bound(ids, stored)
        if not bound.all():
            yield self._rows(view_set.node, block, ~bound, "are the views of other images: those of another block")
            sound = False
        beyond = tuple(view_set.padding / edge for edge in self.store.image_shape[:2])
        for wrong, what in wrong_views(stored[:, :, :-1], view_set.components, len(ids), beyond):
            if wrong.any():
                yield self._rows(view_set.node, block, np.any(wrong, axis=1), what)
                sound = False
        return stored if sound else None

    def _labels(
        self,
        label_set: LabelSet,
        block: int,
        ids: np.ndarray,
        image_checks: np.ndarray | None,
        views: np.ndarray | None,
    ) -> Iterator[Finding]:
        """``image_checks`` and ``views``: what the labels were made from, None where that can't be relied on."""
        nodes = self.parts[label_set.name]
        marked = self._labelled(label_set, block)
        arrays: dict[str, np.ndarray] = {}
        for node in nodes:
            if not self.has(node, block):
                if marked:
                    yield Finding(ERROR, node, "The chunk is missing and the block counts as labelled.", block, True)
                continue
            rows = yield from self._read(node, block, len(ids))
            if rows is None:
                continue
            wrong: np.ndarray = np.any(~np.isfinite(rows.reshape(len(ids), -1)), axis=1)
            if wrong.any():
                yield self._rows(node, block, wrong, "are NaN or infinite")
                continue
            if node.endswith(f"/{layout.QUALITY}"):
                odd = [found for found in wrong_quality(rows, label_set.num_classes) if found[0].any()]
                for wrong, what in odd:
                    yield self._rows(node, block, wrong, what)
                if odd:
                    continue
            arrays[node.rsplit("/", 1)[-1]] = rows
        if not marked or len(arrays) < len(nodes):
            return
        quality, checks = arrays.pop(layout.QUALITY), arrays.pop(layout.CHECKS)
        try:
            logits_each = label_set.num_views * label_set.num_classes
            finite = decodes_finite(self.coders[label_set.name], arrays, len(ids), logits_each)
        except (ValueError, IndexError, DmkdError) as error:
            yield Finding(
                ERROR, label_set.node, f"The labels can't be decoded ({first_line(error)}).", block, repairable=True
            )
            return
        if not finite.all():
            yield self._rows(label_set.node, block, ~finite, "decode to NaN or infinite logits")
            return
        if image_checks is not None:
            yield from self._unbound_labels(label_set, ids, image_checks, views, quality, checks, arrays)

    def _unbound_labels(
        self,
        label_set: LabelSet,
        ids: np.ndarray,
        image_checks: np.ndarray,
        views: np.ndarray | None,
        quality: np.ndarray,
        checks: np.ndarray,
        arrays: Mapping[str, np.ndarray],
    ) -> Iterator[Finding]:
        """Whether a block's labels were made from its images and views; which chunk is to blame if not."""
        block = int(ids[0]) // self.store.block_size
        wrong_quality = quality_checks(label_set.identity, ids, image_checks, quality) != checks[:, 0]
        wrong_labels = np.zeros(len(ids), bool)
        if views is not None:
            wrong_labels = encoded_checks(label_set.identity, ids, image_checks, views, arrays) != checks[:, 1]
            of_views = self.doubted_views if wrong_labels.any() else self.confirmed_views
            of_views.add((label_set.views_node, block))
        if wrong_quality.any() and wrong_labels.any():
            what = "are those of other images: its chunks, or this one alone, belong to another block or store"
            yield self._rows(label_set.checks_node, block, wrong_quality | wrong_labels, what)
        elif wrong_quality.any():
            what = "are not those that were written for these images: that of another block or store, or overwritten"
            yield self._rows(f"{label_set.node}/{layout.QUALITY}", block, wrong_quality, what)
        elif wrong_labels.any():
            node = label_set.marker if len(arrays) == 1 else label_set.node
            what = "were not made from these images and views: those of another block or store, or overwritten"
            yield self._rows(node, block, wrong_labels, what)

    def _numbers(
        self, column: Column, block: int, ids: np.ndarray, image_checks: np.ndarray | None
    ) -> Iterator[Finding]:
        expected = column.of_rounds and self._starts and self.has(layout.IMAGES, block)
        if expected and not self.has(column.node, block):
            what = "The chunk is missing, and there are images of this block."
            yield Finding(ERROR, column.node, what, block, repairable=True)
        stored = (yield from self._read(column.node, block, len(ids))) if self.has(column.node, block) else None
        if stored is None:
            return
        rounds = np.searchsorted(self._starts, ids, side="right")
        for wrong, what in wrong_numbers(column, ids, image_checks, stored, rounds):
            if wrong.any():
                yield self._rows(column.node, block, wrong, what)
                return

    def _labelled(self, label_set: LabelSet, block: int) -> bool:
        """Whether the block counts as labelled. Without a coder it is not known which array says so."""
        return label_set.name in self.coders and self.has(self.parts[label_set.name][-1], block)

    def has(self, node: str, block: int) -> bool:
        """Whether the chunk was there when the store was listed."""
        if node not in self._present:
            self._present[node] = self._tree.present_blocks(node)
        return block in self._present[node]

    def _read(self, node: str, block: int, count: int) -> Generator[Finding, None, np.ndarray | None]:
        """Yields what is wrong with a chunk and returns its rows, or None if they are of no use."""
        try:
            rows = self._tree.read_block(node, block)
        except (ValueError, RuntimeError, KeyError) as error:
            yield Finding(ERROR, node, f"The chunk is damaged ({first_line(error)}).", block, repairable=True)
            return None
        except OSError as error:
            yield Finding(ERROR, node, f"The chunk can't be read ({first_line(error)}).", block)
            return None
        self.chunks, self.bytes = self.chunks + 1, self.bytes + rows.nbytes
        if len(rows) < count:
            yield Finding(ERROR, node, f"The block holds {len(rows)} of {count} images.", block)
            return None
        return rows[:count]

    def _rows(self, node: str, block: int, wrong: np.ndarray, what: str) -> Finding:
        """Wrong rows of a block as one error. ``what`` begins with a verb in the plural."""
        ids = np.flatnonzero(wrong) + block * self.store.block_size
        return Finding(ERROR, node, f"The values of {show_ids(ids)} {what}.", block, repairable=True)

    # At the end

    def summary(self) -> Iterator[Finding]:
        """What can only be said of all blocks together: oddities among the images, and what is not there yet."""
        yield from self._odd_images.findings()
        with_images = {block for block in range(self.num_blocks) if self.has(layout.IMAGES, block)}
        if missing := self.num_blocks - len(with_images):
            what = f"{missing:,} of {self.num_blocks:,} blocks have no images yet."
            yield Finding(NOTE, layout.IMAGES, what, incomplete=True)
        for label_set in self.label_sets:
            if label_set.name not in self.coders:
                continue
            labelled = {block for block in range(self.num_blocks) if self._labelled(label_set, block)}
            if missing := len(with_images - labelled):
                what = f"{missing:,} blocks with images have no labels yet."
                yield Finding(NOTE, label_set.node, what, incomplete=True)
            if early := sorted(labelled - with_images):
                yield Finding(
                    NOTE,
                    label_set.node,
                    f"{len(early):,} blocks have labels and no images (an interrupted run; they are made again): "
                    f"{some([str(block) for block in early])}.",
                )


def _without(attributes: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key not in keys}
