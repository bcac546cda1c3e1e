"""Views: which part of an image is looked at. Drawn once and stored with the labels, or drawn for each batch.

``dmkd.views.render`` makes the pixels.
"""

from dmkd.views.draw import draw_views
from dmkd.views.policy import (
    MIX_COMPONENTS,
    MIXUP_LEVELS,
    VIEW_COMPONENTS,
    Box,
    ViewPolicy,
    canonical_box,
    parse_policy,
)

__all__ = [
    "MIXUP_LEVELS",
    "MIX_COMPONENTS",
    "VIEW_COMPONENTS",
    "Box",
    "ViewPolicy",
    "canonical_box",
    "draw_views",
    "parse_policy",
]
