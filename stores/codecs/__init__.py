"""Label codecs: how a teacher's logits are written. What a codec is: :mod:`.base`. Each has a file of its own and an entry in
:data:`CODECS`; that is all it takes to add one.

Codecs use plain arrays and standard Zarr codecs, so that the logits can be rebuilt from the attributes without dmkd.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ..errors import NotAStoreError, UsageError
from .base import Codec, Coder, Constants
from .features import Features
from .float16 import Float16
from .klt import Klt
from .topk import TopK
from .uint8 import Uint8

__all__ = ["CODECS", "Codec", "Coder", "Constants", "codec_from_json", "parse_codec"]

CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (Float16, Uint8, Features, Klt, TopK)}
DEFAULT_CODEC = Float16.name


def parse_codec(text: str | None) -> Codec:
    """The codec that a user's string such as ``float16`` or ``klt:0.5`` names; None: float16. Else ``UsageError``."""
    text = text or DEFAULT_CODEC
    name, colon, value = text.partition(":")
    if name not in CODECS:
        raise UsageError(f"There is no label codec {text!r}; known: {', '.join(CODECS)}.")
    default = CODECS[name]()
    if not colon:
        return default
    if not default.parameter:
        raise UsageError(f"Codec {name} takes no parameter, but {text!r} gives one.")
    (field,) = fields(default)
    try:
        parameter = type(getattr(default, field.name))(value)
    except ValueError as error:
        raise UsageError(f"Codec {name} takes {default.parameter}, as in {default}, not {value!r}.") from error
    return replace(default, **{field.name: parameter})


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
