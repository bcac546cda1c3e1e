"""`dmkd generate` and `dmkd label`: from what was asked for to a finished store."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmkd.blocks import WorkOrder
from dmkd.classifiers import load_classifier
from dmkd.devices import choose_device, default_cpu_threads
from dmkd.engine import Engine, RunOptions, planned_workers
from dmkd.fitting import fit_label_sets, pilot_blocks
from dmkd.guidance import parse_guidance, parse_interval
from dmkd.label_sets import LabelRequest, add_label_sets, check_request
from dmkd.progress import Display
from dmkd.prompts import (
    DEFAULT_TEMPLATE,
    class_names_from,
    classes_written_alike,
    first_synonym,
    names_sha256,
    parse_templates,
)
from dmkd.recipe import DTYPES, Recipe, parse_classes
from dmkd.sources import DEFAULT_GENERATOR, generator_defaults, generator_source, teacher_of, text_to_image_defaults
from dmkd.stores import Store, UsageError, create_store, open_store, parse_codec, store_exists
from dmkd.stores.identity import refuse_mismatch
from dmkd.stores.layout import choose_block_size
from dmkd.sub_batch import Trial, find_sub_batch, find_sub_batch_on_ray
from dmkd.versions import library_versions


@dataclass(frozen=True)
class LabelOptions:
    """Which labels. ``teachers`` None: those that the store has already, or its generator's default."""

    teachers: tuple[str, ...] | None = None
    views: str | None = None
    view_seed: int | None = None
    codec: str = "float16"
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
    # For text-to-image generators:
    class_names: str | None = None  # a text file, one name a line, or "imagenet"
    prompts: tuple[str, ...] | None = None  # templates, or "@FILE"
    negative_prompt: str | None = None
    image_size: int | None = None


def generate(
    path: str, images: ImageOptions, labels: LabelOptions, run: RunOptions, display: Display
) -> tuple[Store, list[str]]:
    """Make a store, or go on with one: images, and in the same pass their labels -> the store, its label sets.

    Everything is checked before the first file is written. Raises ``MismatchError`` if the store was made with another
    recipe, and leaves it as it is.
    """
    from dmkd.generator import describe_generator

    exists = store_exists(path)
    store = open_store(path) if exists else None
    source = images.generator or (store.source if store else DEFAULT_GENERATOR)
    if not source or (store is not None and store.recipe.get("source") == "import"):
        raise UsageError(f"{path} was not made by a generator, so no images can be added to it by one.")
    class_names = _class_names(store, images)
    image_size = images.image_size
    if image_size is None and store is not None and store.recipe.get("prompts"):
        image_size = store.recipe["image_size"]
    info = describe_generator(generator_source(source), class_names=class_names, image_size=image_size)
    name = "digits" if source == "digits" else info.name
    defaults = _defaults(name, info, images)
    device = _device(run)
    if store is not None:
        recipe = _recipe_to_go_on(store, images, info)
    else:
        num_images = images.images if images.images is not None else defaults["images"]
        image_shape = (info.image_size, info.image_size, 3)
        _check_at_least_one(images)
        block_size = images.block_size or choose_block_size(num_images, image_shape)
        recipe = _new_recipe(name, images, info, defaults, device, block_size)
    teachers = [load_classifier(teacher) for teacher in _teachers(labels, store, defaults)]
    for teacher in teachers:
        if teacher.num_classes != info.num_classes:
            raise UsageError(
                f"Teacher {teacher.source} tells {teacher.num_classes} classes apart and generator {name} makes "
                f"{info.num_classes}: use a teacher of the same classes, or --teacher none."
            )
    request = LabelRequest(teachers, parse_codec(labels.codec), labels.views, labels.view_seed, labels.name)
    workers = planned_workers(run, device)
    if recipe.prompts is not None and store is None:
        _tell_classes_written_alike(info.class_names, display)

    if store is None:
        check_request(request, image_shape[:2], defaults["views"])
        if images.sub_batch is None and device.startswith("cuda"):
            sources = tuple(teacher.source for teacher in teachers)
            trial = Trial(recipe, generator_source(source), info.class_names, sources, block_size)
            recipe = dataclasses.replace(recipe, sub_batch=_find_sub_batch(trial, device, workers, run, display))
        store = create_store(
            path,
            recipe=recipe.to_json(),
            num_images=num_images,
            image_shape=image_shape,
            class_names=info.class_names,
            block_size=block_size,
            versions=library_versions(),
            source="digits" if source == "digits" else generator_source(source),
        )
    else:
        if images.block_size not in (None, store.block_size):
            refuse_mismatch(
                path, {"block_size": store.block_size}, {"block_size": images.block_size}, "Leave --block-size out."
            )
        _tell_versions(store, display)
        if swept := store.sweep_partials():
            display.notice(f"Swept {swept} half-written files that an interrupted run left behind.")
        if images.images is not None:
            store.check_growth(images.images)
    add_label_sets(store, request)
    if images.images is not None:
        store.grow(images.images)
    label_sets = () if labels.teachers == ("none",) else tuple(store.labels)
    generator = generator_source(source)
    order = WorkOrder(store.path, label_sets, device, recipe.cpu_threads, generator)
    # A codec that is fitted on logits needs some images before its first label: those get their labels at the end.
    missing = set(store.missing_blocks())
    pilots = [block for block in pilot_blocks(store, label_sets) if block in missing]
    with Engine(store, run, device, display, "generate", _log_options(images, labels, run)) as engine:
        engine.run(dataclasses.replace(order, label_sets=()), pilots, "generate")
        fit_label_sets(store, label_sets, _driver_device(run, device), recipe.cpu_threads, display)
        engine.run(order, store.missing_blocks(), "generate")
        _label_blocks(engine, label_sets)
    store.touch(library_versions())
    return store, list(label_sets)


def label(path: str, labels: LabelOptions, run: RunOptions, display: Display) -> tuple[Store, list[str]]:
    """Add a teacher's labels to images that are there, or finish labels that were begun -> the store, the label sets."""
    store = open_store(path)
    device = _device(run)
    planned_workers(run, device)  # refuses before a label set is begun
    if labels.teachers is None and store.labels:
        names = list(store.labels)
    else:
        defaults = generator_defaults(store.recipe.get("generator", ""))
        if store.recipe.get("prompts"):
            defaults = {**defaults, "teacher": teacher_of(store.class_names)}
        sources = _teachers(labels, None, defaults)
        if not sources and labels.teachers is None:
            raise UsageError(
                f"The classes of {path} are not ImageNet's, so there is no default teacher: name one with --teacher."
            )
        if not sources:
            raise UsageError("There is nothing to label with --teacher none.")
        teachers = [load_classifier(source) for source in sources]
        request = LabelRequest(teachers, parse_codec(labels.codec), labels.views, labels.view_seed, labels.name)
        names = add_label_sets(store, request)
    _tell_versions(store, display)
    if swept := store.sweep_partials():
        display.notice(f"Swept {swept} half-written files that an interrupted run left behind.")
    if missing := store.missing_blocks():
        display.notice(f"{len(missing)} of {store.num_blocks} blocks have no images yet; the others are labelled.")
    with Engine(store, run, device, display, "label", _log_options(labels, run)) as engine:
        _label_blocks(engine, tuple(names))
    store.touch(library_versions())
    return store, names


def _teachers(labels: LabelOptions, store: Store | None, defaults: dict[str, Any]) -> Sequence[str]:
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
        # On a GPU only until the largest that fits is found.
        sub_batch=_first(images.sub_batch, min(block_size, _sub_batch(info))),
        compile=bool(images.compile),
        cpu_threads=default_cpu_threads() if device == "cpu" else None,
    )


def _find_sub_batch(trial: Trial, device: str, workers: int | None, run: RunOptions, display: Display) -> int:
    """The largest sub-batch that fits where the work will be done: on this GPU, or on one of the Ray cluster's."""
    display.notice("Trying how many images fit on the GPU at once; --sub-batch N would say it.")
    found = find_sub_batch(trial, device) if workers == 0 else find_sub_batch_on_ray(trial, run.ray_address)
    display.notice(f"{found} images at once.")
    return found


def _dit_sampling(images: ImageOptions, info: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe that say how a class-conditional generator is sampled."""
    from dmkd.sampling import check_guided_channels, check_sampling, default_guided_channels

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
    from dmkd.text_to_image import check_text_to_image

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
    from dmkd.generator import GeneratorInfo

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


def _tell_classes_written_alike(class_names: Sequence[str], display: Display) -> None:
    for group in classes_written_alike(class_names):
        display.notice(
            f"Classes {', '.join(map(str, group))} are all called {first_synonym(class_names[group[0]])!r}, so their images "
            "will be alike: give them different first names in a file of --class-names."
        )


def _check_at_least_one(images: ImageOptions) -> None:
    for option in ("images", "block_size", "sub_batch", "image_size"):
        value = getattr(images, option)
        if value is not None and value < 1:
            raise UsageError(f"--{option.replace('_', '-')} must be at least 1, not {value}.")


def _recipe_to_go_on(store: Store, images: ImageOptions, info: Any) -> Recipe:
    """The store's recipe, after comparing it with every option that was given."""
    stored = store.recipe
    recipe = Recipe.from_json(stored)
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
    asked["generator_sha256"] = info.sha256
    refuse_mismatch(
        f"The recipe of {store.path}",
        stored,
        asked,
        "Leave the differing options out to go on with the store's recipe, or give another --store.",
    )
    return recipe


def _label_blocks(engine: Engine, names: Sequence[str]) -> None:
    """Label what has images and no labels, one label set after the other."""
    store, device = engine.store, engine.device
    without_images = set(store.missing_blocks())
    threads = store.recipe.get("cpu_threads") or (default_cpu_threads() if device == "cpu" else None)
    fit_label_sets(store, names, _driver_device(engine.run_options, device), threads, engine.display)
    for name in names:
        blocks = [block for block in store.labels[name].missing_blocks() if block not in without_images]
        engine.run(WorkOrder(store.path, (name,), device, threads, generator=None), blocks, f"label {name}")


def _device(run: RunOptions) -> str:
    """The workers' device. On a Ray cluster it is not this machine that must have the GPUs."""
    if not run.ray_address:
        return choose_device(run.device)
    if run.device not in (None, "cpu", "cuda"):
        raise UsageError(
            f"--device {run.device!r}: on a Ray cluster it is cuda (each actor gets a GPU of its own) or cpu."
        )
    if run.device is None:
        from dmkd.ray_engine import cluster_gpus

        return "cuda" if cluster_gpus(run.ray_address) else "cpu"
    return run.device


def _driver_device(run: RunOptions, device: str) -> str:
    """Where this process itself runs a model: the driver of a cluster may have no GPU."""
    return choose_device(None) if run.ray_address and device == "cuda" else device


def _log_options(*groups: Any) -> dict[str, Any]:
    """The options that were given, for the run log."""
    given = {key: value for group in groups for key, value in dataclasses.asdict(group).items() if value is not None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def _tell_versions(store: Store, display: Display) -> None:
    """Say which libraries have changed since the store was made: another rounding is possible, no more."""
    before, now = store.attributes.get("versions", {}), library_versions()
    changed = [f"{k} {before[k]} -> {now[k]}" for k in before.keys() & now.keys() if before[k] != now[k]]
    if changed:
        display.notice(
            f"{store.path} was made with other versions ({', '.join(sorted(changed))}); "
            "new blocks may differ from old ones by a rounding error."
        )
