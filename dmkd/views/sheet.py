"""The views of one image as teacher and student see them, and below each what the teacher says of it."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from dmkd.stores import LabelSet, Store, UsageError, ViewSet
from dmkd.stores.showing.contact_sheet import INK, RED, Box, Line, Row, Tile, class_label, draw_sheet

TOP = 5
VIEWS_SHOWN = 64
TILE_PX = 184  # so that names of classes and their probabilities fit
BOX_COLORS = ("#0a84ff", "#ff9f0a", "#30d158", "#ff375f", "#bf5af2", "#00c7be", "#c9a400", "#a2845e")


def views_sheet(
    store: Store, image_id: int, label_set: LabelSet | None = None, temperature: float = 1.0
) -> Image.Image:
    """All stored views of an image, rendered by the renderer that made the teacher's input; without ``label_set`` below each
    the top-5 of the first label set of these views. ``temperature`` is that of the softmax.

    Raises ``UsageError`` for an id that there is not, and if the label set's views are not there.
    """
    if temperature <= 0:
        raise UsageError(f"The temperature must be above 0, not {temperature:g}.")
    chosen = {label_set.view_set: label_set} if label_set else _first_labels(store)
    view_sets = {name: views for name, views in store.views.items() if label_set is None or name in chosen}
    class_id = int(store.class_ids[image_id])
    image = store.images[image_id]
    size = Line("as stored", INK, f"{image.shape[1]}x{image.shape[0]}")
    boxes = _outlines(next(iter(view_sets.values()))[[image_id]][0]) if view_sets else {}
    stored = Tile(image, (size, Line("views outlined")) if boxes else (size,), boxes=tuple(boxes.values()))
    rows = [Row([stored])] if not view_sets else []
    for name, views in view_sets.items():
        labels = chosen.get(name)
        tiles = view_tiles(store, image_id, views, labels, temperature, {} if rows else boxes)
        labelled = f", labelled by {labels.name}" if labels else ", not labelled"
        left_out = f"; the first {len(tiles)}" if len(tiles) < views.num_views else ""
        heading = f"View set {name}: {views.num_views} views of {views.attributes['size']} pixels{labelled}{left_out}"
        rows.append(Row([stored, *tiles] if not rows else tiles, heading, above=True))
    title = f"Image {image_id} of {store.path}, asked for: {class_label(store, class_id)}"
    subtitle = (
        f"the {min(TOP, store.num_classes)} likeliest classes, softmax at temperature {temperature:g}; green mark: the class "
        "that was asked for; red frame: the teacher sees another"
    )
    return draw_sheet(title, subtitle if chosen else "there are no labels yet", rows, tile_px=TILE_PX)


def view_tiles(
    store: Store,
    image_id: int,
    view_set: ViewSet,
    label_set: LabelSet | None,
    temperature: float = 1.0,
    outlines: Mapping[int, tuple[Box, str]] | None = None,
) -> list[Tile]:
    """A tile for each view of an image, at most 64: its pixels as the teacher saw them, what it is, the teacher's top-5.
    ``outlines``: views that are outlined elsewhere, whose captions get the colour."""
    views = view_set[[image_id]][0][:VIEWS_SHOWN]
    pixels = render_views(store, image_id, view_set, len(views))
    shown: Sequence[tuple[Line, ...]] = [()] * len(views)
    frames: list[str | None] = [None] * len(views)
    if label_set is not None and label_set.has_block(image_id // store.block_size):
        class_id = int(store.class_ids[image_id])
        probabilities = label_set.softmax(image_id, temperature=temperature)[: len(views)]
        shown = [_top_lines(store, row, class_id) for row in probabilities]
        frames = [RED if row.argmax() != class_id else None for row in probabilities]
    named = [dict(zip(view_set.components, view.tolist(), strict=True)) for view in views]
    return [
        Tile(
            image, (Line(f"view {number}", (outlines or {}).get(number, ("", INK))[1], view_line(view)), *lines), frame
        )
        for number, (image, view, lines, frame) in enumerate(zip(pixels, named, shown, frames, strict=True))
    ]


def render_views(store: Store, image_id: int, view_set: ViewSet, count: int | None = None) -> np.ndarray:
    """The first ``count`` views of an image (None: all) as teacher and student see them: uint8 (V, S, S, 3).

    Mixed views are rendered with their partners', of the same block.
    """
    from dmkd.views.render import render  # needs torch, which nothing else here does

    views = view_set[[image_id]][0][:count]
    how = {name: view_set.attributes[name] for name in ("size", "interpolation")} | {"padding": view_set.padding}
    components = view_set.components
    if "partner" not in components:
        pixels = render(
            store.images[[image_id]], views, rows=np.zeros(len(views), np.int64), components=components, **how
        )
        return pixels.permute(0, 2, 3, 1).numpy()
    first = image_id // store.block_size * store.block_size
    partners = first + np.rint(views[:, components.index("partner")]).astype(np.int64)
    theirs = view_set[partners][np.arange(len(views)), np.arange(len(views))]
    images = store.images[[image_id, *partners.tolist()]]
    numbers = np.arange(len(views))
    pixels = render(
        images,
        np.concatenate([views, theirs]),
        rows=np.concatenate([np.zeros(len(views), np.int64), 1 + numbers]),
        components=components,
        partners=len(views) + numbers,
        **how,
    )
    return pixels.permute(0, 2, 3, 1).numpy()


def view_line(view: dict[str, float]) -> str:
    """What a view is, in a few words: ``whole``, ``moved``, ``34%, flip, mix 61%``."""
    area = view["height"] * view["width"]
    words = [f"{area:.0%}" if area <= 0.999 else "moved" if view["top"] or view["left"] else "whole"]
    if view["flip"] > 0.5:
        words.append("flip")
    if "weight" in view:
        words.append(f"mix {1 - view['weight']:.0%}")
    elif "mix_height" in view:
        words.append(f"mix {view['mix_height'] * view['mix_width']:.0%}")
    return ", ".join(words)


def _top_lines(store: Store, probabilities: np.ndarray, class_id: int) -> tuple[Line, ...]:
    """The likeliest classes, the one that was asked for marked."""
    top = np.argsort(-probabilities, kind="stable")[:TOP]
    return tuple(
        Line(
            class_label(store, int(one)),
            INK,
            f"{probabilities[one]:.3f}",
            float(probabilities[one]),
            marked=bool(one == class_id),
        )
        for one in top
    )


def _first_labels(store: Store) -> dict[str, LabelSet]:
    """View set -> the first label set of these views that has labels."""
    first: dict[str, LabelSet] = {}
    for label_set in store.labels.values():
        if label_set.fitted:
            first.setdefault(label_set.view_set, label_set)
    return first


def _outlines(views: np.ndarray) -> dict[int, tuple[Box, str]]:
    """Number -> box and colour of the first views float32 (V, P) that are not of the whole image."""
    parts = [number for number, view in enumerate(views) if view[2] * view[3] < 0.999]
    return {
        number: ((*map(float, views[number][:4]),), color)  # type: ignore[misc]
        for number, color in zip(parts, BOX_COLORS, strict=False)
    }
