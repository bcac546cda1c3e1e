"""Label codecs: how a teacher's logits are written.

A codec is a small frozen class; its configuration is the JSON in the store. It says which arrays one image takes
(:meth:`Codec.arrays`; the last one is the block's marker), and turns logits into those arrays and back. Codecs use plain
arrays, so that anybody can rebuild the logits from the attributes without dmkd.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..errors import NotAStoreError, UsageError
from ..layout import ArraySpec
from .float16 import Float16


class Codec(Protocol):
    """What every codec does. n images, V views, C classes."""

    name: str

    def to_json(self) -> dict[str, Any]:
        """The configuration, as written to the store."""

    def arrays(self, num_views: int, num_classes: int) -> dict[str, ArraySpec]:
        """Name -> what one image takes, in the order of writing. The last is the block's marker."""

    def encode(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        """float32 (n, V, C) -> the codec's arrays, axis 0 being n. Raises ``UsageError`` on what it can't hold."""

    def decode(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The codec's arrays, axis 0 being n -> float32 (n, V, C)."""


CODECS = {"float16": Float16}


def parse_codec(text: str) -> Codec:
    """The codec that a user's string such as ``float16`` names."""
    if text not in CODECS:
        raise UsageError(f"There is no label codec {text!r}; known: {', '.join(CODECS)}.")
    return CODECS[text]()


def codec_from_json(description: Mapping[str, Any]) -> Codec:
    """The codec that a store's attributes describe."""
    name = description.get("name")
    if name not in CODECS:
        raise NotAStoreError(f"The labels are written with codec {name!r}, which this version of dmkd does not know.")
    return CODECS[name](**{key: value for key, value in description.items() if key != "name"})
