"""Pipelines of diffusers, in folders and on the Hugging Face hub, and the bundled one: DiTs and text-to-image."""

from pathlib import Path
from typing import Any

from dmkd import digits
from dmkd.generators.defaults import BUNDLED, DM_KD_DEFAULTS
from dmkd.generators.hub import check_source
from dmkd.generators.interface import GeneratorFacts, ImageGenerator, Loading, Told
from dmkd.generators.sources.kind import GeneratorSource, Kind


class Pipelines(Kind):
    """What no other kind takes."""

    example = "facebook/DiT-XL-2-256, ./my-pipeline"
    help = "hub id or folder of a diffusers pipeline: a class-conditional DiT, or text-to-image with --class-names"

    def parse(self, text: str) -> GeneratorSource:
        folder = Path(text).expanduser()
        place = str(folder.resolve()) if folder.is_dir() else text
        return GeneratorSource(place, place, None, DM_KD_DEFAULTS, self)

    def check(self, source: GeneratorSource) -> None:
        check_source(source.weights)

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
        if text != BUNDLED:
            return None
        return GeneratorSource(BUNDLED, str(digits.PIPELINE), BUNDLED, {**DM_KD_DEFAULTS, **digits.defaults()}, self)
