"""Which images were asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

# Ways of sampling by name, as options. dm-kd: Li et al. 2023's, also the default. fast: 29 calls of the model instead of 200, by
# a solver of few steps (Lu et al. 2022) that is guided only at noise of middle strength (Kynkäänniemi et al. 2024).
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dm-kd": {"sampler": "ddpm", "steps": 100, "guidance": 2.0},
    "fast": {"sampler": "dpm++", "steps": 25, "guidance": 2.0, "guidance_interval": "0.1:0.27"},
}


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
    size: int | None = None  # pixels, height and width, of stored images; not more than the generator's
    # For generators of the user's own:
    generator_args: Mapping[str, Any] | None = None  # what their factory is called with, by name
    # For text-to-image generators, and others that only number their classes:
    class_names: str | Sequence[str] | None = None  # a text file, one name a line; "imagenet"; or the names
    prompts: tuple[str, ...] | None = None  # templates, or "@FILE"
    negative_prompt: str | None = None
    image_size: int | None = None
    vae: str | None = None  # of another folder or repository, in the place of a DiT's own
    vae_dtype: str | None = None
    preset: str | None = None  # a name in PRESETS, for those of its options that are not given

    def with_preset(self) -> "ImageOptions":
        """The same with the preset's options, if there is a preset, where none were given."""
        preset = PRESETS[self.preset] if self.preset else {}
        return replace(self, **{option: self.given(option, value) for option, value in preset.items()})

    def given(self, option: str, otherwise: Any) -> Any:
        """What was asked for, or else this."""
        value = getattr(self, option)
        return otherwise if value is None else value
