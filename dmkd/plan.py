"""`dmkd plan`: what a run comes to before it is begun: recipe, bytes, arithmetic, time and cost. Nothing is written.

Weights are not read: the generator's and the teachers' configurations are enough.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmkd.classifiers.classifier import Classifier, configured_classifier
from dmkd.generators.dit import GeneratorInfo
from dmkd.generators.load import configured_generator
from dmkd.making.blocks import has_canonical_view
from dmkd.making.flops import classifier_flops, decoder_flops, model_calls, transformer_flops
from dmkd.making.label_sets import LabelRequest, ViewPlan, check_request, label_set_name, new_view_set, view_set_for
from dmkd.making.recipe_file import resolved_options
from dmkd.making.resolve import LabelOptions, WantedImages, resolve_images, resolve_labels
from dmkd.recipes.image_options import ImageOptions
from dmkd.stores import Codec, LabelSet, UsageError, ViewSet
from dmkd.stores.codecs import Coder
from dmkd.stores.codecs.features import Features
from dmkd.stores.codecs.klt import Klt
from dmkd.stores.image_codecs import RAW, ImageCodec, parse_image_codec
from dmkd.stores.layout import (
    CHECKS,
    CLASS_IDS,
    CONSTANTS,
    IMAGES,
    LABELS,
    VIEWS,
    ArraySpec,
    checks_spec,
    class_ids_spec,
    images_spec,
    label_specs,
    views_spec,
)
from dmkd.views.policy import parse_policy

# NVIDIA H100 SXM, data sheet, without sparsity: TFLOP/s of tensor cores in half precisions; of ordinary ones in float32, as
# torch leaves TF32 off for matrix products.
H100_TFLOPS = {"bfloat16": 989.0, "float16": 989.0, "float32": 67.0}
UTILISATION = 0.4

EXACT, AT_MOST, ABOUT = "exact", "at most", "about"
CHECKSUM_BYTES = 4  # of each chunk

# klt: bits a coefficient at step 0.5, and one fewer whenever the step doubles, as at high rate a uniform quantiser's entropy
# falls. Measured on 512 coefficients of teacher-like logits (benchmarks/codecs.py): 197 bytes a view at step 0.5, 261 at 0.25.
KLT_BITS, KLT_STEP, KLT_FEWEST_BITS = 3.1, 0.5, 0.5


# Share of the raw bytes, of 256 x 256 photographs (benchmarks/image_codecs.py); jpeg by quality.
WEBP_SHARE = 0.44
JPEG_SHARES = ((50, 0.047), (75, 0.070), (85, 0.095), (90, 0.12), (95, 0.18), (98, 0.27), (100, 0.43))


@dataclass(frozen=True)
class CostOptions:
    """How fast and how dear. ``None``: not said."""

    images_per_second: float | None = None  # of one GPU, measured: images made and labelled
    tflops: float | None = None  # of one GPU, as its maker states; None: an H100's
    utilisation: float | None = None  # the share of that which is reached; None: 0.4
    gpus: int | None = None  # None: 1
    dollars_per_hour: float | None = None  # of one GPU


@dataclass(frozen=True)
class _Labels:
    """One label set that is there or would be made."""

    name: str
    view_set: ViewSet | ViewPlan
    codec: Codec
    teacher: Classifier  # on the meta device
    stored: LabelSet | None

    @property
    def views(self) -> int:
        """Views that the teacher looks at, its own one included."""
        return self.view_set.num_views + (not has_canonical_view(self.view_set))


def plan(
    path: str, images: ImageOptions, labels: LabelOptions, cost: CostOptions, device: str | None = None
) -> dict[str, Any]:
    """What `dmkd generate` with these options would make at ``path``, as plain numbers and texts.

    ``recipe``: the options resolved; ``images``, ``blocks``, ``block_size``; ``arrays``: name -> bytes and whether these
    are exact; ``bytes`` and ``files`` of all, the bytes without metadata; ``flops_per_image`` by part; ``left``: what is
    not there yet; ``flops``, ``gpu_hours``, ``hours``, ``dollars`` of that, and ``assumption``, the rate behind them in words.
    ``device`` None: a GPU, whatever there is here.

    Raises what ``generate`` would for options that can't be, and ``UsageError`` for a cost that can't be.
    """
    _check(cost)
    configs: list[dict[str, Any]] = []

    def describe(source: str, **text_to_image: Any) -> Any:
        described, found = configured_generator(source)
        configs.extend(found)
        return described

    wanted = resolve_images(path, images, device or "cuda", describe)
    request = resolve_labels(labels, wanted, configured_classifier)
    label_sets = _label_sets(request, wanted, labels)
    _, transformer, vae, scheduler = configs
    info = wanted.info
    assert isinstance(info, GeneratorInfo)

    calls = model_calls(wanted.recipe, info, scheduler)
    per_image: dict[str, Any] = {
        "sampling": calls * transformer_flops(transformer, info),
        "decoding": decoder_flops(vae, info),
        "labels": {
            one.name: one.views * classifier_flops(one.teacher, one.view_set.attributes["size"]) for one in label_sets
        },
    }
    made = per_image["sampling"] + per_image["decoding"]
    per_image["total"] = made + sum(per_image["labels"].values())
    recipe = resolved_options(wanted, request, labels)
    if wanted.store is None and images.sub_batch is None and (device or "cuda").startswith("cuda"):
        del recipe["sub-batch"]  # the GPU will tell
    arrays = _arrays(wanted, label_sets)
    blocks = -(-wanted.num_images // wanted.block_size)
    left = _left(wanted, label_sets)
    label_flops = {name: count * per_image["labels"][name] for name, count in left["labels"].items()}
    sampled = left["sampled"]
    result = {
        "path": path,
        "exists": wanted.store is not None,
        "recipe": recipe,
        "images": wanted.num_images,
        "image_size": wanted.info.image_size,
        "classes": len(wanted.recipe.classes or range(wanted.recipe.num_classes)),
        "blocks": blocks,
        "block_size": wanted.block_size,
        "arrays": arrays,
        "bytes": sum(array["bytes"] for array in arrays.values()),
        "bytes_are": _loosest(array["bytes_are"] for array in arrays.values()),
        "files": sum(array["files"] for array in arrays.values()) + _groups(wanted, label_sets),
        "model_calls_per_image": calls,
        "flops_per_image": per_image,
        "left": left,
        "flops": sampled * made + sum(label_flops.values()),
    }
    return result | _time(result, wanted, cost, sampled * made, label_flops)


def _label_sets(request: LabelRequest, wanted: WantedImages, labels: LabelOptions) -> list[_Labels]:
    """Label sets that the run would work on: the store's and those asked for."""
    found: dict[str, _Labels] = {}
    if wanted.store is not None and labels.teachers != ("none",):
        for name, stored in wanted.store.labels.items():
            seen = wanted.store.views[stored.view_set]
            found[name] = _Labels(name, seen, stored.codec, configured_classifier(stored.source), stored)
    if wanted.store is None:
        check_request(request, wanted.image_shape[:2], wanted.defaults["views"], weights=False)
    planned: ViewSet | ViewPlan | None = None
    for teacher in request.teachers:
        if wanted.store is not None:
            view_set = view_set_for(wanted.store, request, teacher)
            planned = view_set if isinstance(view_set, ViewSet) or planned is None else planned
        elif planned is None:
            policy = parse_policy(request.views or wanted.defaults["views"])
            seed = wanted.recipe.seed if request.view_seed is None else request.view_seed
            planned = new_view_set(policy, seed, True, teacher, wanted.image_shape[:2], wanted.block_size)
        assert planned is not None
        name = label_set_name(request, teacher, planned)
        found.setdefault(name, _Labels(name, planned, request.codec, teacher, None))
    return list(found.values())


def _left(wanted: WantedImages, label_sets: list[_Labels]) -> dict[str, Any]:
    """What is to be done: ``images`` to make, ``sampled`` for them (sub-batches are filled up), label set -> images to label."""
    size, total = wanted.block_size, wanted.num_images
    blocks = -(-total // size)
    lengths = np.minimum(size, total - size * np.arange(blocks))
    missing = _missing(wanted, wanted.store.missing_blocks() if wanted.store else list(range(blocks)), blocks)
    to_label = {}
    for one in label_sets:
        labelless = one.stored.missing_blocks() if one.stored else list(range(blocks))
        # A block that is made is labelled in the same pass, whatever labels are there.
        to_label[one.name] = int(lengths[sorted(missing | _missing(wanted, labelless, blocks))].sum())
    sub_batch = wanted.recipe.sub_batch
    sampled = sum(-(-int(lengths[block]) // sub_batch) * sub_batch for block in missing)
    return {"images": int(lengths[sorted(missing)].sum()), "sampled": sampled, "labels": to_label}


def _missing(wanted: WantedImages, blocks: list[int], num_blocks: int) -> set[int]:
    """Blocks missing now, and those that growing adds; a last block that was only partly used is made again."""
    if wanted.store is None or wanted.num_images == wanted.store.num_images:
        return set(blocks)
    return set(blocks) | set(range(wanted.store.num_images // wanted.block_size, num_blocks))


def _arrays(wanted: WantedImages, label_sets: list[_Labels]) -> dict[str, dict[str, Any]]:
    """What each array takes on disk: node -> ``bytes``, ``bytes_are`` and ``files``, its metadata's file among them."""
    specs: dict[str, tuple[ArraySpec, str, float]] = {
        IMAGES: (images_spec(wanted.image_shape), *_image_bytes(parse_image_codec(wanted.recipe.image_codec))),
        CLASS_IDS: (class_ids_spec(), EXACT, 1.0),
        CHECKS: (checks_spec(), EXACT, 1.0),
    }
    view_sets = {one.view_set.name: one.view_set for one in label_sets}
    if wanted.store is not None:
        view_sets |= wanted.store.views
    for name, view_set in view_sets.items():
        specs[f"{VIEWS}/{name}"] = (views_spec(view_set.num_views, len(view_set.components)), EXACT, 1.0)
    constants: dict[str, int] = {}
    for one in label_sets:
        node = f"{LABELS}/{one.name}"
        coder = _coder(one)
        for part, spec in label_specs(coder.arrays(one.view_set.num_views)).items():
            specs[f"{node}/{part}"] = (spec, *_compressed(one.codec, part, spec))
        for part in one.codec.constants:
            constants[f"{node}/{CONSTANTS}/{part}"] = getattr(coder, _FIELDS.get(part, part)).nbytes
    chunks = -(-wanted.num_images // wanted.block_size)
    arrays = {}
    for node, (spec, exactness, share) in specs.items():
        rows = wanted.block_size * math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        size = chunks * (math.ceil(rows * share) + CHECKSUM_BYTES)
        arrays[node] = {"bytes": size, "bytes_are": exactness, "files": chunks + 1}
    for node, size in constants.items():
        fitted = any(isinstance(one.codec, Klt) and node.startswith(f"{LABELS}/{one.name}/") for one in label_sets)
        arrays[node] = {"bytes": size + CHECKSUM_BYTES, "bytes_are": AT_MOST if fitted else EXACT, "files": 2}
    return arrays


_FIELDS = {"fit": "summary"}  # a constant of klt whose coder calls it otherwise


def _coder(one: _Labels) -> Coder:
    """The label set's coder; before the codec is fitted, one with constants of the largest shapes that a fit can give."""
    if one.stored is not None and one.stored.fitted:
        return one.stored.coder
    codec, classes = one.codec, one.teacher.num_classes
    if not codec.needs:
        return codec.bind(classes, codec.fit(classes))
    width = _num_features(one.teacher, required=isinstance(codec, Features))
    if isinstance(codec, Features):
        return codec.bind(classes, codec.fit(classes, weight=np.zeros((classes, width), np.float32)))
    kept = min(classes, width)
    shapes = {"mean": (classes,), "basis": (kept, classes), "pull": (kept,), "fit": (3,)}
    return codec.bind(classes, {part: np.zeros(shape, np.float32) for part, shape in shapes.items()})


def _num_features(teacher: Classifier, required: bool) -> int:
    """Inputs of the teacher's last layer; where that is not linear, its classes bound what it can say."""
    import torch

    model: Any = teacher.model
    layer = model.get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(layer, torch.nn.Linear):
        return layer.in_features
    if required:
        raise UsageError(
            f"Teacher {teacher.source} does not end in a linear layer over its features, which codec features needs: "
            "choose another codec, such as uint8 or klt."
        )
    return teacher.num_classes


def _image_bytes(codec: ImageCodec) -> tuple[str, float]:
    """How exact the bytes of images are known, and what share of the raw ones they are: photographs' shares."""
    if codec.kind == RAW:
        return EXACT, 1.0
    if codec.quality is None:
        return ABOUT, WEBP_SHARE
    qualities, shares = zip(*JPEG_SHARES, strict=True)
    return ABOUT, float(np.interp(codec.quality, qualities, shares))


def _compressed(codec: Codec, part: str, spec: ArraySpec) -> tuple[str, float]:
    """How exact an array's bytes are known, and what share of the uncompressed ones they are."""
    if spec.compression is None:
        return EXACT, 1.0
    if isinstance(codec, Klt):
        if part == "exact":  # zero but for the rare view that leaves what the codec was fitted on
            return ABOUT, 0.0
        bits = max(KLT_FEWEST_BITS, KLT_BITS - math.log2(codec.step / KLT_STEP))
        return ABOUT, min(1.0, bits / 16)
    return AT_MOST, 1.0


def _groups(wanted: WantedImages, label_sets: list[_Labels]) -> int:
    """Files of the groups' metadata: root, views, labels, each label set, and its constants."""
    has_views = bool(label_sets) or bool(wanted.store and wanted.store.views)
    return 1 + has_views + bool(label_sets) + sum(1 + bool(one.codec.constants) for one in label_sets)


def _loosest(kinds: Any) -> str:
    found = set(kinds)
    return next(kind for kind in (ABOUT, AT_MOST, EXACT) if kind in found)


def _time(
    result: Mapping[str, Any], wanted: WantedImages, cost: CostOptions, made: float, label_flops: Mapping[str, float]
) -> dict[str, Any]:
    """GPU-hours, hours and dollars of what is left, and the rate behind them in words."""
    gpus = cost.gpus or 1
    tflops = cost.tflops or H100_TFLOPS[wanted.recipe.dtype]
    utilisation = UTILISATION if cost.utilisation is None else cost.utilisation
    per_second = tflops * 1e12 * utilisation
    whose = "as given" if cost.tflops else f"an H100's in {wanted.recipe.dtype}"
    assumption = f"{tflops:g} TFLOP/s a GPU ({whose}), {utilisation:.0%} of it reached"
    if cost.utilisation is None:
        assumption += " (assumed: measure yours and give --images-per-second)"
    seconds = (made + sum(label_flops.values())) / per_second
    if cost.images_per_second:
        # The rate is that of images made and labelled in one pass; labels of images that are there are counted.
        images, labelled = result["left"]["images"], result["left"]["labels"]
        later = sum((labelled[name] - images) * result["flops_per_image"]["labels"][name] for name in labelled)
        seconds = images / cost.images_per_second + later / per_second
        measured = f"{cost.images_per_second:g} images/s a GPU, as given"
        assumption = f"{measured}; labels of images that are there: {assumption}" if later else measured
    hours = seconds / 3600
    dollars = None if cost.dollars_per_hour is None else hours * cost.dollars_per_hour
    return {
        "assumption": assumption,
        "gpus": gpus,
        "images_per_second": gpus * result["left"]["images"] / seconds if seconds else None,
        "gpu_hours": hours,
        "hours": hours / gpus,
        "dollars": dollars,
    }


def _check(cost: CostOptions) -> None:
    for option in ("images_per_second", "tflops", "gpus", "dollars_per_hour"):
        value = getattr(cost, option)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{option.replace('_', '-')} must be greater than 0, not {value:g}.")
    if cost.utilisation is not None and not 0 < cost.utilisation <= 1:
        raise UsageError(
            f"--utilisation is a share of --tflops, greater than 0 and at most 1, not {cost.utilisation:g}."
        )
    if cost.images_per_second is not None and (cost.tflops is not None or cost.utilisation is not None):
        raise UsageError("Give --images-per-second, or --tflops and --utilisation, not both.")
