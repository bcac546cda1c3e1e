"""Which images were asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ImageOptions:
    """Which images. ``None``: as the store has it, or the generator's default."""

    generator: str | None = None
    images: int | None = None
    classes: str | None = None
    sampler: str | None = None
    steps: int | None = None
    guidance: float | str | None = None  # "1.5:3" for a range
    guidance_interval: str | None = None  # e.g. "0.1:0.27"
    guided_channels: int | None = None
    dtype: str | None = None
    seed: int | None = None
    sub_batch: int | None = None
    compile: bool | None = None
    block_size: int | None = None
    image_codec: str | None = None
    # For text-to-image generators:
    class_names: str | Sequence[str] | None = None  # a text file, one name a line; "imagenet"; or the names
    prompts: tuple[str, ...] | None = None  # templates, or "@FILE"
    negative_prompt: str | None = None
    image_size: int | None = None

    def given(self, option: str, otherwise: Any) -> Any:
        """What was asked for, or else this."""
        value = getattr(self, option)
        return otherwise if value is None else value
