"""Label codecs: how a teacher's logits are written. What a codec does is in :mod:`.base`; each has a file of its own.

    float16       dense logits in half precision
    uint8         dense logits, 256 levels for each view
    features:8    the teacher's penultimate features in that many bits, and its last layer once
    klt:0.5       transform coding with that step
    topk:50       that many largest logits, and the tail's weight at every temperature

Codecs use plain arrays and standard Zarr codecs, so that the logits can be rebuilt from the attributes without dmkd.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import NotAStoreError, UsageError
from .base import Codec, Coder, Constants
from .features import Features
from .float16 import Float16
from .klt import Klt
from .topk import TopK
from .uint8 import Uint8

__all__ = ["CODECS", "Codec", "Coder", "Constants", "codec_from_json", "parse_codec"]

CODECS: dict[str, Any] = {codec.name: codec for codec in (Float16, Uint8, Features, Klt, TopK)}

# The one parameter that a user may write after the name: field, type, what it is called in messages.
_PARAMETERS: dict[str, tuple[str, type, str]] = {
    "features": ("bits", int, "a whole number of bits"),
    "klt": ("step", float, "a step in units of logits"),
    "topk": ("k", int, "a number of classes"),
}


DEFAULT_CODEC = "float16"


def parse_codec(text: str | None) -> Codec:
    """The codec that a user's string such as ``float16`` or ``klt:0.5`` names; None: float16. Else ``UsageError``."""
    text = text or DEFAULT_CODEC
    name, colon, value = text.partition(":")
    if name not in CODECS:
        raise UsageError(f"There is no label codec {text!r}; known: {', '.join(CODECS)}.")
    if not colon:
        return CODECS[name]()
    if name not in _PARAMETERS:
        raise UsageError(f"Codec {name} takes no parameter, and {text!r} gives one.")
    field, kind, meaning = _PARAMETERS[name]
    try:
        parameter = kind(value)
    except ValueError as error:
        raise UsageError(
            f"Codec {name} takes {meaning}, as in {name}:{getattr(CODECS[name], field)}, not {value!r}."
        ) from error
    return CODECS[name](**{field: parameter})


def codec_from_json(description: Mapping[str, Any]) -> Codec:
    """The codec that a store's attributes describe. Raises ``NotAStoreError`` if this version does not know it."""
    name = description.get("name")
    if name not in CODECS:
        raise NotAStoreError(f"The labels are written with codec {name!r}, which this version of dmkd does not know.")
    try:
        return CODECS[name](**{key: value for key, value in description.items() if key != "name"})
    except (TypeError, UsageError) as error:
        raise NotAStoreError(
            f"The labels' codec {dict(description)} is not one that this version reads: {error}"
        ) from error
