"""``dmkd generate``"""

import json
from typing import Any

import click

from .options import find_store, json_option, label_options, run_options, store_option


@click.command("generate", short_help="Make images and their first labels.")
@store_option
@click.option(
    "--generator",
    metavar="NAME",
    help="Hub id or folder of a DiT or text-to-image pipeline, or digits. Default: facebook/DiT-XL-2-256.",
)
@click.option(
    "--images",
    type=int,
    metavar="N",
    help="Images in the store; more than it has: it grows. Default: 200000; text-to-image: 200 a class.",
)
@click.option("--classes", metavar="LIST", help="Class ids, ranges or names, such as 0-9,207. Default: all.")
@click.option(
    "--class-names",
    metavar="FILE",
    help="Text-to-image: the classes, one name a line (of synonyms, a, b, the first is used), or imagenet.",
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help="Text-to-image: {} is the class name; may be repeated, each image draws one; @FILE: one a line. "
    'Default: "a photo of a {}".',
)
@click.option(
    "--negative-prompt", metavar="TEXT", help="Text-to-image: what guidance leads away from. Default: nothing."
)
@click.option("--image-size", type=int, metavar="N", help="Text-to-image: pixels. Default: the pipeline's.")
@click.option(
    "--sampler",
    metavar="NAME",
    help="ddpm (DM-KD's), ddim, dpm++ or unipc; text-to-image: pipeline (its own), ddim, dpm++ or unipc. "
    "Default: ddpm or pipeline.",
)
@click.option("--steps", type=int, metavar="N", help="Denoising steps. Default: 100, or the pipeline's.")
@click.option(
    "--guidance",
    metavar="X",
    help="Guidance scale; 1: none, and twice as fast; 1.5:3: each image draws its own. Default: 2, or the pipeline's.",
)
@click.option(
    "--guidance-interval",
    metavar="LOW:HIGH",
    help="Guide only while the noise is in this range, 1 being pure noise; the other steps cost half. Default: always.",
)
@click.option(
    "--guided-channels",
    type=int,
    metavar="N",
    help="Latent channels guided. Default: 3 for ddpm, as DiT does, else all.",
)
@click.option("--seed", type=int, metavar="N", help="Seed of all noise and of the class order. Default: 0.")
@click.option("--dtype", metavar="TYPE", help="Of the weights: bfloat16 (default on a GPU), float16 or float32.")
@click.option(
    "--sub-batch",
    type=int,
    metavar="N",
    help="Images sampled at once; part of the recipe. Default: as many of a block as fit on the GPU.",
)
@click.option(
    "--compile/--no-compile",
    "compile",
    default=None,
    help="Run the models through torch.compile: minutes to start, then faster; part of the recipe. Default: no.",
)
@click.option(
    "--block-size", type=int, metavar="N", help="Images a block, the unit of work. Default: chunks up to 16 MB."
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="NAME",
    help="Label in the same pass; may be repeated. none: images only. Default: resnet18.tv_in1k, as DM-KD; none for "
    "classes of --class-names FILE.",
)
@label_options
@run_options
@json_option
def command(
    store: str | None,
    teachers: tuple[str, ...],
    views: str | None,
    view_seed: int | None,
    codec: str,
    workers: int | None,
    device: str | None,
    ray_address: str | None,
    as_json: bool,
    prompts: tuple[str, ...],
    **image_options: Any,
) -> None:
    """Make a store of class-labelled images, and in the same pass their first labels.

    Stopped at any moment, the same command goes on. On a store that is there, options that are left out are the store's.
    With --generator digits the defaults are those of the bundled pipeline (20 DDIM steps, 3000 images).

    \b
    Examples:
      dmkd generate --store imnet.zarr                                  200,000 images as DM-KD made them
      dmkd generate --store imnet.zarr --images 1280000                 let it grow
      dmkd generate --store imnet.zarr --teacher resnet34 --teacher resnet18
      dmkd generate --store digits.zarr --generator digits --images 3000
      dmkd generate --store dogs.zarr --classes 151-268 --images 20000 --sampler dpm++ --steps 20
      dmkd generate --store mixed.zarr --guidance 1.5:3 --sampler ddim --steps 50 --guidance-interval 0.1:0.5
      dmkd generate --store pets.zarr --generator stabilityai/sdxl-turbo --steps 4 --guidance 0 --class-names pets.txt
      dmkd generate --store sd.zarr --generator ./sd --class-names imagenet --prompt "a photo of a {}" --prompt "a {}"
    """
    from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate

    from .display import make_display
    from .summary import print_store, store_facts

    path = find_store(store)
    made, _ = generate(
        path,
        ImageOptions(**image_options, prompts=prompts or None),
        LabelOptions(teachers or None, views, view_seed, codec),
        RunOptions(workers, device, ray_address),
        make_display(),
    )
    if as_json:
        click.echo(json.dumps(store_facts(made)))
    else:
        print_store(made)
