"""What determines the views of a view set, read once from its attributes and carried as an object."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from dmkd.stores import ViewSet
from dmkd.views.draw import draw_chosen_views, draw_views
from dmkd.views.policy import Box, ViewPolicy


@dataclass(frozen=True)
class ViewDescription:
    """How the views of one view set are drawn, and how they are rendered; the set may be in a store or not (yet)."""

    name: str  # of the view set
    policy: ViewPolicy
    seed: int
    first: bool  # whether it is the first view set of its store
    size: int  # pixels: views are rendered to size x size
    interpolation: str
    crop_pct: float | None  # of the teacher whose evaluation view is the canonical one
    crop_mode: str | None
    canonical: Box
    image_size: tuple[int, int]  # height, width in pixels
    block_size: int  # images

    @classmethod
    def of(cls, view_set: ViewSet) -> "ViewDescription":
        """The description of a store's view set. Raises ``UsageError`` for a policy that can't be."""
        own = {field.name: view_set.attributes[field.name] for field in fields(cls) if field.name != "name"}
        policy, canonical, size = ViewPolicy.from_json(own["policy"]), tuple(own["canonical"]), tuple(own["image_size"])
        return cls(view_set.name, **own | {"policy": policy, "canonical": canonical, "image_size": size})

    def to_attributes(self) -> dict[str, Any]:
        """What :meth:`dmkd.stores.Store.add_view_set` takes as description; JSON-able."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "name"}
        lists = {"canonical": list(self.canonical), "image_size": list(self.image_size)}
        return own | {"policy": self.policy.to_json()} | lists

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the P components of a view."""
        return self.policy.components

    @property
    def num_views(self) -> int:
        """V: views of an image."""
        return self.policy.num_views(self.first)

    @property
    def has_canonical(self) -> bool:
        """Whether view 0 is the canonical one: in a store's first view set, and in sets of kind center."""
        return self.num_views > self.policy.num_random

    def canonical_alone(self) -> "ViewDescription":
        """The same views without the random ones: the teacher's evaluation view, neither mirrored nor mixed."""
        return replace(self, policy=ViewPolicy())

    def quality_view(self, recorded: Mapping[str, Any] | None) -> "ViewDescription | None":
        """The view that a label set's quality is of, alone; None: it is view 0 of these.

        ``recorded``: the label set's attribute ``quality_view``; where it has none, its quality is of the canonical view."""
        if recorded is None:
            return None if self.has_canonical else self.canonical_alone()
        box, size, interpolation = (recorded[key] for key in ("box", "size", "interpolation"))
        return replace(self.canonical_alone(), canonical=tuple(box), size=size, interpolation=interpolation)

    def draw(self, ids: np.ndarray) -> np.ndarray:
        """The views of a whole block of ids int64 (n,): float32 (n, V, P)."""
        return draw_views(
            self.policy,
            self.seed,
            ids,
            canonical=self.canonical,
            first=self.first,
            image_size=self.image_size,
            output_size=self.size,
            block_size=self.block_size,
            num_in_block=len(ids),
        )

    def draw_chosen(self, ids: np.ndarray, which: np.ndarray, num_images: int) -> np.ndarray:
        """View ``which`` int64 (n,) of each of any ids int64 (n,) of a store of ``num_images``: float32 (n, P)."""
        first_of_block = ids // self.block_size * self.block_size
        return draw_chosen_views(
            self.policy,
            self.seed,
            ids,
            which,
            canonical=self.canonical,
            first=self.first,
            image_size=self.image_size,
            output_size=self.size,
            block_size=self.block_size,
            num_in_block=np.minimum(self.block_size, num_images - first_of_block),
        )
