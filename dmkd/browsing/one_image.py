"""One image in full: its views as the teacher saw them, where they lie in it, and what every teacher says of each."""

from typing import Any

import numpy as np

from dmkd.browsing.thumbnails import encoded
from dmkd.stores import DmkdError, LabelSet, Store, UsageError, ViewSet
from dmkd.stores.showing.facts import teacher_in_words
from dmkd.views.sheet import TOP, VIEWS_SHOWN, render_views, view_line

COLDEST, HOTTEST = 0.001, 1000.0  # temperatures at which float32 logits have a softmax


def image_facts(store: Store, image_id: int, temperature: float) -> dict[str, Any]:
    """JSON-able: ``class_id``; each of its columns; for each view set ``views`` (``box`` top, left, height, width as fractions of
    the image, ``flip``, and what it is ``in_words``); for each label set the ``top`` five of each view as [class, probability],
    softmax at ``temperature``. At most 64 views of a set. What can't be read has a sentence, ``problem``, instead.

    Raises ``UsageError`` for an id or a temperature that can't be, and what reading class ids raises.
    """
    if not 0 <= image_id < store.num_images:
        raise UsageError(f"{store.path} has image ids 0 to {store.num_images - 1}; there is no image {image_id}.")
    if not COLDEST <= temperature <= HOTTEST:
        raise UsageError(f"The temperature must be above 0 ({COLDEST:g} to {HOTTEST:g}), not {temperature:g}.")
    block = image_id // store.block_size
    columns = {name: one for name, one in store.columns.items() if one.has_block(block)}
    return {
        "image_id": image_id,
        "class_id": int(store.class_ids[[image_id]][0]),
        "temperature": temperature,
        "columns": {name: _number(column[[image_id]][0]) for name, column in columns.items()},
        "view_sets": [_views(store, one, image_id) for one in store.views.values() if one.has_block(block)],
        "label_sets": [_labels(one, image_id, temperature) for one in store.labels.values() if one.has_block(block)],
    }


def views_picture(store: Store, image_id: int, view_set: str) -> tuple[bytes, str]:
    """The views of an image one below the other, to the pixel as the teacher saw them: a PNG and its media type. Raises
    ``UsageError`` for a view set that there is not, and what reading them raises."""
    if view_set not in store.views:
        raise UsageError(f"{store.path} has no view set {view_set!r}; it has {', '.join(store.views) or 'none'}.")
    pixels = render_views(store, image_id, store.views[view_set], VIEWS_SHOWN)
    return encoded(pixels.reshape(-1, *pixels.shape[2:]), lossless=True)


def _views(store: Store, view_set: ViewSet, image_id: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": view_set.name, "size": view_set.attributes["size"], "number": view_set.num_views}
    try:
        rows = view_set[[image_id]][0][:VIEWS_SHOWN]
    except DmkdError as error:
        return facts | {"views": [], "problem": str(error)}
    views = [dict(zip(view_set.components, row.tolist(), strict=True)) for row in rows]
    height, width, _ = store.image_shape
    margin = (view_set.padding / height, view_set.padding / width)
    return facts | {
        "padding": margin,  # by which boxes may leave the image, as fractions of it
        "views": [
            {
                "box": [one[side] for side in ("top", "left", "height", "width")],
                "flip": one["flip"] > 0.5,
                "in_words": view_line(one),
            }
            for one in views
        ],
    }


def _labels(labels: LabelSet, image_id: int, temperature: float) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": labels.name,
        "teacher": teacher_in_words(labels.teacher),
        "view_set": labels.view_set,
    }
    try:
        probabilities = labels.softmax(image_id, temperature=temperature)[:VIEWS_SHOWN]
        top1, p_class, entropy = labels.quality[[image_id]][0].tolist()
    except DmkdError as error:
        return facts | {"top": [], "problem": str(error)}
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :TOP]
    return facts | {
        "top1": int(top1),
        "p_class": p_class,
        "entropy": entropy,
        "top": [
            [[int(one), round(float(row[one]), 5)] for one in order]
            for row, order in zip(probabilities, best, strict=True)
        ],
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
