"""`dmkd plan`: what a run comes to before it is begun: recipe, bytes, arithmetic, time and cost. Nothing is written.

Weights are not read: the generator's and the teachers' configurations are enough.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmkd.classifiers.classifier import configured_classifier
from dmkd.generators.dit import GeneratorInfo
from dmkd.generators.load import configured_generator
from dmkd.making.flops import classifier_flops, decoder_flops, model_calls, transformer_flops
from dmkd.making.label_sets import LabelRequest, check_request, label_set_name, new_view_set, view_set_for
from dmkd.making.recipe_file import resolved_options
from dmkd.making.resolve import LabelOptions, WantedImages, resolve_images, resolve_labels
from dmkd.making.sizes import PlannedLabels, disk_sizes
from dmkd.recipes.image_options import ImageOptions
from dmkd.stores import UsageError
from dmkd.views.description import ViewDescription
from dmkd.views.policy import parse_policy

# NVIDIA H100 SXM, data sheet, without sparsity: TFLOP/s of tensor cores in half precisions; of ordinary ones in float32, as
# torch leaves TF32 off for matrix products.
H100_TFLOPS = {"bfloat16": 989.0, "float16": 989.0, "float32": 67.0}
UTILISATION = 0.4


@dataclass(frozen=True)
class CostOptions:
    """Speed and price assumptions. ``None``: not said."""

    images_per_second: float | None = None  # of one GPU, measured: images made and labelled
    tflops: float | None = None  # of one GPU, as its maker states; None: an H100's
    utilisation: float | None = None  # the share of that which is reached; None: 0.4
    gpus: int | None = None  # None: 1
    dollars_per_hour: float | None = None  # of one GPU


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
        "labels": {one.name: one.views * classifier_flops(one.teacher, one.view_set.size) for one in label_sets},
    }
    made = per_image["sampling"] + per_image["decoding"]
    per_image["total"] = made + sum(per_image["labels"].values())
    recipe = resolved_options(wanted, request, labels)
    if wanted.store is None and images.sub_batch is None and (device or "cuda").startswith("cuda"):
        del recipe["sub-batch"]  # the GPU will tell
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
        **disk_sizes(wanted, label_sets),
        "model_calls_per_image": calls,
        "flops_per_image": per_image,
        "left": left,
        "flops": sampled * made + sum(label_flops.values()),
    }
    return result | _time(result, wanted, cost, sampled * made, label_flops)


def _label_sets(request: LabelRequest, wanted: WantedImages, labels: LabelOptions) -> list[PlannedLabels]:
    """Label sets that the run would work on: the store's and those asked for."""
    found: dict[str, PlannedLabels] = {}
    if wanted.store is not None and labels.teachers != ("none",):
        for name, stored in wanted.store.labels.items():
            seen = ViewDescription.of(wanted.store.views[stored.view_set])
            found[name] = PlannedLabels(name, seen, stored.codec, configured_classifier(stored.source), stored)
    if wanted.store is None:
        check_request(request, wanted.image_shape[:2], wanted.defaults["views"], weights=False)
    planned: ViewDescription | None = None  # the first teacher's: later ones look at the views as they are
    for teacher in request.teachers:
        if planned is None and wanted.store is not None:
            planned = view_set_for(wanted.store, request, teacher)
        elif planned is None:
            policy = parse_policy(request.views or wanted.defaults["views"])
            seed = wanted.recipe.seed if request.view_seed is None else request.view_seed
            planned = new_view_set(policy, seed, True, teacher, wanted.image_shape[:2], wanted.block_size)
        assert planned is not None
        name = label_set_name(request, teacher, planned)
        found.setdefault(name, PlannedLabels(name, planned, request.codec, teacher, None))
    return list(found.values())


def _left(wanted: WantedImages, label_sets: list[PlannedLabels]) -> dict[str, Any]:
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
