"""`dmkd plan`: what a run comes to before it is begun: recipe, bytes, arithmetic, time and cost. Nothing is written.

Weights are not read: the generator's and the teachers' configurations are enough.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmkd.classifiers.load import configured_classifier
from dmkd.generators.dit import GeneratorInfo
from dmkd.generators.load import configured_generator
from dmkd.making.asked import LabelOptions
from dmkd.making.flops import classifier_flops, decoder_flops, model_calls, transformer_flops
from dmkd.making.label_sets import check_request
from dmkd.making.limits import obstacles
from dmkd.making.recipe_file import resolved_options
from dmkd.making.resolve import WantedImages, label_sets_of, resolve_images, resolve_labels
from dmkd.making.round_costs import PlannedRounds, RoundFlops, round_flops
from dmkd.making.sizes import PlannedLabels, StoreSize, disk_sizes
from dmkd.recipes.image_options import PRESETS, ImageOptions
from dmkd.recipes.traffic import training_traffic
from dmkd.stores import LabelSet, UsageError
from dmkd.training.presets import schedule_for

# NVIDIA H100 SXM, data sheet, without sparsity: TFLOP/s of tensor cores in half precisions; of ordinary ones in float32, as
# torch leaves TF32 off for matrix products.
H100_TFLOPS = {"float8": 1979.0, "bfloat16": 989.0, "float16": 989.0, "float32": 67.0}
UTILISATION = 0.4
_UNCOUNTED = (
    "The arithmetic of {} is not known, since it is code of your own: measure its images per second on a small store and give "
    "--images-per-second."
)


@dataclass(frozen=True)
class CostOptions:
    """Speed and price assumptions. ``None``: not said."""

    images_per_second: float | None = None  # of one GPU, measured: images made and labelled
    tflops: float | None = None  # of one GPU, as its maker states; None: an H100's
    utilisation: float | None = None  # the share of that which is reached; None: 0.4
    gpus: int | None = None  # None: 1
    dollars_per_hour: float | None = None  # of one GPU
    dollars_per_gb: float | None = None  # of 10^9 bytes that leave the bucket the store is in


def plan(
    path: str,
    images: ImageOptions,
    labels: LabelOptions,
    cost: CostOptions,
    device: str | None = None,
    rounds: PlannedRounds | None = None,
) -> dict[str, Any]:
    """What `dmkd generate` with these options would make at ``path``, as plain numbers and texts.

    ``recipe``: the options resolved; ``images``, ``blocks``, ``block_size``; ``arrays``: name -> bytes and whether these
    are exact; ``bytes`` and ``files`` of all, the bytes without metadata; ``flops_per_image`` by part; ``presets``: name ->
    what an image would take by it; ``left``: what is not there yet; ``flops``, ``gpu_hours``, ``hours``, ``dollars`` of that,
    and ``assumption``, the rate behind them in words; ``uncounted``: why some of these are None, in a sentence; ``limits``: why
    this machine could not do it, in sentences; ``training``: what training moves (:mod:`dmkd.recipes.traffic`), by the
    schedule that suits the images.
    ``rounds``: the images are made in these; the result's ``rounds`` has the ``images`` of each, ``flops_per_image`` beyond those
    of a blind image, by part, ``students``, operations of the students that are followed, and ``images_per_second`` of a GPU.
    ``device`` None: a GPU, whatever there is here.

    Raises what ``generate`` would for options that can't be, and ``UsageError`` for a cost that can't be.
    """
    _check(cost)
    configs: list[dict[str, Any]] = []

    def describe(source: str, *, class_names: Any, image_size: Any, arguments: Any) -> Any:
        described, found = configured_generator(
            source, class_names=class_names, image_size=image_size, arguments=arguments
        )
        configs.extend(found)
        return described

    wanted = resolve_images(path, images, device or "cuda", describe)
    request = resolve_labels(labels, wanted, device or "cuda", configured_classifier)
    if wanted.store is None:
        check_request(request, wanted.image_shape[:2], weights=False)
    label_sets = label_sets_of(wanted, request, labels)
    by_labels = {one.name: _label_flops(one) for one in label_sets}
    counted = _counted(wanted, configs, sum(by_labels.values()))
    recipe = resolved_options(wanted, request, labels)
    if wanted.store is None and images.sub_batch is None and (device or "cuda").startswith("cuda"):
        del recipe["sub-batch"]  # found by trial on the GPU
    left = _left(wanted.size, wanted.recipe.sub_batch, label_sets)
    label_flops = {name: count * by_labels[name] for name, count in left["labels"].items()}
    made = counted.made and left["sampled"] * counted.made
    schedule = schedule_for(wanted.recipe.generator, max(wanted.image_shape[:2]))[1]
    by_rounds = (
        None if rounds is None else _round_flops(rounds, wanted, configs, counted, label_sets, schedule["epochs"])
    )
    extra = 0.0
    if by_rounds is not None:
        extra = min(by_rounds.steered, left["images"]) * by_rounds.extra + by_rounds.students * bool(left["images"])
    result: dict[str, Any] = {
        "path": path,
        "exists": wanted.store is not None,
        "recipe": recipe,
        "images": wanted.num_images,
        "image_size": wanted.image_shape[0],
        "classes": len(wanted.recipe.classes or range(wanted.recipe.num_classes)),
        "blocks": wanted.size.num_blocks,
        "block_size": wanted.block_size,
        **disk_sizes(wanted.size, label_sets),
        "model_calls_per_image": counted.calls,
        "flops_per_image": {**counted.per_image, "labels": by_labels},
        "presets": counted.presets,
        "left": left,
        "limits": obstacles(path, wanted.size, label_sets, workers=1),
        "flops": None if made is None else made + extra + sum(label_flops.values()),
        "uncounted": None if configs else _UNCOUNTED.format(wanted.info.name),
    }
    first = next(iter(label_sets), None)
    result["training"] = training_traffic(
        result["arrays"],
        num_blocks=wanted.size.num_blocks,
        image_bytes=wanted.num_images * math.prod(wanted.image_shape),
        image_codec=wanted.size.image_codec,
        label_set=first.name if first else None,
        view_set=first.view_set.name if first else None,
        epochs=schedule["epochs"],
        dollars_per_gb=cost.dollars_per_gb,
    )
    result |= _time(result, wanted, cost, made, label_flops, extra)
    if by_rounds is not None:
        result["rounds"] = _described(by_rounds, result, cost)
    return result


def _round_flops(
    rounds: PlannedRounds,
    wanted: WantedImages,
    configs: Sequence[dict[str, Any]],
    counted: "_Counted",
    label_sets: Sequence[PlannedLabels],
    epochs: int,
) -> RoundFlops:
    if not configs or counted.calls is None:
        raise UsageError(f"What rounds take is counted for DiTs alone, and {wanted.info.name} is none.")
    assert isinstance(wanted.info, GeneratorInfo)
    sampling, decoding = (counted.per_image[part] or 0 for part in ("sampling", "decoding"))
    first = next(iter(label_sets), None)
    return round_flops(
        rounds,
        wanted.recipe,
        wanted.info,
        configs[3],
        wanted.num_images,
        sampling // counted.calls,
        decoding,
        first,
        epochs,
    )


def _described(by_rounds: RoundFlops, plan: Mapping[str, Any], cost: CostOptions) -> dict[str, Any]:
    """Images a second of one GPU: of a blind image, and of one that each of the parts is added to."""
    blind = plan["flops_per_image"]["total"]
    per_second = cost.images_per_second or plan["flops_per_second"] / blind
    rates = {part: per_second * blind / (blind + extra) for part, extra in by_rounds.per_image.items()}
    return {
        "images": list(by_rounds.images),
        "flops_per_image": dict(by_rounds.per_image),
        "students": by_rounds.students,
        "images_per_second": {"blind": per_second, **rates, "all": per_second * blind / (blind + by_rounds.extra)},
    }


@dataclass(frozen=True)
class _Counted:
    """The arithmetic of one image; None where it can't be counted."""

    calls: int | None = None  # of the model
    made: int | None = None  # operations of sampling and decoding
    per_image: Mapping[str, int | None] = field(
        default_factory=lambda: dict.fromkeys(("sampling", "decoding", "total"))
    )
    presets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def _counted(wanted: WantedImages, configs: Sequence[dict[str, Any]], labels: int) -> _Counted:
    """From the configurations of a DiT, if it is one; ``labels``: operations of an image's labels."""
    if not configs:
        return _Counted()
    _, transformer, vae, scheduler = configs
    info = wanted.info
    assert isinstance(info, GeneratorInfo)
    calls, one_call = model_calls(wanted.recipe, info, scheduler), transformer_flops(transformer, info)
    sampling, decoding = calls * one_call, decoder_flops(vae, info)
    presets = {}
    for name in PRESETS:
        there = _preset_calls(name, wanted, info, scheduler)
        presets[name] = {"model_calls": there, "flops_per_image": there * one_call + decoding + labels}
    per_image = {"sampling": sampling, "decoding": decoding, "total": sampling + decoding + labels}
    return _Counted(calls, sampling + decoding, per_image, presets)


def _label_flops(one: PlannedLabels) -> int:
    """Forward passes of a teacher for one image: its views, and what else it looks at for the quality."""
    teacher = one.find_teacher()
    quality = classifier_flops(teacher, one.quality_view.size) if one.quality_view is not None else 0
    return one.view_set.num_views * classifier_flops(teacher, one.view_set.size) + quality


def _preset_calls(name: str, wanted: WantedImages, info: GeneratorInfo, scheduler: dict[str, Any]) -> int:
    """Calls of the model for an image of this generator by a preset."""
    sampling = info.sampling(ImageOptions(preset=name).with_preset(), wanted.defaults)
    return model_calls(dataclasses.replace(wanted.recipe, **sampling), info, scheduler)


def _left(size: StoreSize, sub_batch: int, label_sets: Sequence[PlannedLabels]) -> dict[str, Any]:
    """What is to be done: ``images`` to make, ``sampled`` for them (sub-batches are filled up), label set -> images to label.

    Counted from what is there, so that a plan of any size takes no memory."""
    full, rest = divmod(size.num_images, size.block_size)

    def count(blocks: Collection[int], of: Callable[[int], int]) -> int:
        """The sum over the store's blocks without these, of their lengths or what ``of`` makes of them."""
        last = full in blocks
        return (full - (len(blocks) - last)) * of(size.block_size) + (0 if last else of(rest))

    there = _staying(size, None)
    to_label = {}
    for one in label_sets:
        # A block that is made is labelled in the same pass, whatever labels are there.
        labelled = there & _staying(size, one.stored) if one.stored else set()
        to_label[one.name] = count(labelled, int)
    sampled = count(there, lambda length: -(-length // sub_batch) * sub_batch)
    return {"images": count(there, int), "sampled": sampled, "labels": to_label}


def _staying(size: StoreSize, label_set: LabelSet | None) -> set[int]:
    """Blocks that have images, or this set's labels; a last block that is only partly used is made again if the store grows."""
    store = size.store
    if store is None:
        return set()
    missing = (store if label_set is None else label_set).missing_blocks()
    grows = size.num_images != store.num_images
    return set(range(store.num_images // size.block_size if grows else store.num_blocks)) - set(missing)


def _time(
    result: Mapping[str, Any],
    wanted: WantedImages,
    cost: CostOptions,
    made: float | None,
    label_flops: Mapping[str, float],
    extra: float,
) -> dict[str, Any]:
    """GPU-hours, hours and dollars of what is left, and the rate behind them in words. ``extra``: operations of rounds."""
    gpus = cost.gpus or 1
    if made is None and result["left"]["images"] and not cost.images_per_second:
        return dict.fromkeys(
            ("assumption", "flops_per_second", "images_per_second", "gpu_hours", "hours", "dollars")
        ) | {"gpus": gpus}
    dtype = wanted.recipe.dtype or "bfloat16"
    tflops = cost.tflops or H100_TFLOPS[dtype]
    utilisation = UTILISATION if cost.utilisation is None else cost.utilisation
    per_second = tflops * 1e12 * utilisation
    whose = "as given" if cost.tflops else f"an H100's in {dtype}"
    assumption = f"{tflops:g} TFLOP/s a GPU ({whose}), {utilisation:.0%} of it reached"
    if cost.utilisation is None:
        assumption += " (assumed: measure yours and give --images-per-second)"
    seconds = ((made or 0) + extra + sum(label_flops.values())) / per_second
    if cost.images_per_second:
        # The rate is that of images made and labelled in one pass; labels of images that are there are counted.
        images, labelled = result["left"]["images"], result["left"]["labels"]
        later = sum((labelled[name] - images) * result["flops_per_image"]["labels"][name] for name in labelled)
        seconds = images / cost.images_per_second + later / per_second
        if extra:  # at the rate at which the measured images are made
            seconds += extra / result["flops_per_image"]["total"] / cost.images_per_second
        measured = f"{cost.images_per_second:g} images/s a GPU, as given"
        assumption = f"{measured}; labels of images that are there: {assumption}" if later else measured
    hours = seconds / 3600
    dollars = None if cost.dollars_per_hour is None else hours * cost.dollars_per_hour
    return {
        "assumption": assumption,
        "flops_per_second": per_second,
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
