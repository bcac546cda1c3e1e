"""``dmkd plan``"""

import json
from typing import TYPE_CHECKING, Any

import click

from ..help import HeadedCommand, heading
from ..options import find_store, json_option
from ..recipe_options import read_recipe_options, recipe_options
from ..round_options import ROUND, read_steering, steering_options

if TYPE_CHECKING:
    from dmkd.generate import ImageOptions, LabelOptions
    from dmkd.plan import CostOptions
    from dmkd.recipes.rounds import RoundOptions


@click.command("plan", cls=HeadedCommand, short_help="What a run would make, take and cost; nothing is written.")
@recipe_options
@heading(ROUND)
@click.option("--rounds", type=int, metavar="N", help="The images are made in rounds, as dmkd distil does.")
@click.option(
    "--student",
    metavar="NAME",
    default="resnet18",
    show_default=True,
    help="Architecture of the students that rounds follow.",
)
@steering_options
@heading("Speed and price")
@click.option(
    "--images-per-second", type=float, metavar="X", help="Images per second that one GPU makes and labels, if measured."
)
@click.option(
    "--tflops",
    type=float,
    metavar="X",
    help="Dense TFLOP/s of one GPU, from its data sheet. Default: 989, an H100 in bfloat16.",
)
@click.option("--utilisation", type=float, metavar="X", help="Fraction of --tflops that is achieved. Default: 0.4.")
@click.option("--gpus", type=int, metavar="N", help="Number of GPUs. Default: --workers, or 1.")
@click.option("--dollars-per-hour", type=float, metavar="X", help="Price of one GPU. Default: no cost is printed.")
@click.option(
    "--dollars-per-gb",
    type=float,
    metavar="X",
    help="Price of 10^9 bytes that leave the bucket, for what training moves. Default: no cost is printed.",
)
@json_option
def command(
    store: str | None,
    workers: int | None,
    device: str | None,
    ray_address: str | None,
    images_per_second: float | None,
    tflops: float | None,
    utilisation: float | None,
    gpus: int | None,
    dollars_per_hour: float | None,
    dollars_per_gb: float | None,
    rounds: int | None,
    student: str,
    as_json: bool,
    **recipe: Any,
) -> None:
    """What dmkd generate with these options would make: bytes on disk, arithmetic, GPU-hours, cost. Nothing is written.

    Takes all options of dmkd generate. Weights are not needed: the arithmetic is counted from the models'
    configurations, and that of the default generator is bundled. Bytes are exact unless it says otherwise. Of a
    store that exists, it says what is left to do.

    Time is an estimate: arithmetic divided by the rate you give, or by what one H100 is assumed to reach. Better: measure
    images per second on a small store and give --images-per-second. Unless --device cpu is given, defaults are those of a GPU.

    \b
    Examples:
      dmkd plan                                                     DM-KD's 200,000 images
      dmkd plan --sampler dpm++ --steps 25 --guidance-interval 0.1:0.5 --gpus 8 --dollars-per-hour 2.5
      dmkd plan --teacher resnet34.tv_in1k --views rrc:50+cutmix --codec klt:0.5
      dmkd plan --recipe recipe.toml --gpus 8
      dmkd plan --images 50000 --rounds 5 --candidates 4 --candidate-steps 10    in rounds that follow a student
      dmkd plan --tflops 312 --utilisation 0.5                      on A100s
      dmkd plan --store imnet.zarr --images-per-second 3.1          what is left to do there
      dmkd plan --store s3://bucket/imnet.zarr --dollars-per-gb 0.09    what training from there moves
    """
    steering = read_steering(recipe, None if rounds is None else "a student")
    images, labels = read_recipe_options(recipe)
    if store is None:
        store = _only_store()

    from dmkd.plan import CostOptions

    cost = CostOptions(
        images_per_second,
        tflops,
        utilisation,
        workers or None if gpus is None else gpus,
        dollars_per_hour,
        dollars_per_gb,
    )
    show_plan(store, images, labels, cost, device, as_json, None if rounds is None else (rounds, student, steering))


def show_plan(
    path: str,
    images: "ImageOptions",
    labels: "LabelOptions",
    cost: "CostOptions",
    device: str | None,
    as_json: bool,
    rounds: "tuple[int, str, RoundOptions] | None" = None,
) -> None:
    """Print the plan of a run: a screen, or one line of JSON. ``rounds``: how many, the student, what they are made by."""
    from dmkd.plan import PlannedRounds, plan

    found = plan(path, images, labels, cost, device, rounds and PlannedRounds(*rounds))
    if as_json:
        click.echo(json.dumps(found))
    else:
        print_plan(found)


def _only_store() -> str:
    """The store that is meant, if any: without one a new store is planned."""
    from dmkd.stores.errors import UsageError

    try:
        return find_store(None)
    except UsageError:
        return "new.zarr"


def print_plan(plan: dict[str, Any]) -> None:
    from dmkd.making.recipe_file import to_toml
    from dmkd.runtime.space import byte_size
    from dmkd.stores import locations

    from ..display import print_facts, print_table
    from ..traffic import traffic_lines

    click.echo(to_toml(plan["recipe"]) + "\n")
    rough = "" if plan["bytes_are"] == "exact" else f"{plan['bytes_are']} "
    size = plan["image_size"]
    left = plan["left"]
    facts = [
        ("images", f"{plan['images']:,}, {size}x{size}, of {plan['classes']:,} classes"),
        ("blocks", f"{plan['blocks']:,} of {plan['block_size']:,} images"),
        ("on disk", f"{rough}{byte_size(plan['bytes'])} in {plan['files']:,} files"),
        ("an image", _image(plan)),
        *([("presets", _presets(plan))] if plan["presets"] else []),
        ("to do", _to_do(plan)),
    ]
    if plan["flops"] is not None:
        facts.append(("arithmetic", _flops(plan["flops"])))
    if plan["hours"] is not None:
        facts += [
            ("assumed", plan["assumption"]),
            ("GPU-hours", f"{plan['gpu_hours']:,.4g}"),
            ("time", f"{_hours(plan['hours'])} on {plan['gpus']} GPU{'s' if plan['gpus'] > 1 else ''}"),
        ]
    if "rounds" in plan:
        facts += _rounds(plan["rounds"])
    if plan["uncounted"] is not None:
        facts.append(("not counted", plan["uncounted"]))
    if plan["dollars"] is not None:
        facts.append(("cost", f"{plan['dollars']:,.2f} dollars"))
    sub_batch = plan["recipe"].get("sub-batch")  # None: found by trial on the GPU
    if sub_batch and plan["block_size"] % sub_batch:
        facts.append(("note", f"{left['sampled']:,} images are sampled: --sub-batch does not divide --block-size."))
    if locations.scheme(plan["path"]) or "dollars" in plan["training"]:
        facts += traffic_lines(plan["training"])
    facts += [("here", sentence) for sentence in plan["limits"]]
    print_facts(f"{plan['path']}, {'which is there' if plan['exists'] else 'a new store'}", facts)
    rows = []
    for name, array in plan["arrays"].items():
        kind = "" if array["bytes_are"] == "exact" else f"{array['bytes_are']} "
        rows.append([name, f"{kind}{byte_size(array['bytes'])}", f"{array['bytes'] / plan['images']:,.1f}"])
    print_table("Arrays", ["array", "on disk", "bytes an image"], rows)


def _rounds(rounds: dict[str, Any]) -> list[tuple[str, str]]:
    """How many images each has, what an image takes beyond a blind one, and how many a GPU makes a second."""
    images, extra, rates = rounds["images"], rounds["flops_per_image"], rounds["images_per_second"]
    parts = [f"{part} {_flops(flops)} ({rates[part]:,.3g} images/s)" for part, flops in extra.items()]
    blind, every = f"{rates['blind']:,.3g} images/s", f"{rates['all']:,.3g} images/s"
    return [
        ("rounds", f"{len(images)} of about {images[0]:,} images; their students {_flops(rounds['students'])}"),
        ("a round", f"beyond a blind image ({blind} a GPU): {', '.join(parts)}; all of these: {every}"),
    ]


def _image(plan: dict[str, Any]) -> str:
    """Its arithmetic in all, and by part."""
    per_image, calls = plan["flops_per_image"], plan["model_calls_per_image"]
    labels = [f"{name} {_flops(flops)}" for name, flops in per_image["labels"].items()]
    if per_image["total"] is None:
        return ", ".join(["sampling is not counted", *labels])
    parts = [f"sampling {_flops(per_image['sampling'])} ({calls} calls)", f"decoding {_flops(per_image['decoding'])}"]
    return f"{_flops(per_image['total'])}: {', '.join([*parts, *labels])}"


def _presets(plan: dict[str, Any]) -> str:
    """What an image takes by each."""
    found = plan["presets"].items()
    return ", ".join(f"{name} {_flops(one['flops_per_image'])} ({one['model_calls']} calls)" for name, one in found)


def _to_do(plan: dict[str, Any]) -> str:
    left = plan["left"]
    if not plan["exists"]:
        return "everything"
    parts = [f"{left['images']:,} images"] if left["images"] else []
    parts += [f"labels of {count:,} images by {name}" for name, count in left["labels"].items() if count]
    return ", ".join(parts) or "nothing: it is complete"


def _flops(count: float) -> str:
    for unit in ("MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        count /= 1000 if unit != "MFLOP" else 1e6
        if count < 1000:
            return f"{count:,.4g} {unit}"
    return f"{count / 1000:,.4g} EFLOP"


def _hours(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:,.1f} minutes" if hours >= 1 / 60 else f"{hours * 3600:,.2f} seconds"
