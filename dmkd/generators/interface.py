"""The protocol of a generator, whichever kind it is: facts about it, and what makes images.

A recipe holds what the facts make of the options that were given (``sampling``); what the generator does not understand is None
there. What is set of ``dmkd.recipes.recipe.SAMPLING`` is what ``sample`` is called with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dmkd.recipes.image_options import ImageOptions
from dmkd.recipes.prompts import Wording

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Told:
    """What a generator is told of the classes and images that are wanted, besides its name."""

    class_names: Sequence[str] | None = None  # None: its own
    image_size: int | None = None  # pixels; None: its own
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of a plug-in's factory
    device: str = "cpu"  # that a plug-in is made on to be asked; others are described without


@dataclass(frozen=True)
class Loading:
    """How weights are loaded. A plug-in has its own way."""

    dtype: str | None  # of DTYPES
    vae_dtype: str | None  # see :func:`dmkd.recipes.dtypes.vae_dtype`
    compile: bool
    wording: Wording | None  # of prompts; None: the generator knows classes


class GeneratorFacts(Protocol):
    """Facts about any generator."""

    @property
    def name(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def sha256(self) -> str:
        """Of its weights, and of whatever else pixels depend on."""

    @property
    def cpu_sub_batch(self) -> int:
        """Images sampled at once on a CPU by default."""

    @property
    def takes_dtype(self) -> bool:
        """Whether it is told the number type of its weights."""

    @property
    def can_be_compiled(self) -> bool:
        """Whether its models may go through ``torch.compile``."""

    @property
    def can_be_steered(self) -> bool:
        """Whether its ``sample`` takes a ``steer``: a :class:`dmkd.generators.sampling.Steer`."""

    @property
    def least_guidance(self) -> float:
        """The smallest guidance scale that it takes."""

    def defaults(self, of_source: Mapping[str, Any], images: ImageOptions) -> Mapping[str, Any]:
        """What a store of these images is made with by default: see ``GeneratorSource.defaults``."""

    def notices(self, images: ImageOptions) -> list[str]:
        """What to say before a store is made of these images."""

    def sampling(self, images: ImageOptions, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a recipe that say how this generator is sampled and prompted.

        Raises ``UsageError`` for options it does not support.
        """


class ImageGenerator(Protocol):
    """What makes images."""

    @property
    def info(self) -> GeneratorFacts: ...

    @property
    def sample(self) -> "Callable[..., torch.Tensor]":
        """``sample(class_ids, seeds, **options)``: of class ids, int32 (n,), from seeds, int64 (n,) in [0, 2^32), images, uint8
        (n, H, W, 3) on its device. The same call gives the same bits, whatever was sampled before. ``options``: what
        :meth:`dmkd.recipes.recipe.Recipe.sampling` says of these images."""
