"""``dmkd select``"""

import json

import click

from ..help import MAIN, HeadedCommand, heading
from ..options import existing_store, json_option, store_option


@click.command("select", cls=HeadedCommand, short_help="Try a selection of images, and save it.")
@click.argument("expression", metavar="SELECTION")
@heading(MAIN)
@store_option
@click.option(
    "--labels", metavar="NAME", help="Label set whose teacher's opinion counts. Default: the store's only one."
)
@click.option("--save", metavar="NAME", help="Keep it in the store: --select @NAME then means it.")
@json_option
def command(expression: str, store: str | None, labels: str | None, save: str | None, as_json: bool) -> None:
    """Say how many images a selection keeps, of each class, and save it under a name if asked to. No image is changed.

    A selection compares columns with numbers: entropy, p_class, top1, agree (a teacher's opinion), class_id, image_id, and
    columns of your own. rank(p_class) is an image's place within its class, 1 for the largest; rank(-entropy) 1 for the smallest.
    @NAME is a selection that was saved. --select of train-student, compare and export takes the same.

    \b
    Examples:
      dmkd select "agree and 0.5 < entropy < 2.5"
      dmkd select "rank(p_class) <= 500" --store imnet.zarr --save best500
      dmkd select "@best500 and clip_score > 0.2"
    """
    path = existing_store(store)

    import numpy as np

    from dmkd.loading.usable import usable_images
    from dmkd.recipes.selecting import in_full, selection_of
    from dmkd.stores import UsageError, open_store

    from ..display import percent, print_facts

    opened = open_store(path)
    selection = selection_of(opened, expression)
    judge = labels
    if judge is None and selection.needs_teacher:
        if len(opened.labels) != 1:
            known = ", ".join(opened.labels) or "none"
            raise UsageError(
                f"The selection needs a teacher's opinion of the images: choose one with --labels, of {known}."
            )
        judge = next(iter(opened.labels))
    if judge is not None and judge not in opened.labels:
        raise UsageError(f"{path} has no label set {judge!r}; it has {', '.join(opened.labels) or 'none'}.")
    kept = usable_images(opened, [judge] if judge else [], select=expression)
    finished = usable_images(opened, [judge] if judge else [])
    # By id, not by name: two classes may be called alike.
    counts = np.bincount(opened.class_ids[kept.ids], minlength=opened.num_classes).tolist()
    if save is not None:
        opened.require_writable()
        opened.save_selection(save, in_full(str(expression), opened.selections))
    facts = {
        "selection": str(selection),
        "images": len(kept.ids),
        "of": len(finished.ids),
        "classes_left": sum(count > 0 for count in counts),
        "of_each_class": counts,
        "saved": save,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    few, many = min(counts), max(counts)
    lines = [
        ("images", f"{len(kept.ids):,} of {len(finished.ids):,} ({percent(len(kept.ids) / len(finished.ids))})"),
        ("classes", f"{facts['classes_left']:,} of {len(counts):,}, {few:,} to {many:,} images of each"),
    ]
    print_facts(f"{selection}", [*lines, *([("saved as", f"@{save}")] if save else [])])
