"""The views that batches show: a view set of the store, or views that are drawn as they are needed."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmkd.stores import Store, UsageError, ViewSet
from dmkd.views.description import ViewDescription
from dmkd.views.policy import RANDOM_KINDS, ViewPolicy, parse_policy

WHOLE = "whole"  # each image as it is
WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class DrawnViews:
    """Views that no store holds, to be used where a :class:`dmkd.stores.ViewSet` is. Drawing them again gives the same."""

    description: ViewDescription
    num_images: int  # of the store
    num_views: int | None  # of each image, used in turns; None: each epoch draws a new one

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def components(self) -> tuple[str, ...]:
        return self.description.components

    @property
    def padding(self) -> int:
        """Pixels by which boxes may leave their image, into black."""
        return self.description.policy.padding or 0

    @property
    def attributes(self) -> dict[str, Any]:
        """What a stored view set's node would say of how they are drawn and rendered; JSON-able."""
        return self.description.to_attributes()

    def draw(self, ids: np.ndarray, which: np.ndarray) -> np.ndarray:
        """View ``which`` int64 (n,) of each of ids int64 (n,): float32 (n, P)."""
        return self.description.draw_chosen(ids, which, self.num_images)


def shown_views(store: Store, name: str, seed: int = 0) -> ViewSet | DrawnViews:
    """The store's view set of this name; or ``whole``, each image as it is; or ``rrc`` or ``pad``, a new random crop of each
    image in each epoch, with the options that ``--views`` takes (``rrc,scale=0.5:1,flip=0``), drawn with this ``seed``.

    Views that are drawn have the images' size (that of the shorter edge), and an image's canonical view is all of it.
    Raises ``UsageError`` for a name that is none of these.
    """
    if name in store.views:
        return store.views[name]
    policy = ViewPolicy() if name == WHOLE else _each_epoch(name)
    if policy is None:
        raise UsageError(
            f"{store.path} has no view set {name!r}; it has {', '.join(store.views) or 'none'}. Views can also be drawn during "
            "training: rrc (a new random crop of each image in each epoch), rrc,scale=0.5:1,flip=0, pad, or whole."
        )
    height, width, _ = store.image_shape
    description = ViewDescription(
        name if name == WHOLE else new_each_epoch(policy),
        policy,
        seed,
        first=False,
        size=min(height, width),
        interpolation="bilinear",
        crop_pct=1.0,
        crop_mode="center",
        canonical=WHOLE_IMAGE,
        image_size=(height, width),
        block_size=store.block_size,
    )
    return DrawnViews(description, store.num_images, 1 if name == WHOLE else None)


def drawn_instead(store: Store, view_set: ViewSet) -> DrawnViews | None:
    """The very views of a view set, drawn, for images whose views are not stored; None if its description is not dmkd's."""
    try:
        description = ViewDescription.of(view_set)
    except (KeyError, TypeError, UsageError):
        return None
    return DrawnViews(description, store.num_images, view_set.num_views)


def new_each_epoch(policy: ViewPolicy) -> str:
    """What :func:`shown_views` calls random crops of this policy, one an epoch: ``rrc,flip=0`` for ``rrc:8,flip=0``."""
    return re.sub(r"^(\w+):\d+", r"\1", str(policy)) if policy.num_random else WHOLE


def _each_epoch(text: str) -> ViewPolicy | None:
    """The policy of ``rrc``, ``rrc,scale=0.5:1``, ``rrc+cutmix`` or ``pad``; None for what begins otherwise."""
    kind = re.match(r"\w+", text)
    if kind is None or kind[0] not in RANDOM_KINDS or not re.match(r"[+,]|$", text[kind.end() :]):
        return None
    return parse_policy(f"{kind[0]}:1{text[kind.end() :]}")
