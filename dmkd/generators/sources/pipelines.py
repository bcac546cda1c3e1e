"""Pipelines of diffusers, in folders and on the Hugging Face hub, and the bundled one: DiTs and text-to-image."""

from pathlib import Path
from typing import Any

from dmkd import digits
from dmkd.generators.defaults import BUNDLED, DIT_CHECKPOINT, DM_KD_DEFAULTS
from dmkd.generators.hub import check_source
from dmkd.generators.interface import GeneratorFacts, ImageGenerator, Loading, Told
from dmkd.generators.sources.kind import GeneratorSource, Kind
from dmkd.recipes.other_vae import with_vae, without_vae
from dmkd.stores.errors import UsageError


class Pipelines(Kind):
    """What no other kind takes."""

    example = "facebook/DiT-XL-2-256, ./my-pipeline"
    help = "hub id or folder of a diffusers pipeline: a class-conditional DiT, or text-to-image with --class-names"
    has_vae = True

    def parse(self, text: str) -> GeneratorSource | None:
        generator, vae = without_vae(text)
        place = with_vae(_place(generator), vae and _place(vae))
        return GeneratorSource(place, place, None, DM_KD_DEFAULTS, self)

    def check(self, source: GeneratorSource) -> None:
        for place in without_vae(source.weights):
            if place is not None:
                check_source(place)

    def describe(self, weights: str, told: Told) -> GeneratorFacts:
        from dmkd.generators.pipelines import describe_pipeline

        return describe_pipeline(weights, told.class_names, told.image_size)

    def configured(self, weights: str, told: Told) -> tuple[GeneratorFacts, list[dict[str, Any]]]:
        from dmkd.generators.pipelines import configured_pipeline

        return configured_pipeline(weights)

    def load(self, weights: str, told: Told, loading: Loading, device: str) -> ImageGenerator:
        from dmkd.generators.pipelines import load_pipeline

        return load_pipeline(weights, told.image_size, loading, device)


class Bundled(Pipelines):
    """The pipeline that comes with dmkd, by its name."""

    example = BUNDLED
    help = "the bundled DiT of handwritten digits, 32x32 pixels"

    def parse(self, text: str) -> GeneratorSource | None:
        generator, vae = without_vae(text)
        if generator != BUNDLED:
            return None
        vae = vae and _place(vae)
        weights = with_vae(str(digits.PIPELINE), vae)
        return GeneratorSource(with_vae(BUNDLED, vae), weights, BUNDLED, {**DM_KD_DEFAULTS, **digits.defaults()}, self)


class Checkpoints(Pipelines):
    """A file of DiT's own code; the rest is as with a pipeline."""

    example = "dit:checkpoint.pt"
    help = "a checkpoint of DiT's own code, decoded by sd-vae-ft-mse or another --vae"
    numbered = True

    def parse(self, text: str) -> GeneratorSource | None:
        if not text.startswith(DIT_CHECKPOINT):
            return None
        generator, vae = without_vae(text.removeprefix(DIT_CHECKPOINT))
        place = with_vae(f"{DIT_CHECKPOINT}{Path(generator).expanduser().absolute()}", vae and _place(vae))
        return GeneratorSource(place, place, None, DM_KD_DEFAULTS, self)

    def check(self, source: GeneratorSource) -> None:
        file, vae = without_vae(source.weights.removeprefix(DIT_CHECKPOINT))
        if not Path(file).is_file():
            raise UsageError(f"There is no checkpoint {file}.")
        if vae is not None:
            check_source(vae)


def _place(text: str) -> str:
    """A folder's full path; a hub id as it is."""
    folder = Path(text).expanduser()
    return str(folder.resolve()) if folder.is_dir() else text
