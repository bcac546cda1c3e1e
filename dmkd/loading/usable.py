"""Which images of a store there are to learn from: finished, labelled if labels are wanted, and selected."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dmkd.generators.sources import source_defaults
from dmkd.recipes.selected_classes import selection_notice
from dmkd.recipes.selecting import selected as selected_of
from dmkd.recipes.selecting import selection_of
from dmkd.stores import LabelSet, MissingBlockError, Store, UsageError, ViewSet
from dmkd.views.policy import parse_policy
from dmkd.views.shown import DrawnViews, drawn_instead, new_each_epoch, shown_views


@dataclass(frozen=True)
class Usable:
    """What a choice of labels, views and images leaves of a store."""

    label_sets: dict[str, LabelSet]  # by name, all of one view set
    view_set: ViewSet | DrawnViews
    blocks: np.ndarray  # int64 (number of blocks,), ascending: those that are finished and have the labels
    selected: np.ndarray  # bool (N,): the images of these blocks that the selection keeps
    notice: str | None  # what the selection leaves of each class; None: nothing was selected

    @property
    def ids(self) -> np.ndarray:
        """The images, int64 (n,), ascending."""
        return np.flatnonzero(self.selected)


def default_views(store: Store) -> str:
    """The views that are shown of a store without labels and views: those that it would be labelled with by default, one
    an epoch."""
    return new_each_epoch(parse_policy(source_defaults(store.source)["views"]))


def usable_images(
    store: Store,
    labels: Iterable[str] = (),
    view_set: str | None = None,
    select: str | None = None,
    view_seed: int = 0,
) -> Usable:
    """The images that can be learnt from; nothing but the store's listings, and the quality that ``select`` asks for, is read.

    ``labels``: label sets, all of one view set; without any, ``view_set`` says which views are wanted, by a name that
    :func:`dmkd.views.shown.shown_views` takes (None: :func:`default_views`), drawn with ``view_seed`` if no store holds
    them. Only blocks that are finished, and labelled by all of these, count; views that are not stored yet are drawn.
    ``select`` picks images by the quality that the first label set's teacher saw
    (see :mod:`dmkd.recipes.selection`); None: all.

    Raises ``UsageError`` for labels of different views, for a selection that needs a teacher and has none, and for one that
    leaves no image; ``MissingBlockError`` if no block is finished.
    """
    label_sets = {name: store.labels[name] for name in labels}
    first = next(iter(label_sets.values()), None)
    views = store.views[first.view_set] if first else shown_views(store, view_set or default_views(store), view_seed)
    for name, label_set in label_sets.items():
        if label_set.view_set != views.name:
            raise UsageError(
                f"Label sets {next(iter(label_sets))!r} and {name!r} of {store.path} are labels of different "
                f"views ({views.name}, {label_set.view_set}): only those of the same views can be mixed."
            )
        label_set.coder  # refuses a label set that was begun and has no labels yet  # noqa: B018
    needed: list[LabelSet | ViewSet] = list(label_sets.values())
    if isinstance(views, ViewSet) and not first and not set(views.missing_blocks()) <= set(store.missing_blocks()):
        if drawn := drawn_instead(store, views):
            views = drawn
        else:
            needed = [views]
    blocks = _finished_blocks(store, needed)
    return Usable(label_sets, views, blocks, *_selected(store, blocks, first, select))


def _finished_blocks(store: Store, needed: Iterable[LabelSet | ViewSet]) -> np.ndarray:
    missing = set(store.missing_blocks()).union(*(one.missing_blocks() for one in needed))
    blocks = np.array([block for block in range(store.num_blocks) if block not in missing])
    if not len(blocks):
        raise MissingBlockError(
            f"{store.path} has no finished block{' with the labels asked for' if needed else ''} yet."
        )
    return blocks


def _selected(
    store: Store, blocks: np.ndarray, first: LabelSet | None, select: str | None
) -> tuple[np.ndarray, str | None]:
    """Which of all N images are used, bool (N,), and what to say of their classes."""
    selected = np.zeros(store.num_images, bool)
    ids = np.concatenate([store.block_ids(block) for block in blocks])
    if select is None:
        selected[ids] = True
        return selected, None
    selection = selection_of(store, select)
    if selection.needs_teacher and first is None:
        raise UsageError(f"--select {select!r} needs a teacher's opinion of the images: choose one with --labels.")
    class_ids = store.class_ids[ids]
    kept = selected_of(store, selection, ids, first if selection.needs_teacher else None)
    if not kept.any():
        raise UsageError(f"--select {select!r} leaves none of the {len(ids):,} images of {store.path}.")
    selected[ids] = kept
    return selected, selection_notice(select, class_ids, kept, store.class_names)
