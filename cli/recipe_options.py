"""The options that say which store is to be made: shared by ``dmkd generate`` and ``dmkd plan``."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .completion import ListingOption, classifiers, files, folders, words
from .help import MAIN, STORED_IMAGES, heading
from .options import image_codec_option, label_options, run_options, store_option

if TYPE_CHECKING:
    from dmkd.making.asked import LabelOptions
    from dmkd.recipes.image_options import ImageOptions


def _sampler_names() -> list[str]:
    from dmkd.generators.samplers import OWN_SCHEDULER, SAMPLERS

    return [*SAMPLERS, OWN_SCHEDULER]


def _sampler_help() -> str:
    from dmkd.generators.samplers import OWN_SCHEDULER, SAMPLERS, replacements

    known = [f"{name} ({sampler.remark})" if sampler.remark else name for name, sampler in SAMPLERS.items()]
    others = [f"{OWN_SCHEDULER} (its own)", *replacements()]
    return f"{_alternatives(known)}; text-to-image: {_alternatives(others)}."


def _dtypes() -> Sequence[str]:
    from dmkd.recipes.dtypes import DTYPES

    return DTYPES


def _weights() -> Sequence[str]:
    from dmkd.recipes.dtypes import WEIGHTS

    return WEIGHTS


def _alternatives(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _presets() -> Sequence[str]:
    from dmkd.recipes.image_options import PRESETS

    return list(PRESETS)


def _preset_list() -> str:
    from dmkd.recipes.image_options import PRESETS

    return "; ".join(f"{name}: {_in_words(preset)}" for name, preset in PRESETS.items())


def _in_words(preset: Mapping[str, Any]) -> str:
    interval = preset.get("guidance_interval")
    guidance = f"guidance {preset['guidance']:g}" + (f" at {interval} of the noise" if interval else "")
    return f"{preset['steps']} {preset['sampler']} steps, {guidance}"


_START_OPTIONS = (
    heading("Starting from another recipe"),
    click.option(
        "--recipe",
        shell_complete=files,
        metavar="FILE",
        help="TOML or JSON with options by their names; those given here win.",
    ),
    click.option(
        "--like",
        shell_complete=files,
        metavar="STORE",
        help="Take the options of another store: images, teachers, views, codec; those given here win.",
    ),
)

_IMAGE_OPTIONS = (
    heading(MAIN),
    click.option(
        "--generator",
        shell_complete=files,
        metavar="NAME",
        help="Hub id or folder of a DiT or text-to-image pipeline, digits, or package.module:factory (dmkd generators lists what "
        "there is). Default: facebook/DiT-XL-2-256.",
    ),
    click.option(
        "--images",
        type=int,
        metavar="N",
        help="Images in the store; more than it has: it grows. Default: 200000; text-to-image: 200 a class.",
    ),
    click.option(
        "--classes",
        shell_complete=files,
        metavar="LIST",
        help="Class ids, ranges, names or WordNet ids, such as 0-9,207 or n02099601, or a file with one a line. Default: all.",
    ),
    click.option(
        "--preset",
        cls=ListingOption,
        listing=_preset_list,
        shell_complete=words(later=_presets),
        metavar="NAME",
        help="Sampling options by name, where they are not given: {}. Default: none.",
    ),
    heading("Sampling"),
    click.option(
        "--sampler",
        cls=ListingOption,
        listing=_sampler_help,
        shell_complete=words(later=_sampler_names),
        metavar="NAME",
        help="{} Default: ddpm or pipeline.",
    ),
    heading(MAIN),
    click.option("--steps", type=int, metavar="N", help="Denoising steps. Default: 100, or the pipeline's."),
    click.option(
        "--guidance",
        metavar="X",
        help="Guidance scale; 1: none, and twice as fast; 1.5:3: each image draws its own. Default: 2, or the pipeline's.",
    ),
    heading("Sampling"),
    click.option(
        "--guidance-interval",
        metavar="LOW:HIGH",
        help="Guide only while the noise is in this range, 1 being pure noise; the other steps cost half. Default: always.",
    ),
    click.option(
        "--guided-channels",
        type=int,
        metavar="N",
        help="Latent channels guided. Default: 3 for ddpm, as DiT does, else all.",
    ),
    heading(MAIN),
    click.option("--seed", type=int, metavar="N", help="Seed of all noise and of the class order. Default: 0."),
    heading("Sampling"),
    click.option(
        "--dtype",
        cls=ListingOption,
        listing=lambda: _alternatives(_dtypes()),
        shell_complete=words(later=_dtypes),
        metavar="TYPE",
        help="Of the generator's weights: {} (float8: with torchao, on GPUs that have it). Default: bfloat16 on CUDA, else "
        "float32.",
    ),
    click.option(
        "--vae",
        shell_complete=folders,
        metavar="PLACE",
        help="Decode a DiT's latents by another VAE: a hub id such as stabilityai/sd-vae-ft-mse, or a folder. Default: its own.",
    ),
    click.option(
        "--vae-dtype",
        cls=ListingOption,
        listing=lambda: _alternatives(_weights()),
        shell_complete=words(later=_weights),
        metavar="TYPE",
        help="Of the VAE's weights: {}. Default: as --dtype (beside float8: bfloat16).",
    ),
    click.option(
        "--sub-batch",
        type=int,
        metavar="N",
        help="Images sampled at once; part of the recipe. Default: as many of a block as fit on the GPU.",
    ),
    click.option(
        "--compile/--no-compile",
        default=None,
        help="Run the models through torch.compile: longer to start, then faster; part of the recipe. Default: on CUDA, where "
        "there is a C compiler.",
    ),
    click.option(
        "--generator-arg",
        multiple=True,
        metavar="KEY=VALUE",
        help="An argument of a package.module:factory, its value JSON or a text; may be repeated; part of the recipe.",
    ),
    heading("Text-to-image pipelines"),
    click.option(
        "--class-names",
        shell_complete=files,
        metavar="FILE",
        help="Text-to-image: the classes, one name a line (of synonyms, a, b, the first is used), or imagenet. Also names the "
        "classes of a generator that only numbers them.",
    ),
    click.option(
        "--prompt",
        multiple=True,
        metavar="TEXT",
        help="Text-to-image: {} is the class name; may be repeated, each image draws one; @FILE: one a line. "
        'Default: "a photo of a {}".',
    ),
    click.option(
        "--negative-prompt", metavar="TEXT", help="Text-to-image: what guidance leads away from. Default: nothing."
    ),
    click.option(
        "--image-size",
        type=int,
        metavar="N",
        help="Text-to-image: height and width in pixels. Default: the pipeline's.",
    ),
    heading(STORED_IMAGES),
    click.option(
        "--size",
        type=int,
        metavar="N",
        help="Height and width of stored images in pixels, if smaller than they are made (Pillow's bicubic); teachers see these.",
    ),
    click.option(
        "--block-size",
        type=int,
        metavar="N",
        help="Images in a block, the unit of work. Default: 256, fewer if they are large (64 at 256x256).",
    ),
    image_codec_option,
    heading(MAIN),
    click.option(
        "--teacher",
        shell_complete=classifiers,
        multiple=True,
        metavar="NAME",
        help="Label in the same pass, with any that dmkd teachers lists; may be repeated. none: images only. Default: "
        "resnet18.tv_in1k, as DM-KD; none for classes of --class-names FILE.",
    ),
)


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which store, which images, which labels, and where they are made. :func:`read_recipe_options` makes sense of them."""
    for option in reversed((heading(MAIN), store_option, *_IMAGE_OPTIONS, label_options, *_START_OPTIONS, run_options)):
        function = option(function)
    return function


def read_recipe_options(given: dict[str, Any]) -> tuple["ImageOptions", "LabelOptions"]:
    """What was asked for, from the options of :func:`recipe_options` but those of the store and the run. Raises
    ``UsageError`` for what can't be, before anything heavy is imported."""
    from dmkd.making.asked import LabelOptions, check_images, check_labels
    from dmkd.making.recipe_file import start_from
    from dmkd.recipes.generator_args import parse_arguments
    from dmkd.recipes.image_options import PRESETS, ImageOptions

    given = {name: None if value == () else value for name, value in given.items()}
    recipe, like = given.pop("recipe"), given.pop("like")
    for key, value in {**start_from(recipe, like), **PRESETS.get(given["preset"] or "", {})}.items():
        name = key.replace("-", "_")
        given[name] = value if given[name] is None else given[name]
    teachers, prompts, arguments = given.pop("teacher"), given.pop("prompt"), given.pop("generator_arg")
    teacher_prompts = given.pop("teacher_prompt")
    labels = LabelOptions(
        tuple(teachers) if teachers else None,
        given.pop("views"),
        given.pop("view_seed"),
        given.pop("codec"),
        teacher_precision=given.pop("teacher_precision"),
        teacher_prompts=tuple(teacher_prompts) if teacher_prompts else None,
    )
    images = ImageOptions(
        **given, prompts=tuple(prompts) if prompts else None, generator_args=parse_arguments(arguments or ()) or None
    )
    check_images(images)
    check_labels(labels)
    return images, labels
