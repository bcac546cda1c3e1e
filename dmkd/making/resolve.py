"""From what was asked for to what is wanted: options and defaults become a recipe, compared with the store's if there is one.

Nothing is made or changed here, so `dmkd plan` resolves as `dmkd generate` does.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.teachers import load_teacher
from dmkd.generators.defaults import DEFAULT_GENERATOR, DM_KD_DEFAULTS
from dmkd.generators.interface import GeneratorFacts
from dmkd.generators.sources import GeneratorSource, check_arguments, parse_source
from dmkd.making.asked import LabelOptions, check_images, check_labels
from dmkd.making.label_sets import LabelRequest
from dmkd.making.planned_labels import asked_labels, stored_labels
from dmkd.making.sizes import PlannedLabels, StoreSize
from dmkd.recipes.class_choice import parse_classes
from dmkd.recipes.class_list import ClassList, classes_of
from dmkd.recipes.class_names import class_names_from, names_sha256
from dmkd.recipes.dtypes import default_classifier_precision, vae_dtype
from dmkd.recipes.generator_args import as_recorded
from dmkd.recipes.guidance import parse_guidance, parse_interval
from dmkd.recipes.image_options import ImageOptions
from dmkd.recipes.other_vae import without_vae
from dmkd.recipes.prompts import parse_templates
from dmkd.recipes.recipe import Recipe
from dmkd.runtime.devices import default_cpu_threads
from dmkd.stores import LabelSet, Store, UsageError, open_store, parse_codec, store_exists
from dmkd.stores.errors import MismatchError
from dmkd.stores.identity import refuse_mismatch
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.stores.layout import choose_block_size
from dmkd.views.policy import ViewPolicy, parse_views


@dataclass(frozen=True)
class WantedImages:
    """What the images of a run are, before anything is made or changed."""

    store: Store | None  # None: there is none yet
    source: GeneratorSource
    info: GeneratorFacts
    defaults: Mapping[str, Any]  # of this generator
    recipe: Recipe
    num_images: int
    block_size: int
    classes: ClassList  # that the store has or will have

    @property
    def image_shape(self) -> tuple[int, int, int]:
        size = self.recipe.size or self.info.image_size
        return size, size, 3

    @property
    def size(self) -> StoreSize:
        return StoreSize(self.num_images, self.block_size, self.image_shape, self.recipe.image_codec, self.store)


@dataclass(frozen=True)
class TeacherPrecision:
    """What a teacher's forward pass is to compute in. Raises ``UsageError`` for what the device can't."""

    asked: str | None  # None: nothing was
    device: str

    def __post_init__(self) -> None:
        if self.asked == "tf32" and not self.device.startswith("cuda"):
            raise UsageError(
                f"--teacher-precision tf32 is a mode of NVIDIA GPUs, and the device is {self.device}: use float32 or bfloat16."
            )

    def of(self, labels: LabelSet | None) -> str:
        """That of a teacher that has these labels already, or none."""
        return self.asked or (labels.precision if labels else default_classifier_precision(self.device))


def resolve_images(path: str, images: ImageOptions, device: str, describe: Callable[..., Any]) -> WantedImages:
    """From what was asked for to the images wanted, on a new store or on the one at ``path``, which is left as it is.

    ``describe`` is ``describe_generator``, or does the same without weights. Raises ``UsageError`` for what can't be done,
    ``MismatchError`` for what differs from the store.
    """
    check_images(images)
    images = images.with_preset()
    store = open_store(path) if store_exists(path) else None
    generator = images.generator or (store.source if store else DEFAULT_GENERATOR)
    if not generator or (store is not None and store.recipe.get("source") == "import"):
        raise UsageError(f"{path} was not made by a generator, so no images can be added to it by one.")
    image_size = images.image_size
    if image_size is None and store is not None and store.recipe.get("prompts"):
        image_size = store.recipe["image_size"]
    source = parse_source(generator, _vae_to_go_on(store, images))
    arguments = as_recorded(images.generator_args)
    if arguments is None and store is not None and source.text == store.source:
        arguments = store.recipe.get("generator_args")
    check_arguments(source, arguments)
    named = _named_classes(store, images, told_all=source.kind.numbered)
    info: GeneratorFacts = describe(
        source.weights, class_names=named and named.names, image_size=image_size, arguments=arguments
    )
    classes = named or ClassList(info.class_names)
    if images.classes is not None and classes.chosen_from is None:
        classes = classes.subset(parse_classes(images.classes, classes))
    defaults = info.defaults(source.defaults, images)
    if named is not None and classes.given_wnids is not None:
        defaults = {**defaults, "teacher": DM_KD_DEFAULTS["teacher"]}
    if store is not None:
        recipe = _recipe_to_go_on(store, images, info, classes, source, arguments)
        if images.block_size not in (None, store.block_size):
            refuse_mismatch(
                path, {"block_size": store.block_size}, {"block_size": images.block_size}, "Leave --block-size out."
            )
        if images.images is not None:
            store.check_growth(images.images)
        num_images = images.images if images.images is not None else store.num_images
        return WantedImages(store, source, info, defaults, recipe, num_images, store.block_size, classes_of(store))
    num_images = images.images if images.images is not None else defaults["images"]
    size = _size_to_store(images, info) or info.image_size
    block_size = images.block_size or choose_block_size((size, size, 3))
    recipe = _new_recipe(source.name or info.name, images, info, classes, defaults, device, block_size, arguments)
    if classes.chosen_from is not None and num_images < len(classes):
        raise UsageError(
            f"--images {num_images} leaves {len(classes) - num_images:,} of the {len(classes):,} classes of --classes without an "
            f"image: make at least {len(classes)}."
        )
    return WantedImages(None, source, info, defaults, recipe, num_images, block_size, classes)


def resolve_labels(
    labels: LabelOptions, wanted: WantedImages, device: str, load: Callable[..., Classifier] = load_classifier
) -> LabelRequest:
    """The labels asked for, to be made on ``device``, with their teachers, by ``load``. Raises ``UsageError`` if a teacher knows
    other classes, or can't have the precision asked for on the device."""
    check_labels(labels)
    sources = teachers_wanted(labels, wanted.store, wanted.defaults)
    makes = f"generator {wanted.recipe.generator} makes"
    precision = TeacherPrecision(labels.teacher_precision, device)
    teachers = load_teachers(sources, wanted.store, wanted.classes, makes, precision, labels.templates, load)
    if labels.teachers is None and not teachers and wanted.store is not None:
        _refuse_labels_without_teacher(labels, wanted.store)
    views = wanted.defaults["views"]
    return LabelRequest(teachers, parse_codec(labels.codec), labels.views, labels.view_seed, labels.name, views)


def label_sets_of(wanted: WantedImages, request: LabelRequest, labels: LabelOptions) -> list[PlannedLabels]:
    """The label sets that the run works on: the store's, unless it is not to label, and those asked for."""
    store = wanted.store
    found = (
        {one.name: one for one in stored_labels(store)} if store is not None and labels.teachers != ("none",) else {}
    )
    for one in asked_labels(wanted.size, request, wanted.recipe.seed):
        found.setdefault(one.name, one)
    return list(found.values())


def _refuse_labels_without_teacher(labels: LabelOptions, store: Store) -> None:
    """Without a teacher nothing new is labelled on a store that is there: what is said of labels must be so of some it has."""
    asked = parse_views(labels.views) if labels.views else None
    policy, size = (asked.policy, asked.size) if asked else (None, None)
    codec = labels.codec and parse_codec(labels.codec).to_json()
    wishes = {"--views": labels.views, "--view-seed": labels.view_seed, "--codec": labels.codec, "--name": labels.name}
    wishes["--teacher-precision"] = labels.teacher_precision
    given = " ".join(f"{option} {value}" for option, value in wishes.items() if value is not None)
    for label_set in store.labels.values():
        views = store.views[label_set.view_set].attributes
        drawn = (ViewPolicy.from_json(views["policy"]), views["size"], views["seed"])
        found = (*drawn, label_set.codec.to_json(), label_set.name, label_set.precision)
        wanted = (policy, size, labels.view_seed, codec, labels.name, labels.teacher_precision)
        if all(w is None or w == f for w, f in zip(wanted, found, strict=True)):
            return
    if given:
        raise UsageError(
            f"{store.path} has no labels of {given}, and none are made without a teacher: name it with --teacher, or leave "
            "these options out."
        )


def load_teachers(
    sources: Sequence[str],
    store: Store | None,
    classes: ClassList,
    images: str,
    precision: TeacherPrecision,
    templates: Sequence[str] | None,
    load: Callable[..., Classifier] = load_classifier,
) -> list[Classifier]:
    """The teachers, each by the name under which the store has its labels if it has any, whatever it would be called today, in
    the precision of these, and with their prompts if no ``templates`` are asked for.

    Raises what :func:`load_teacher` does, and ``UsageError`` if two of them are called alike."""
    label_sets = [] if store is None else sorted(store.labels.values(), key=_has_own_name)
    stored = {one.source: one for one in label_sets}
    found: dict[str, Classifier] = {}
    for source in sources:
        labels = stored.get(source)
        recorded = labels.teacher.get("prompts", {}).get("templates") if labels else None
        teacher = load_teacher(source, classes, images, load, recorded if templates is None else templates)
        name = labels.teacher.get("name") if labels else None
        teacher = dataclasses.replace(teacher, name=name or teacher.name, precision=precision.of(labels))
        if teacher.name in found:
            raise UsageError(
                f"The labels of {found[teacher.name].source} and of {source} would both be called {teacher.name!r}: add one "
                "of them by itself, with dmkd label --teacher ... --name NAME."
            )
        found[teacher.name] = teacher
    return list(found.values())


def _has_own_name(labels: LabelSet) -> bool:
    """Whether they are called after their teacher: of several by one teacher these are its first."""
    return labels.name == labels.teacher.get("name")


def teachers_wanted(labels: LabelOptions, store: Store | None, defaults: Mapping[str, Any]) -> Sequence[str]:
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
    name: str,
    images: ImageOptions,
    info: GeneratorFacts,
    classes: ClassList,
    defaults: Mapping[str, Any],
    device: str,
    block_size: int,
    arguments: Mapping[str, Any] | None,
) -> Recipe:
    on_gpu = device.startswith("cuda")
    dtype = images.given("dtype", "bfloat16" if on_gpu else "float32") if info.takes_dtype else None
    chosen, num_classes = classes.chosen_from or (None, len(classes))
    return Recipe(
        generator=name,
        generator_sha256=info.sha256,
        generator_args=arguments,
        image_size=info.image_size,
        size=_size_to_store(images, info),
        classes=chosen,
        compact_classes=chosen is not None,
        num_classes=num_classes,
        class_names_sha256=None if images.class_names is None else names_sha256(classes.names),
        **info.sampling(images, defaults),
        dtype=dtype,
        vae_dtype=None if dtype is None or images.vae_dtype == vae_dtype(dtype, None) else images.vae_dtype,
        seed=images.given("seed", 0),
        # On a GPU a whole block, until the largest that fits is found.
        sub_batch=images.given("sub_batch", block_size if on_gpu else min(block_size, info.cpu_sub_batch)),
        compile=images.given("compile", on_gpu and info.can_be_compiled),
        cpu_threads=default_cpu_threads() if device == "cpu" else None,
        image_codec=str(parse_image_codec(images.image_codec)),
    )


def _size_to_store(images: ImageOptions, info: GeneratorFacts) -> int | None:
    """The height and width that images are brought to before they are stored; None: as they are made."""
    if images.size is not None and images.size > info.image_size:
        raise UsageError(
            f"--size {images.size}: {info.name} makes images of {info.image_size} pixels, and they can only be made smaller."
        )
    return None if images.size == info.image_size else images.size


def _vae_to_go_on(store: Store | None, images: ImageOptions) -> str | None:
    """The VAE that was asked for; else, where the store's own generator was named, the one that the store was begun with."""
    if images.vae is not None or store is None or images.generator is None:
        return images.vae
    generator, vae = without_vae(store.source or "")
    return vae if parse_source(images.generator).text == generator else None


def _named_classes(store: Store | None, images: ImageOptions, *, told_all: bool) -> ClassList | None:
    """The classes that a generator is told of: the chosen ones of those named (``told_all``: whichever are chosen, since it knows
    them by number); else a text-to-image generator those of its store.

    A store whose chosen classes keep their numbers has all that were named, and its generator must know them."""
    recipe = store.recipe if store is not None else {}
    keep_numbers = recipe.get("classes") is not None and not recipe.get("compact_classes")
    if images.class_names is None:
        if store is None or not recipe.get("prompts"):
            return None
        if images.classes is not None and not keep_numbers:
            raise UsageError(
                f"--classes chooses among the names of --class-names: give both to go on with {store.path}, or neither."
            )
        return classes_of(store)
    named = ClassList(class_names_from(images.class_names))
    if images.classes is None or keep_numbers or told_all:
        return named
    return named.subset(parse_classes(images.classes, named))


def _recipe_to_go_on(
    store: Store,
    images: ImageOptions,
    info: GeneratorFacts,
    classes: ClassList,
    source: GeneratorSource,
    arguments: Mapping[str, Any] | None,
) -> Recipe:
    """The store's recipe, after comparing it with every option that was given; ``classes``: those asked for."""
    recipe = Recipe.from_json(store.recipe)
    stored = recipe.to_json()  # with the fields that are younger than the store
    asked = dict(stored)
    parsers: dict[str, Any] = {
        "guidance": functools.partial(parse_guidance, least=info.least_guidance),
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
    if images.vae_dtype not in (None, recipe.dtype and vae_dtype(recipe.dtype, recipe.vae_dtype)):
        asked["vae_dtype"] = images.vae_dtype
    if images.size not in (None, recipe.size or recipe.image_size):
        asked["size"] = images.size
    if images.class_names is not None:
        asked["class_names_sha256"] = names_sha256(classes.names if recipe.compact_classes else info.class_names)
    if images.classes is not None:
        asked["classes"] = list(classes.chosen_from[0] if classes.chosen_from else ())
    if arguments:
        asked["generator_args"] = arguments
    if images.image_codec is not None:
        asked["image_codec"] = str(parse_image_codec(images.image_codec))
    asked["generator_sha256"] = info.sha256 or stored["generator_sha256"]  # empty: the weights were not read
    generator = source.name or info.name
    # Weights alone tell pipelines apart; what a plug-in makes of its own is told by its name.
    other = asked["generator_sha256"] != stored["generator_sha256"] or source.kind.own_code
    if other and generator != stored["generator"]:
        raise MismatchError(
            f"{store.path} was made by {stored['generator']}, and you asked for {generator}: leave --generator out, or "
            "give another --store."
        )
    refuse_mismatch(
        f"The recipe of {store.path}",
        stored,
        asked,
        "Leave the differing options out to go on with the store's recipe, or give another --store.",
    )
    return recipe
