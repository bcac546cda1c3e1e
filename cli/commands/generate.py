"""``dmkd generate``"""

import json
from typing import Any

import click

from dmkd.stores.errors import UsageError

from ..help import MAIN, HeadedCommand, heading
from ..options import find_store, json_option
from ..recipe_options import read_recipe_options, recipe_options
from ..round_options import read_round, round_options


@click.command("generate", cls=HeadedCommand, short_help="Make images and their first labels.")
@recipe_options
@round_options
@heading(MAIN)
@click.option("--dry-run", is_flag=True, help="Print what would be made, as dmkd plan does, and write nothing.")
@json_option
def command(
    store: str | None,
    workers: int | None,
    device: str | None,
    ray_address: str | None,
    dry_run: bool,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Make a store of class-labelled images, and in the same pass their first labels.

    If interrupted, rerun the same command to resume; two that run at once share the work. On a store that exists,
    options that are left out are the store's. With --generator digits the defaults are those of the bundled pipeline
    (20 DDIM steps, 3000 images). A new store's recipe is printed to stderr, as TOML for --recipe.

    \b
    Examples:
      dmkd generate --store imnet.zarr                                  200,000 images as DM-KD made them
      dmkd generate --store imnet.zarr --images 1280000                 let it grow
      dmkd generate --store imnet.zarr --teacher resnet34.tv_in1k --teacher resnet18.tv_in1k
      dmkd generate --store imnet.zarr --dry-run                        what would be made, and what it costs
      dmkd generate --store guided.zarr --like imnet.zarr --guidance 4     the same except for guidance
      dmkd generate --store again.zarr --recipe recipe.toml
      dmkd generate --store digits.zarr --generator digits --images 3000
      dmkd generate --store in100.zarr --classes imagenet100.txt --images 20000
      dmkd generate --store dogs.zarr --classes 151-268 --images 20000 --sampler dpm++ --steps 20
      dmkd generate --store mixed.zarr --guidance 1.5:3 --sampler ddim --steps 50 --guidance-interval 0.1:0.5
      dmkd generate --store pets.zarr --generator stabilityai/sdxl-turbo --steps 4 --guidance 0 --class-names pets.txt
      dmkd generate --store sd.zarr --generator ./sd --class-names imagenet --prompt "a photo of a {}" --prompt "a {}"
    """
    path = find_store(store)
    rounds = read_round(recipe)
    images, labels = read_recipe_options(recipe)
    if dry_run and rounds is not None:
        raise UsageError("--dry-run tells nothing of a round: `dmkd plan --rounds N` does.")
    if dry_run:
        from dmkd.plan import CostOptions
        from dmkd.runtime.devices import choose_device

        from .plan import show_plan

        show_plan(path, images, labels, CostOptions(gpus=workers or None), choose_device(device), as_json)
        return
    from dmkd.generate import RunOptions, generate

    from ..display import make_display
    from ..summary import print_store, store_facts

    run = RunOptions(workers, device, ray_address)
    made, _ = generate(path, images, labels, run, make_display(), lambda toml: click.echo(toml, err=True), rounds)
    if as_json:
        click.echo(json.dumps(store_facts(made)))
    else:
        print_store(made)
