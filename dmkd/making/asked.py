"""What was asked for, checked as far as words alone allow: without torch, models or a store, so that a slip is answered at
once. What depends on the generator, the teachers or the store is checked by :mod:`dmkd.making.resolve`."""

from dataclasses import dataclass

from dmkd.classifiers.sources import parse_classifier
from dmkd.classifiers.sources.clip import Clip
from dmkd.generators.samplers import OWN_SCHEDULER, sampler_named
from dmkd.generators.sources import check_arguments, parse_source
from dmkd.recipes.class_choice import class_parts
from dmkd.recipes.class_names import IMAGENET, class_names_from
from dmkd.recipes.dtypes import CLASSIFIER_PRECISIONS, DTYPES, WEIGHTS
from dmkd.recipes.guidance import parse_guidance, parse_interval
from dmkd.recipes.image_options import PRESETS, ImageOptions
from dmkd.recipes.prompts import parse_templates
from dmkd.recipes.randomness import check_number_of_images
from dmkd.recipes.zero_shot import TEACHER_PROMPT, parse_teacher_prompts
from dmkd.stores import UsageError, parse_codec
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.views.policy import parse_views


@dataclass(frozen=True)
class LabelOptions:
    """Which labels. ``teachers`` None: those that the store has already, or its generator's default."""

    teachers: tuple[str, ...] | None = None
    views: str | None = None
    view_seed: int | None = None
    codec: str | None = None  # None: float16
    name: str | None = None
    teacher_precision: str | None = None  # None: as the labels that are there, or what suits the device
    teacher_prompts: tuple[str, ...] | None = None  # None: as the labels that are there, or the default one

    @property
    def templates(self) -> tuple[str, ...] | None:
        """What ``teacher_prompts`` come to. Raises ``UsageError``."""
        return None if self.teacher_prompts is None else parse_teacher_prompts(self.teacher_prompts)


def check_images(images: ImageOptions) -> None:
    """Raise ``UsageError`` for what no generator could make."""
    for option in ("images", "block_size", "sub_batch", "image_size", "size", "steps", "guided_channels"):
        check_least(option, getattr(images, option), 1)
    if images.images is not None:
        check_number_of_images(images.images)
    check_least("seed", images.seed, 0)
    if images.preset not in (None, *PRESETS):
        raise UsageError(f"--preset must be one of {', '.join(PRESETS)}, not {images.preset!r}.")
    if images.sampler not in (None, OWN_SCHEDULER):
        sampler_named(images.sampler)
    if images.guidance is not None:
        parse_guidance(images.guidance, least=0)
    parse_interval(images.guidance_interval)
    if images.dtype not in (None, *DTYPES):
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}, not {images.dtype!r}.")
    if images.vae_dtype not in (None, *WEIGHTS):
        raise UsageError(f"--vae-dtype must be one of {', '.join(WEIGHTS)}, not {images.vae_dtype!r}.")
    parse_image_codec(images.image_codec)
    if images.prompts is not None:
        parse_templates(images.prompts)
    if images.classes is not None:
        class_parts(images.classes)
    if images.class_names is not None and images.class_names != IMAGENET:
        class_names_from(images.class_names)
    if images.generator is not None:
        source = parse_source(images.generator)
        check_arguments(source, images.generator_args)
        source.kind.check(source)


def check_labels(labels: LabelOptions) -> None:
    """Raise ``UsageError`` for labels that no store could hold, and for teachers whose file is not there."""
    check_least("view_seed", labels.view_seed, 0)
    if labels.views is not None:
        parse_views(labels.views)
    parse_codec(labels.codec)
    if labels.teacher_precision not in (None, *CLASSIFIER_PRECISIONS):
        raise UsageError(
            f"--teacher-precision must be one of {', '.join(CLASSIFIER_PRECISIONS)}, not {labels.teacher_precision!r}."
        )
    kinds = [parse_classifier(teacher).kind for teacher in labels.teachers or () if teacher != "none"]
    if labels.templates is not None and not any(kind.of_words for kind in kinds):
        raise UsageError(
            f"{TEACHER_PROMPT} is for teachers that know classes by their names alone, such as --teacher {Clip.example}, and "
            "none of these is named: leave it out."
        )


def check_least(option: str, value: int | None, least: int) -> None:
    """Raise ``UsageError`` if the value of an option is below the least it can be; None: it was not given."""
    if value is not None and value < least:
        raise UsageError(f"--{option.replace('_', '-')} must be at least {least}, not {value}.")
