"""The two interfaces of a generator: facts about it, and what makes images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dmkd.recipes.image_options import ImageOptions

if TYPE_CHECKING:
    import torch


class GeneratorFacts(Protocol):
    """Facts about any generator, known before its weights are loaded."""

    @property
    def name(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def sha256(self) -> str: ...
    @property
    def cpu_sub_batch(self) -> int:
        """Images sampled at once on a CPU by default."""

    @property
    def can_be_compiled(self) -> bool:
        """Whether its models may go through ``torch.compile``."""

    def defaults(self, of_source: Mapping[str, Any], images: ImageOptions) -> Mapping[str, Any]:
        """What a store of these images is made with by default: see ``GeneratorSource.defaults``."""

    def notices(self, images: ImageOptions) -> list[str]:
        """What to say before a store is made of these images."""

    def sampling(self, images: ImageOptions, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a recipe that say how this generator is sampled and prompted.

        Raises ``UsageError`` for options it does not support.
        """


class ImageGenerator(Protocol):
    """What makes images: of n class ids from n seeds, uint8 (n, H, W, 3) on its device."""

    @property
    def info(self) -> GeneratorFacts: ...

    def sample(
        self,
        class_ids: np.ndarray,
        seeds: np.ndarray,
        *,
        sampler: str,
        steps: int,
        guidance: np.ndarray,
        guided_channels: Any,  # int, or None where there is no such choice
        guidance_interval: tuple[float, float] | None,
    ) -> "torch.Tensor": ...
