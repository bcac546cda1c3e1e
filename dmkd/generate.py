"""`dmkd generate` and `dmkd label`: from what was asked for to a finished store."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmkd.blocks import WorkOrder
from dmkd.classifiers import Classifier, load_classifier
from dmkd.devices import choose_device, default_cpu_threads
from dmkd.engine import BlockDone, run_here
from dmkd.fitting import fit_label_sets, pilot_blocks
from dmkd.guidance import parse_guidance, parse_interval
from dmkd.label_sets import LabelRequest, add_label_sets, check_request
from dmkd.progress import Display
from dmkd.recipe import DTYPES, Recipe, parse_classes
from dmkd.recipe_file import resolved_options, to_toml
from dmkd.sources import DEFAULT_GENERATOR, generator_defaults, generator_source
from dmkd.stores import Store, UsageError, create_store, open_store, parse_codec, store_exists
from dmkd.stores.identity import refuse_mismatch
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.stores.layout import choose_block_size
from dmkd.versions import library_versions

if TYPE_CHECKING:
    from dmkd.generator import GeneratorInfo


@dataclass(frozen=True)
class RunOptions:
    """Where the work is done."""

    workers: int | None = None  # Ray actors; 0: this process; None: one a GPU if there are several, else 0
    device: str | None = None  # None: the GPU if there is one
    ray_address: str | None = None


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
    block_size: int | None = None
    image_codec: str | None = None


def generate(
    path: str,
    images: ImageOptions,
    labels: LabelOptions,
    run: RunOptions,
    display: Display,
    tell_recipe: Callable[[str], None] | None = None,
) -> tuple[Store, list[str]]:
    """Make a store, or go on with one: images, and in the same pass their labels -> the store, its label sets.

    ``tell_recipe`` is given a new store's resolved recipe, as TOML. Everything is checked before the first file is
    written. Raises ``MismatchError`` if the store was made with another recipe, and leaves it as it is.
    """
    from dmkd.generator import describe_generator

    device = choose_device(run.device)
    wanted = resolve_images(path, images, device, describe_generator)
    store, recipe = wanted.store, wanted.recipe
    request = resolve_labels(labels, wanted, load_classifier)
    workers = _workers(run, device)

    if store is None:
        check_request(request, wanted.image_shape[:2], wanted.defaults["views"])
        store = create_store(
            path,
            recipe=recipe.to_json(),
            num_images=wanted.num_images,
            image_shape=wanted.image_shape,
            class_names=wanted.info.class_names,
            block_size=wanted.block_size,
            versions=library_versions(),
            source=wanted.source,
            image_codec=recipe.image_codec,
        )
        if tell_recipe is not None:
            tell_recipe(to_toml(resolved_options(wanted, request, labels)))
    else:
        _tell_versions(store, display)
        if swept := store.sweep_partials():
            display.notice(f"Swept {swept} half-written files that an interrupted run left behind.")
    add_label_sets(store, request)
    if images.images is not None:
        store.grow(images.images)
    label_sets = () if labels.teachers == ("none",) else tuple(store.labels)
    generator = generator_source(wanted.source)
    order = WorkOrder(store.path, label_sets, device, recipe.cpu_threads, generator)
    # A codec that is fitted on logits needs some images before its first label: those get their labels at the end.
    missing = set(store.missing_blocks())
    pilots = [block for block in pilot_blocks(store, label_sets) if block in missing]
    _run_blocks(store, dataclasses.replace(order, label_sets=()), pilots, workers, run.ray_address, display)
    fit_label_sets(store, label_sets, device, recipe.cpu_threads, display)
    _run_blocks(store, order, store.missing_blocks(), workers, run.ray_address, display)
    _label_blocks(store, label_sets, workers, run.ray_address, device, display)
    store.touch(library_versions())
    return store, list(label_sets)


@dataclass(frozen=True)
class WantedImages:
    """What the images of a run are, before anything is made or changed."""

    store: Store | None  # None: there is none yet
    source: str  # of the generator: digits, a folder's whole path or a hub id
    info: "GeneratorInfo"
    defaults: dict[str, Any]  # of this generator
    recipe: Recipe
    num_images: int
    block_size: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.info.image_size, self.info.image_size, 3


def resolve_images(
    path: str, images: ImageOptions, device: str, describe: Callable[[str], "GeneratorInfo"]
) -> WantedImages:
    """From what was asked for to the images wanted, on a new store or on the one at ``path``, which is left as it is.

    ``describe`` tells of a generator's source what it is. Raises ``UsageError`` for what can't be done, ``MismatchError``
    for what differs from the store.
    """
    store = open_store(path) if store_exists(path) else None
    source = images.generator or (store.source if store else DEFAULT_GENERATOR)
    if not source or (store is not None and store.recipe.get("source") == "import"):
        raise UsageError(f"{path} was not made by a generator, so no images can be added to it by one.")
    info = describe(generator_source(source))
    name = "digits" if source == "digits" else info.name
    source, defaults = name if name == "digits" else generator_source(source), generator_defaults(name)
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
    teachers = [load(teacher) for teacher in _teachers(labels, wanted.store, wanted.defaults)]
    for teacher in teachers:
        if teacher.num_classes != wanted.info.num_classes:
            raise UsageError(
                f"Teacher {teacher.source} tells {teacher.num_classes} classes apart and generator "
                f"{wanted.recipe.generator} makes {wanted.info.num_classes}: use a teacher of the same classes, or "
                "--teacher none."
            )
    return LabelRequest(teachers, parse_codec(labels.codec), labels.views, labels.view_seed, labels.name)


def label(path: str, labels: LabelOptions, run: RunOptions, display: Display) -> tuple[Store, list[str]]:
    """Add a teacher's labels to images that are there, or finish labels that were begun -> the store, the label sets."""
    store = open_store(path)
    device = choose_device(run.device)
    workers = _workers(run, device)
    if labels.teachers is None and store.labels:
        names = list(store.labels)
    else:
        sources = _teachers(labels, None, generator_defaults(store.recipe.get("generator", "")))
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
    _label_blocks(store, tuple(names), workers, run.ray_address, device, display)
    store.touch(library_versions())
    return store, names


def _teachers(labels: LabelOptions, store: Store | None, defaults: dict[str, Any]) -> Sequence[str]:
    """The teachers to load: those asked for; on a store that is there, none but its own; else the default one.

    A run that was interrupted before its first label set left a store with neither labels nor images: a new one still.
    """
    if labels.teachers is None:
        begun = store is not None and (store.labels or len(store.missing_blocks()) < store.num_blocks)
        return [] if begun else [defaults["teacher"]]
    if "none" in labels.teachers:
        if len(labels.teachers) > 1:
            raise UsageError("--teacher none does not go with another --teacher.")
        return []
    return list(dict.fromkeys(labels.teachers))


def _new_recipe(
    name: str, images: ImageOptions, info: Any, defaults: dict[str, Any], device: str, block_size: int
) -> Recipe:
    from dmkd.sampling import check_guided_channels, check_sampling, default_guided_channels

    def first(*values: Any) -> Any:
        return next((value for value in values if value is not None), None)

    sampler = first(images.sampler, defaults["sampler"])
    steps, guidance = first(images.steps, defaults["steps"]), first(images.guidance, defaults["guidance"])
    check_sampling(sampler, steps, info.num_train_timesteps)
    channels = info.latent_shape[0]
    guided_channels = first(images.guided_channels, default_guided_channels(sampler, channels))
    check_guided_channels(guided_channels, channels)
    dtype = first(images.dtype, "bfloat16" if device.startswith("cuda") else "float32")
    if dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    return Recipe(
        generator=name,
        generator_sha256=info.sha256,
        image_size=info.image_size,
        classes=parse_classes(images.classes, list(info.class_names)) if images.classes else None,
        num_classes=info.num_classes,
        sampler=sampler,
        steps=steps,
        guidance=parse_guidance(guidance),
        guidance_interval=parse_interval(images.guidance_interval),
        guided_channels=guided_channels,
        dtype=dtype,
        seed=first(images.seed, 0),
        sub_batch=first(
            images.sub_batch, min(block_size, 64 if device.startswith("cuda") or info.image_size <= 64 else 8)
        ),
        cpu_threads=default_cpu_threads() if device == "cpu" else None,
        image_codec=str(parse_image_codec(images.image_codec)),
    )


def _check_at_least_one(images: ImageOptions) -> None:
    for option in ("images", "block_size", "sub_batch"):
        value = getattr(images, option)
        if value is not None and value < 1:
            raise UsageError(f"--{option.replace('_', '-')} must be at least 1, not {value}.")


def _recipe_to_go_on(store: Store, images: ImageOptions, info: Any) -> Recipe:
    """The store's recipe, after comparing it with every option that was given."""
    stored = store.recipe
    asked = dict(stored)
    for option, parse in (("guidance", parse_guidance), ("guidance_interval", parse_interval)):
        if (value := getattr(images, option)) is not None:
            parsed = parse(value)
            asked[option] = list(parsed) if isinstance(parsed, tuple) else parsed
    if images.image_codec is not None:
        asked["image_codec"] = str(parse_image_codec(images.image_codec))
    for option in ("sampler", "steps", "guided_channels", "dtype", "seed", "sub_batch"):
        value = getattr(images, option)
        asked[option] = stored[option] if value is None else value
    if images.classes is not None:
        asked["classes"] = list(parse_classes(images.classes, list(info.class_names)))
    asked["generator_sha256"] = info.sha256 or stored["generator_sha256"]  # empty: the weights were not read
    refuse_mismatch(
        f"The recipe of {store.path}",
        stored,
        asked,
        "Leave the differing options out to go on with the store's recipe, or give another --store.",
    )
    return Recipe.from_json(stored)


def _label_blocks(
    store: Store, names: Sequence[str], workers: int, ray_address: str | None, device: str, display: Display
) -> None:
    """Label what has images and no labels, one label set after the other."""
    without_images = set(store.missing_blocks())
    threads = store.recipe.get("cpu_threads") or (default_cpu_threads() if device == "cpu" else None)
    fit_label_sets(store, names, device, threads, display)
    for name in names:
        blocks = [block for block in store.labels[name].missing_blocks() if block not in without_images]
        order = WorkOrder(store.path, (name,), device, threads, generator=None)
        _run_blocks(store, order, blocks, workers, ray_address, display)


def _run_blocks(
    store: Store, order: WorkOrder, blocks: Sequence[int], workers: int, ray_address: str | None, display: Display
) -> None:
    """Make blocks with progress, in this process or on Ray actors."""
    if not blocks:
        return
    todo = sum(len(store.block_ids(block)) for block in blocks)
    what = "generate" if order.generator else f"label {', '.join(order.label_sets)}"
    with display.task(what, store.num_images, store.num_images - todo) as advance:

        def report(done: BlockDone) -> None:
            advance(done.images)

        if workers == 0 and not ray_address:
            run_here(order, blocks, report)
        else:
            from dmkd.ray_engine import run_on_ray

            run_on_ray(order, blocks, report, workers=max(1, workers), address=ray_address)


def _workers(run: RunOptions, device: str) -> int:
    """Ray actors to use. Not said: one a GPU where there are several; this process (0) where there is one, or none."""
    if run.workers is None:
        import torch

        gpus = torch.cuda.device_count() if device == "cuda" else 0
        return gpus if gpus > 1 else 0
    if run.workers < 0:
        raise UsageError(f"--workers must be 0 or more, not {run.workers}.")
    return run.workers


def _tell_versions(store: Store, display: Display) -> None:
    """Say which libraries have changed since the store was made: another rounding is possible, no more."""
    before, now = store.attributes.get("versions", {}), library_versions()
    changed = [f"{k} {before[k]} -> {now[k]}" for k in before.keys() & now.keys() if before[k] != now[k]]
    if changed:
        display.notice(
            f"{store.path} was made with other versions ({', '.join(sorted(changed))}); "
            "new blocks may differ from old ones by a rounding error."
        )
