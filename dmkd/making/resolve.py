"""From what was asked for to what is wanted: options and defaults become a recipe, compared with the store's if there is one.

Nothing is made or changed here, so `dmkd plan` resolves as `dmkd generate` does.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmkd.classifiers.classifier import Classifier
from dmkd.generators.defaults import DEFAULT_GENERATOR, generator_defaults, generator_source, text_to_image_defaults
from dmkd.making.label_sets import LabelRequest
from dmkd.recipes.class_names import class_names_from, names_sha256, parse_classes
from dmkd.recipes.guidance import parse_guidance, parse_interval
from dmkd.recipes.prompts import DEFAULT_TEMPLATE, parse_templates
from dmkd.recipes.recipe import DTYPES, Recipe
from dmkd.runtime.devices import default_cpu_threads
from dmkd.stores import Store, UsageError, open_store, parse_codec, store_exists
from dmkd.stores.identity import refuse_mismatch
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.stores.layout import choose_block_size
from dmkd.views.policy import parse_policy

if TYPE_CHECKING:
    from dmkd.generators.dit import GeneratorInfo
    from dmkd.generators.text_to_image import TextToImageInfo


@dataclass(frozen=True)
class LabelOptions:
    """Which labels. ``teachers`` None: those that the store has already, or its generator's default."""

    teachers: tuple[str, ...] | None = None
    views: str | None = None
    view_seed: int | None = None
    codec: str | None = None  # None: float16
    name: str | None = None


@dataclass(frozen=True)
class ImageOptions:
    """Which images. ``None``: as the store has it, or the generator's default."""

    generator: str | None = None
    images: int | None = None
    classes: str | None = None
    sampler: str | None = None
    steps: int | None = None
    guidance: float | str | None = None  # "1.5:3" for a range
    guidance_interval: str | None = None  # "0.1:0.27"
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


@dataclass(frozen=True)
class WantedImages:
    """What the images of a run are, before anything is made or changed."""

    store: Store | None  # None: there is none yet
    source: str  # of the generator: digits, a folder's whole path or a hub id
    info: "GeneratorInfo | TextToImageInfo"
    defaults: dict[str, Any]  # of this generator
    recipe: Recipe
    num_images: int
    block_size: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.info.image_size, self.info.image_size, 3


def resolve_images(path: str, images: ImageOptions, device: str, describe: Callable[..., Any]) -> WantedImages:
    """From what was asked for to the images wanted, on a new store or on the one at ``path``, which is left as it is.

    ``describe`` is ``describe_generator``, or does the same without weights. Raises ``UsageError`` for what can't be done,
    ``MismatchError`` for what differs from the store.
    """
    store = open_store(path) if store_exists(path) else None
    source = images.generator or (store.source if store else DEFAULT_GENERATOR)
    if not source or (store is not None and store.recipe.get("source") == "import"):
        raise UsageError(f"{path} was not made by a generator, so no images can be added to it by one.")
    image_size = images.image_size
    if image_size is None and store is not None and store.recipe.get("prompts"):
        image_size = store.recipe["image_size"]
    info = describe(generator_source(source), class_names=_class_names(store, images), image_size=image_size)
    name = "digits" if source == "digits" else info.name
    source, defaults = name if name == "digits" else generator_source(source), _defaults(name, info, images)
    if store is not None:
        recipe = _recipe_to_go_on(store, images, info)
        if images.block_size not in (None, store.block_size):
            refuse_mismatch(
                path, {"block_size": store.block_size}, {"block_size": images.block_size}, "Leave --block-size out."
            )
        if images.images is not None:
            store.check_growth(images.images)
        num_images = images.images if images.images is not None else store.num_images
        return WantedImages(store, source, info, defaults, recipe, num_images, store.block_size)
    num_images = images.images if images.images is not None else defaults["images"]
    _check_at_least_one(images)
    block_size = images.block_size or choose_block_size(num_images, (info.image_size, info.image_size, 3))
    recipe = _new_recipe(name, images, info, defaults, device, block_size)
    return WantedImages(None, source, info, defaults, recipe, num_images, block_size)


def resolve_labels(labels: LabelOptions, wanted: WantedImages, load: Callable[[str], Classifier]) -> LabelRequest:
    """The labels asked for with their teachers, by ``load``. Raises ``UsageError`` if a teacher knows other classes."""
    teachers = [load(teacher) for teacher in teachers_wanted(labels, wanted.store, wanted.defaults)]
    for teacher in teachers:
        if teacher.num_classes != wanted.info.num_classes:
            raise UsageError(
                f"Teacher {teacher.source} tells {teacher.num_classes} classes apart and generator "
                f"{wanted.recipe.generator} makes {wanted.info.num_classes}: use a teacher of the same classes, or "
                "--teacher none."
            )
    if labels.teachers is None and not teachers and wanted.store is not None:
        _refuse_labels_without_teacher(labels, wanted.store)
    return LabelRequest(teachers, parse_codec(labels.codec), labels.views, labels.view_seed, labels.name)


def _refuse_labels_without_teacher(labels: LabelOptions, store: Store) -> None:
    """Without a teacher nothing new is labelled on a store that is there: what is said of labels must be so of some it has."""
    policy = labels.views and parse_policy(labels.views).to_json()
    codec = labels.codec and parse_codec(labels.codec).to_json()
    wishes = {"--views": labels.views, "--view-seed": labels.view_seed, "--codec": labels.codec, "--name": labels.name}
    given = " ".join(f"{option} {value}" for option, value in wishes.items() if value is not None)
    for label_set in store.labels.values():
        views = store.views[label_set.view_set].attributes
        found = (views["policy"], views["seed"], label_set.codec.to_json(), label_set.name)
        if all(w is None or w == f for w, f in zip((policy, labels.view_seed, codec, labels.name), found, strict=True)):
            return
    if given:
        raise UsageError(
            f"{store.path} has no labels of {given}, and none are made without a teacher: name it with --teacher, or leave "
            "these options out."
        )


def teachers_wanted(labels: LabelOptions, store: Store | None, defaults: dict[str, Any]) -> Sequence[str]:
    """The teachers to load: those asked for; on a store that is there, none but its own; else the default one.

    A run that was interrupted before its first label set left a store with neither labels nor images: a new one still.
    """
    if labels.teachers is None:
        begun = store is not None and (store.labels or len(store.missing_blocks()) < store.num_blocks)
        return [] if begun or defaults["teacher"] == "none" else [defaults["teacher"]]
    if "none" in labels.teachers:
        if len(labels.teachers) > 1:
            raise UsageError("--teacher none does not go with another --teacher.")
        return []
    return list(dict.fromkeys(labels.teachers))


def _new_recipe(
    name: str, images: ImageOptions, info: Any, defaults: dict[str, Any], device: str, block_size: int
) -> Recipe:
    sampling = _text_sampling if _reads_text(info) else _dit_sampling
    dtype = _first(images.dtype, "bfloat16" if device.startswith("cuda") else "float32")
    if dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    return Recipe(
        generator=name,
        generator_sha256=info.sha256,
        image_size=info.image_size,
        classes=parse_classes(images.classes, list(info.class_names)) if images.classes else None,
        num_classes=info.num_classes,
        **sampling(images, info, defaults),
        dtype=dtype,
        seed=_first(images.seed, 0),
        # On a GPU a whole block, until the largest that fits is found.
        sub_batch=_first(
            images.sub_batch, block_size if device.startswith("cuda") else min(block_size, _sub_batch(info))
        ),
        compile=bool(images.compile),
        cpu_threads=default_cpu_threads() if device == "cpu" else None,
        image_codec=str(parse_image_codec(images.image_codec)),
    )


def _dit_sampling(images: ImageOptions, info: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe that say how a class-conditional generator is sampled."""
    from dmkd.generators.sampling import check_guided_channels, check_sampling, default_guided_channels

    for option in ("prompts", "negative_prompt"):
        if getattr(images, option) is not None:
            raise UsageError(
                f"--{option.removesuffix('s').replace('_', '-')} is for text-to-image generators; {info.name} is told the "
                "class itself."
            )
    sampler, steps = _first(images.sampler, defaults["sampler"]), _first(images.steps, defaults["steps"])
    check_sampling(sampler, steps, info.num_train_timesteps)
    channels = info.latent_shape[0]
    guided_channels = _first(images.guided_channels, default_guided_channels(sampler, channels))
    check_guided_channels(guided_channels, channels)
    return {
        "sampler": sampler,
        "steps": steps,
        "guidance": parse_guidance(_first(images.guidance, defaults["guidance"])),
        "guidance_interval": parse_interval(images.guidance_interval),
        "guided_channels": guided_channels,
    }


def _text_sampling(images: ImageOptions, info: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe that say how a text-to-image generator is sampled, and what it is told."""
    from dmkd.generators.text_to_image import check_text_to_image

    if images.compile:
        raise UsageError("--compile is for class-conditional generators; text-to-image pipelines run as they are.")
    for option in ("guidance_interval", "guided_channels"):
        if getattr(images, option) is not None:
            raise UsageError(
                f"--{option.replace('_', '-')} is for class-conditional generators; {info.name} is a text-to-image pipeline, "
                "which guides all channels at all steps."
            )
    guidance = parse_guidance(_first(images.guidance, defaults["guidance"]), least=0)
    if isinstance(guidance, tuple):
        raise UsageError(
            f"--guidance {images.guidance}: {info.name} is a text-to-image pipeline, which takes one scale for all images."
        )
    sampler, steps = _first(images.sampler, defaults["sampler"]), _first(images.steps, defaults["steps"])
    negative = images.negative_prompt is not None
    check_text_to_image(info, sampler=sampler, steps=steps, negative=negative, guidance=guidance)
    return {
        "sampler": sampler,
        "steps": steps,
        "guidance": guidance,
        "guidance_interval": None,
        "guided_channels": None,
        "prompts": parse_templates(images.prompts or (DEFAULT_TEMPLATE,)),
        "negative_prompt": images.negative_prompt,
        "class_names_sha256": names_sha256(info.class_names),
    }


def _sub_batch(info: Any) -> int:
    """Images sampled at once on a CPU, unless told.

    Those of text-to-image pipelines are large, so it is their pixels that count; a power of two, as blocks are.
    """
    if _reads_text(info):
        most = max(1, 8 * 256**2 // info.image_size**2)
        return 1 << (most.bit_length() - 1)
    return 64 if info.image_size <= 64 else 8


def _first(*values: Any) -> Any:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def _reads_text(info: Any) -> bool:
    from dmkd.generators.dit import GeneratorInfo

    return not isinstance(info, GeneratorInfo)


def _class_names(store: Store | None, images: ImageOptions) -> tuple[str, ...] | None:
    """The class names for a text-to-image generator: those told, else those of its store."""
    if images.class_names is not None:
        return class_names_from(images.class_names)
    return tuple(store.class_names) if store is not None and store.recipe.get("prompts") else None


def _defaults(name: str, info: Any, images: ImageOptions) -> dict[str, Any]:
    if not _reads_text(info):
        return generator_defaults(name)
    names = list(info.class_names)
    chosen = parse_classes(images.classes, names) if images.classes else names
    return text_to_image_defaults(info.default_steps, info.default_guidance, names, len(chosen))


def _check_at_least_one(images: ImageOptions) -> None:
    for option in ("images", "block_size", "sub_batch", "image_size"):
        value = getattr(images, option)
        if value is not None and value < 1:
            raise UsageError(f"--{option.replace('_', '-')} must be at least 1, not {value}.")


def _recipe_to_go_on(store: Store, images: ImageOptions, info: Any) -> Recipe:
    """The store's recipe, after comparing it with every option that was given."""
    recipe = Recipe.from_json(store.recipe)
    stored = recipe.to_json()  # with the fields that are younger than the store
    asked = dict(stored)
    parsers: dict[str, Any] = {
        "guidance": functools.partial(parse_guidance, least=0 if stored["prompts"] else 1),
        "guidance_interval": parse_interval,
        "prompts": parse_templates,
    }
    for option, parse in parsers.items():
        if (value := getattr(images, option)) is not None:
            parsed = parse(value)
            asked[option] = list(parsed) if isinstance(parsed, tuple) else parsed
    for option in (
        "sampler", "steps", "guided_channels", "dtype", "seed", "sub_batch", "compile", "negative_prompt", "image_size"
    ):  # fmt: skip
        value = getattr(images, option)
        asked[option] = stored[option] if value is None else value
    if images.class_names is not None:
        asked["class_names_sha256"] = names_sha256(info.class_names)
    if images.classes is not None:
        asked["classes"] = list(parse_classes(images.classes, list(info.class_names)))
    if images.image_codec is not None:
        asked["image_codec"] = str(parse_image_codec(images.image_codec))
    asked["generator_sha256"] = info.sha256 or stored["generator_sha256"]  # empty: the weights were not read
    refuse_mismatch(
        f"The recipe of {store.path}",
        stored,
        asked,
        "Leave the differing options out to go on with the store's recipe, or give another --store.",
    )
    return recipe
