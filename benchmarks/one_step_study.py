"""Is a generator of one step worth its students? The bundled one-step digits against the DiT that it was distilled from.

    python benchmarks/one_step_study.py [--draws 3] [--seeds 5] [--images 300,1000,3000] [--updates 240] [--batch-size 64]
                                        [--workers 0] [--quick] [--json]

First how many images a second each makes, alternately in this process; then students of the same numbers of images, paired: image
i of both stores has the same class and the same noise. Last, equal seconds of making images: each number of the DiT's beside the
largest number of the one step's, of those there are, that takes no longer. Writes ``OUT/one-step.csv``; the DiT's store
and students are those of ``regimes_study.py`` with the same ``--out``. If interrupted, rerun the same command to resume.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from regimes_study import AT, HERE, TEACHER, prepare, study, study_options

from dmkd.cli.display import make_display
from dmkd.generate import ImageOptions, LabelOptions, generate
from dmkd.generators.load import load_generator
from dmkd.generators.sources import parse_source
from dmkd.recipes.recipe import Recipe
from dmkd.stores import open_store
from dmkd.training.conditions import Axes

ROUNDS, TIMED = 5, 64


def rates(paths: dict[str, str]) -> dict[str, dict[str, float]]:
    """Images a second of each store's generator in sub-batches of 64 on this CPU: median, lowest and highest of five rounds that
    take turns."""
    makers, ids = {}, np.arange(TIMED)
    for name, path in paths.items():
        store = open_store(path)
        recipe = Recipe.from_json(store.recipe)
        source = parse_source(str(store.source))
        generator = load_generator(source.weights, device="cpu", dtype=recipe.dtype)
        makers[name] = (generator, recipe)
    seen: dict[str, list[float]] = {name: [] for name in makers}
    for turn in range(ROUNDS + 1):
        for name, (generator, recipe) in makers.items():
            started = time.perf_counter()
            generator.sample(recipe.generator_classes(ids), recipe.image_seeds(ids), **recipe.sampling(ids))
            if turn:  # the first warms up
                seen[name].append(TIMED / (time.perf_counter() - started))
    return {
        name: {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}
        for name, found in seen.items()
    }


def main() -> None:
    options = study_options(__doc__)
    images = options.images
    display = make_display()
    count = options.draws * max(images)
    one_step = str(options.out / "one-step.zarr")
    generate(one_step, ImageOptions(generator="digits-one-step", images=count), LabelOptions((TEACHER,)), HERE, display)
    paths = {"DiT, 20 steps": prepare(options.out, AT, count, display), "one step": one_step}
    speed = rates(paths)
    axes = Axes(
        tuple(paths.values()),
        (TEACHER,),
        images=images,
        vary={"loss": ("kl",)},  # named as in regimes_study.py, whose students of the DiT's images these are
        seeds=tuple(range(options.seeds)),
        draws=options.draws,
    )
    rows = study("one-step", axes, {}, {"store": Path(paths["DiT, 20 steps"]).stem}, options, display)
    ratio = speed["one step"]["median"] / speed["DiT, 20 steps"]["median"]
    top1 = {(row["store"], row["images_used"]): row["top1"] for row in rows}
    equal = [
        {
            "seconds": count / speed["DiT, 20 steps"]["median"],
            "dit_images": count,
            "dit_top1": top1[Path(paths["DiT, 20 steps"]).stem, count],
            "one_step_images": (more := max(other for other in images if other <= count * ratio)),
            "one_step_top1": top1[Path(one_step).stem, more],
        }
        for count in images
    ]
    results: dict[str, Any] = {"images_per_second": speed, "students": rows, "at_equal_seconds": equal}
    if options.json:
        print(json.dumps(results))
    else:
        for name, found in speed.items():
            print(f"{name}: {found['median']:.1f} images/s ({found['lowest']:.1f} to {found['highest']:.1f})")
        for row in equal:
            print(
                f"{row['seconds']:.0f} s of making: DiT, {row['dit_images']:,} images: {100 * row['dit_top1']:.2f} %; one step, "
                f"{row['one_step_images']:,} images: {100 * row['one_step_top1']:.2f} %"
            )


if __name__ == "__main__":
    main()
