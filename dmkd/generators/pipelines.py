"""Which kind of pipeline a folder or hub repository holds, a DiT or a text-to-image one, or a checkpoint of DiT's own code:
described, or with its weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dmkd.generators import dit_xl_2_256
from dmkd.generators.defaults import DIT_CHECKPOINT
from dmkd.generators.dit import Generator, GeneratorInfo, describe_dit, dit_info, load_dit
from dmkd.generators.dit_files import CONFIGS, NEEDS
from dmkd.generators.hub import resolve_folder
from dmkd.generators.interface import Loading
from dmkd.generators.pipeline_files import read_json
from dmkd.generators.text_to_image import (
    TextToImageGenerator,
    TextToImageInfo,
    describe_text_to_image,
    load_text_to_image,
)
from dmkd.recipes.dtypes import DTYPES
from dmkd.recipes.dtypes import vae_dtype as resolved_vae_dtype
from dmkd.recipes.other_vae import without_vae
from dmkd.stores.errors import UsageError


def describe_pipeline(
    source: str, class_names: Sequence[str] | None = None, image_size: int | None = None
) -> GeneratorInfo | TextToImageInfo:
    """What the pipeline in a folder or hub repository, or the DiT in ``dit:FILE``, is, without loading its weights (they are read
    for the sha256). A DiT may be named together with another VAE (:mod:`dmkd.recipes.other_vae`).

    A text-to-image pipeline needs ``class_names``, and takes an ``image_size`` in pixels (None: its own); a DiT has both
    already, but for a checkpoint, whose classes are numbers to which ``class_names`` put names.

    Raises ``UsageError`` if there is none or it is not of a kind that dmkd can sample, ``DmkdError`` if the hub can't be
    reached.
    """
    # The index first, and alone: for another kind of pipeline the error should say so, not that a DiT's files are missing.
    place, vae = without_vae(source)
    index = _index(place, wanted=NEEDS)
    if index is not None and _reads_text(index):
        if vae is not None:
            raise UsageError(f"--vae is for DiTs; {place} is a text-to-image pipeline, and decodes with its own.")
        return describe_text_to_image(source, index, class_names=class_names, image_size=image_size)
    info = describe_dit(place, index, vae=vae)
    if index is None and class_names is not None:
        info = _named(info, class_names)
    elif class_names is not None:
        raise UsageError(f"--class-names is for text-to-image generators; {info.name} has classes of its own.")
    if image_size not in (None, info.image_size):
        raise UsageError(
            f"--image-size {image_size}: {info.name} makes images of {info.image_size} pixels, and no other."
        )
    return info


def configured_pipeline(source: str) -> tuple[GeneratorInfo, list[dict[str, Any]]]:
    """As :func:`describe_pipeline`, from the configuration alone: weights are neither read nor downloaded, and the sha256
    is empty. Also returns the configurations: index, transformer, VAE, scheduler. Enough for planning.

    The one of DiT-XL/2 at 256 x 256 is bundled, so runs of the default generator can be planned without a network."""
    place, vae = without_vae(source)
    if source == dit_xl_2_256.SOURCE and not Path(source).is_dir():
        configs = dit_xl_2_256.configs()
        return dit_info(source, source, configs, None, ""), configs
    index = _index(place, wanted=CONFIGS)
    if index is not None and _reads_text(index):
        raise UsageError(
            f"{source} is a text-to-image pipeline, whose arithmetic dmkd can't count yet: it plans DiT pipelines only."
        )
    info = describe_dit(place, index, vae=vae, weights=False)
    assert info.files is not None
    return info, info.files.configs


def load_pipeline(
    source: str, image_size: int | None, loading: Loading, device: torch.device | str
) -> Generator | TextToImageGenerator:
    """Load a pipeline's weights as a type of ``DTYPES`` onto a device. A text-to-image one needs the ``wording`` of its prompts,
    and takes an ``image_size``; a DiT has both already.

    Raises what ``describe_pipeline`` and ``load_dit`` raise.
    """
    dtype, wording = loading.dtype, loading.wording
    if dtype not in DTYPES:
        raise UsageError(f"A generator can't run in {dtype}; choose {', '.join(DTYPES)}.")
    info = describe_pipeline(source) if wording is None else describe_pipeline(source, wording.class_names, image_size)
    if isinstance(info, GeneratorInfo):
        vae_dtype = resolved_vae_dtype(dtype, loading.vae_dtype)
        return load_dit(info, device=device, dtype=dtype, vae_dtype=vae_dtype, compile=loading.compile)
    assert wording is not None  # otherwise there were no class names, and describe_pipeline has raised
    return load_text_to_image(info, wording, device=device, dtype=getattr(torch, dtype))


def _named(info: GeneratorInfo, class_names: Sequence[str]) -> GeneratorInfo:
    if len(class_names) != info.num_classes:
        raise UsageError(
            f"--class-names has {len(class_names):,} names, and {info.name} has {info.num_classes:,} classes."
        )
    return replace(info, class_names=tuple(class_names))


def _index(source: str, wanted: tuple[str, ...]) -> dict[str, Any] | None:
    """A pipeline's ``model_index.json``; None: a checkpoint, which has none. ``wanted``: all that a DiT needs, for the message if
    the hub can't be reached."""
    if source.startswith(DIT_CHECKPOINT):
        return None
    return read_json(resolve_folder(source, needs=("model_index.json",), wanted=wanted) / "model_index.json")


def _reads_text(index: dict[str, Any]) -> bool:
    """Whether a pipeline takes text."""
    return any(name.startswith("text_encoder") for name in index)
