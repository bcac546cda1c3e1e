"""``dmkd view``"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmkd.stores.errors import StoreWriteError, UsageError

from ..completion import files, words
from ..help import MAIN, HeadedCommand, heading
from ..options import json_option, store_option

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from dmkd.stores import LabelSet, Store


ORDERS = ("class", "round", "entropy", "agreed", "disagreed")


@click.command("view", cls=HeadedCommand, short_help="Look at images, views and labels.")
@click.argument("path", shell_complete=files, required=False, metavar="[STORE]")
@heading(MAIN)
@store_option
@click.option(
    "--by",
    shell_complete=words(*ORDERS),
    metavar="ORDER",
    help="class: a row of each class; round: a row of each round, with scores; entropy: from the surest to the least sure; "
    "agreed, disagreed: those whose class the teacher finds likeliest, or unlikeliest; or a column, from its smallest number "
    "to its largest. Default: class.",
)
@click.option("--ids", metavar="IDS", help="These images: 7,3,100-120.")
@click.option("--image", type=int, metavar="ID", help="All views of one image, as the teacher saw them, and its top-5.")
@click.option("--classes", metavar="CLASSES", help="With --by class: these classes, such as 151-160,207. Default: 12.")
@click.option("--labels", metavar="NAME", help="Label set that is shown. Default: the first.")
@heading("The picture")
@click.option(
    "--count",
    type=click.IntRange(1, 400),
    metavar="N",
    help="Images; with --by class or round, of each. Default: 32, or 8.",
)
@click.option("--columns", type=click.IntRange(1, 64), metavar="N", help="Images per row. Default: 8, or what fits.")
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    show_default=True,
    metavar="T",
    help="Temperature of the softmax, with --image.",
)
@click.option(
    "--out",
    shell_complete=files,
    metavar="FILE.png",
    help="Output file. Default: here, named after the store and the choice.",
)
@click.option("--open", "open_it", is_flag=True, help="Show the picture on the desktop.")
@json_option
def command(
    path: str | None,
    store: str | None,
    by: str | None,
    ids: str | None,
    image: int | None,
    classes: str | None,
    labels: str | None,
    count: int | None,
    columns: int | None,
    temperature: float,
    out: str | None,
    open_it: bool,
    as_json: bool,
) -> None:
    """Draw a contact sheet of a store: images with their class and what a teacher thinks of them, as a PNG.

    \b
    Examples:
      dmkd view imnet.zarr                            some images of some classes
      dmkd view imnet.zarr --by disagreed --open      where teacher and class are furthest apart
      dmkd view imnet.zarr --by entropy --labels resnet34.tv_in1k --count 64
      dmkd view imnet.zarr --by class --classes 207,151-155 --count 10 --out dogs.png
      dmkd view imnet.zarr --by round --count 12      what was made for the students that were followed
      dmkd view imnet.zarr --ids 7,3,100-120
      dmkd view imnet.zarr --image 7 --temperature 4
    """
    from dmkd.stores import open_store

    from ..options import existing_store

    if sum(choice is not None for choice in (by, ids, image)) > 1:
        raise UsageError("--by, --ids and --image each choose what is shown: give one of them.")
    if classes is not None and (by not in (None, "class") or ids is not None or image is not None):
        raise UsageError("--classes goes with --by class.")
    opened = open_store(existing_store(path or store))
    label_set = find_labels(opened, labels)
    if image is not None:
        from dmkd.views.sheet import views_sheet

        sheet, what = views_sheet(opened, image, label_set if labels else None, temperature), f"image-{image}"
    elif ids is not None:
        sheet, what = opened.show(parse_ids(ids), labels, columns), "ids"
    elif by in (None, "class"):
        sheet, what = class_sheet(opened, label_set, classes, count or 8, columns), "by-class"
    elif by == "round" and (opened.rounds or by not in opened.columns):
        sheet, what = round_sheet(opened, label_set, count or 8, columns), "by-round"
    else:
        assert by is not None
        if by not in ORDERS and by not in opened.columns:
            raise UsageError(f"--by {by}: choose {', '.join((*ORDERS, *opened.columns))}.")
        draw = column_sheet if by in opened.columns else opinion_sheet
        sheet, what = draw(opened, label_set, by, count or 32, columns), f"by-{by}"
    file = save(sheet, out or f"{Path(opened.path.rstrip('/')).stem}-{what}.png")
    if as_json:
        click.echo(json.dumps({"file": str(file), "width": sheet.width, "height": sheet.height}))
    else:
        click.echo(f"{file}  {sheet.width}x{sheet.height}")
    if open_it:
        open_file(file)


def find_labels(store: "Store", name: str | None) -> "LabelSet | None":
    """The label set of this name; without a name the first that has labels, or None. Raises ``UsageError``."""
    labels = store.labels
    if name is None:
        return next((label_set for label_set in labels.values() if label_set.fitted), None)
    if name not in labels:
        there = f"it has {', '.join(labels)}" if labels else "it has none"
        raise UsageError(f"{store.path} has no label set {name!r}; {there}.")
    if not labels[name].fitted:
        raise UsageError(f"Label set {name!r} of {store.path} was begun but has no labels yet: run dmkd label again.")
    return labels[name]


def class_sheet(
    store: "Store", label_set: "LabelSet | None", classes: str | None, count: int, columns: int | None
) -> "Image":
    """A row of images for each class."""
    from dmkd.recipes.class_choice import parse_classes
    from dmkd.recipes.class_list import classes_of
    from dmkd.stores.showing.contact_sheet import MAX_TILES, Row, caption_key, class_label, draw_sheet, image_tiles
    from dmkd.stores.showing.picks import pick_by_class

    wanted = list(parse_classes(classes, classes_of(store))) if classes else None
    chosen = pick_by_class(store, count, wanted)
    if (tiles := sum(map(len, chosen.values()))) > MAX_TILES:
        raise UsageError(
            f"{tiles:,} images are too many for one sheet, which holds {MAX_TILES}: ask for fewer classes."
        )
    rows = [
        Row(image_tiles(store, ids.tolist(), label_if_there(store, label_set, ids), named=False), heading)
        for one, ids in chosen.items()
        for heading in [str(one) if class_label(store, one) == str(one) else f"{one} {class_label(store, one)}"]
    ]
    some = (
        f"{len(chosen)} of its {store.num_classes:,} classes" if len(chosen) < store.num_classes else "all its classes"
    )
    return draw_sheet(f"{store.path}: {some}", caption_key(label_set), rows, columns or count)


def round_sheet(store: "Store", label_set: "LabelSet | None", count: int, columns: int | None) -> "Image":
    """A row of images for each round, and their scores."""
    from dmkd.stores.layout import SCORE
    from dmkd.stores.showing.contact_sheet import MAX_TILES, Row, caption_key, draw_sheet, image_tiles
    from dmkd.stores.showing.picks import pick_by_round

    chosen = pick_by_round(store, count)
    if (tiles := sum(map(len, chosen.values()))) > MAX_TILES:
        raise UsageError(
            f"{tiles:,} images are too many for one sheet, which holds {MAX_TILES}: ask for fewer of each with --count."
        )
    scores = store.column(SCORE)
    rows = [
        Row(image_tiles(store, ids.tolist(), label_if_there(store, label_set, ids), column=scores), f"round {number}")
        for number, ids in chosen.items()
    ]
    score = next((one.description["score"] for one in reversed(store.rounds) if "score" in one.description), None)
    key = caption_key(label_set) + (f"; score: {score}, of teacher and student of the round" if score else "")
    return draw_sheet(f"{store.path}: its rounds", key, rows, columns or count)


def opinion_sheet(store: "Store", label_set: "LabelSet | None", order: str, count: int, columns: int | None) -> "Image":
    """Images in the order of what a teacher thinks of them."""
    from dmkd.stores.showing.contact_sheet import Row, caption_key, draw_sheet, image_tiles
    from dmkd.stores.showing.picks import pick_by_opinion

    if label_set is None:
        raise UsageError(f"{store.path} has no labels, which --by {order} goes by: run dmkd label first.")
    ids, among = pick_by_opinion(store, label_set, order, count)
    told = {
        "entropy": "from the surest to the least sure",
        "agreed": f"that {label_set.name} agrees on most",
        "disagreed": f"that {label_set.name} agrees on least",
    }[order]
    title = f"{store.path}: {len(ids)} images {told}"
    subtitle = f"among {among:,} of {store.num_images:,} images; {caption_key(label_set)}"
    return draw_sheet(title, subtitle, [Row(image_tiles(store, ids.tolist(), label_set))], columns)


def column_sheet(store: "Store", label_set: "LabelSet | None", name: str, count: int, columns: int | None) -> "Image":
    """Images in the order of a column's numbers."""
    from dmkd.stores.showing.contact_sheet import Row, caption_key, draw_sheet, image_tiles
    from dmkd.stores.showing.picks import pick_by_column

    column = store.columns[name]
    ids, among = pick_by_column(store, column, count)
    first, last = column[ids[[0, -1]]]
    title = f"{store.path}: {len(ids)} images with {name} from {first:.4g} to {last:.4g}"
    subtitle = f"among {among:,} of {store.num_images:,} images; {caption_key(label_set)}"
    tiles = image_tiles(store, ids.tolist(), label_if_there(store, label_set, ids), column=column)
    return draw_sheet(title, subtitle, [Row(tiles)], columns)


def label_if_there(store: "Store", label_set: "LabelSet | None", ids: "np.ndarray") -> "LabelSet | None":
    """The label set, if it has labels of all these images."""
    if label_set is None or set((ids // store.block_size).tolist()) & set(label_set.missing_blocks()):
        return None
    return label_set


def parse_ids(text: str) -> list[int]:
    """``7,3,100-120`` -> [7, 3, 100, ..., 120]. Raises ``UsageError``."""
    ids: list[int] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UsageError(f"Image ids {text!r} can't be read: give numbers and ranges, such as 7,3,100-120.")
        if dash and int(last) - int(first) >= 10_000:
            raise UsageError(f"{part.strip()} are too many images for one sheet.")
        ids += range(int(first), int(last) + 1) if dash else [int(first)]
    return ids


def save(sheet: "Image", file: str) -> Path:
    """Write a picture. Raises ``UsageError`` for a name that is none of a PNG, ``StoreWriteError`` if it can't be written."""
    if not file.lower().endswith(".png"):
        raise UsageError(f"--out {file}: the picture is a PNG, and its name must end in .png.")
    try:
        sheet.save(file)
    except OSError as error:
        raise StoreWriteError(f"Could not write {file}: {error.strerror or error}.") from error
    return Path(file)


def open_file(file: Path) -> None:
    """Show a file with the desktop's own program; where there is no desktop, say so."""
    if sys.platform == "darwin":
        opener = "open"
    elif sys.platform == "win32":
        os.startfile(file.resolve())
        return
    else:
        opener = "xdg-open"
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            click.echo(f"There is no display here to show it on: copy {file} to a machine that has one.", err=True)
            return
    if shutil.which(opener) is None:
        click.echo(f"{opener} is not installed here: open {file} yourself.", err=True)
        return
    subprocess.Popen([opener, str(file.resolve())], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
