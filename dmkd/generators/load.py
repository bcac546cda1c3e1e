"""Generators of every kind, by the name that a user gives or a store records: described, or ready to sample."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmkd.generators.interface import GeneratorFacts, ImageGenerator, Loading, Told
from dmkd.generators.sources import parse_source
from dmkd.recipes.prompts import Wording

if TYPE_CHECKING:
    import torch


def describe_generator(
    source: str,
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> GeneratorFacts:
    """What a generator is. The weights of a pipeline are not loaded (they are read for the sha256); a plug-in is made on
    ``device`` with the ``arguments`` of its factory, and tried.

    A text-to-image pipeline needs ``class_names``, and takes an ``image_size`` in pixels (None: its own); others have their own.

    Raises ``UsageError`` if there is none or it is not of a kind that dmkd can sample, ``DmkdError`` if the hub can't be
    reached.
    """
    return parse_source(source).kind.describe(source, Told(class_names, image_size, arguments or {}, device))


def configured_generator(
    source: str,
    *,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[GeneratorFacts, list[dict[str, Any]]]:
    """As :func:`describe_generator`, as far as planning needs it: the weights of a pipeline are neither read nor downloaded, and
    the sha256 is empty; a plug-in is made on the CPU and not tried. Also returns the configurations of a DiT pipeline, from
    which its arithmetic is counted: index, transformer, VAE, scheduler."""
    return parse_source(source).kind.configured(source, Told(class_names, image_size, arguments or {}))


def load_generator(
    source: str,
    *,
    device: "torch.device | str",
    dtype: "torch.dtype | str | None" = None,
    vae_dtype: str | None = None,
    compile: bool = False,
    wording: Wording | None = None,
    image_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> ImageGenerator:
    """Load a generator onto a device.

    Of a pipeline: its weights as a type of ``DTYPES`` (its name, or torch's dtype); ``vae_dtype``: see
    :func:`dmkd.recipes.dtypes.vae_dtype`, DiTs alone have a choice; ``compile``: see ``Generator``. ``wording`` says how a
    text-to-image generator's prompts name the class, ``image_size`` how many pixels it is to make. ``arguments``: of a plug-in's
    factory.

    Raises what ``describe_generator`` raises, and ``DmkdError`` for damaged weights.
    """
    named = None if dtype is None else str(dtype).removeprefix("torch.")
    loading = Loading(named, vae_dtype, compile, wording)
    told = Told(None, image_size, arguments or {})
    return parse_source(source).kind.load(source, told, loading, str(device))
