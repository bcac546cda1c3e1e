"""A store at the end of a notebook cell: a small card in HTML, with a few of its images.

Never an error and never a wait: what has not been read within :data:`SECONDS` is left out.
"""

import base64
import html
import io
import threading

import numpy as np

from ..errors import DmkdError
from ..opinions import sample_blocks, statistics
from ..reader import Reader
from .facts import teacher_in_words
from .round_facts import followed_in_words, made_in_words, round_facts

SECONDS = 0.8
IMAGES_SHOWN = 10
BLOCKS_READ = 20  # of each label set's quality
THUMBNAIL_PX = 72
LABEL_SETS_SHOWN = 8
ROUNDS_SHOWN = 8

# Colours are the notebook's own, light or dark: lines and shades are grey, half transparent.
_CARD = "border:1px solid rgba(128,128,128,.4);border-radius:8px;padding:12px 16px;display:inline-block;max-width:860px"
_CELL = "text-align:left;padding:2px 18px 2px 0;background:transparent;border:0;color:inherit"
_QUIET = "opacity:.65;font-weight:normal"


def html_card(store: Reader, seconds: float = SECONDS) -> str:
    """The card: what the store is, how complete, its labels, some images. Never raises."""
    parts: dict[str, str] = {}
    # Another thread reads, since a bucket may not answer at all; it dies with the process.
    reader = threading.Thread(target=_read, args=(store, parts), daemon=True)
    reader.start()
    reader.join(seconds)
    found = dict(parts)
    late = "" if "done" in found else f'<div style="{_QUIET}">The rest takes longer: see dmkd inspect.</div>'
    body = "".join(found.get(part, "") for part in ("facts", "labels", "rounds", "images", "error")) + late
    return f'<div style="{_CARD}"><div style="font-weight:600">{html.escape(store.path)}</div>{body}</div>'


def _read(store: Reader, parts: dict[str, str]) -> None:
    try:
        parts["facts"] = _facts(store, None)
        missing = store.missing_blocks()
        parts["facts"] = _facts(store, missing)
        if len(missing) < store.num_blocks:
            parts["images"] = _images(store, set(missing))
        parts["labels"] = _labels(store, set(missing))
        parts["rounds"] = _rounds(store, set(missing))
    except DmkdError as error:
        parts["error"] = f'<div style="{_QUIET}">{html.escape(str(error))}</div>'
    except Exception as error:  # a card that can't be drawn must not hide the cell's result
        parts["error"] = f'<div style="{_QUIET}">{html.escape(f"{type(error).__name__}: {error}")}</div>'
    parts["done"] = ""


def _facts(store: Reader, missing: list[int] | None) -> str:
    height, width, _ = store.image_shape
    recipe = store.recipe
    made = recipe.get("generator") or recipe.get("source") or "unknown"
    if recipe.get("steps") is not None:
        made += f", {recipe.get('sampler') or ''} {recipe['steps']} steps".replace("  ", " ")
    if (guidance := recipe.get("guidance")) is not None:
        made += f", guidance {f'{guidance:g}' if isinstance(guidance, float) else guidance}"
    state = ""
    if missing is not None:
        state = ", complete" if not missing else f", {len(missing):,} of {store.num_blocks:,} blocks missing"
    rows = [
        ("images", f"{store.num_images:,} of {width}×{height}{state}"),
        ("classes", f"{store.num_classes:,}"),
        ("made by", made),
    ]
    return _table([[f'<span style="{_QUIET}">{name}</span>', html.escape(str(value))] for name, value in rows])


def _labels(store: Reader, without_images: set[int]) -> str:
    rows = []
    label_sets = store.labels
    for name, label_set in list(label_sets.items())[:LABEL_SETS_SHOWN]:
        missing = set(label_set.missing_blocks())
        there = [block for block in range(store.num_blocks) if block not in missing | without_images]
        seen = statistics(label_set.opinions(sample_blocks(there, BLOCKS_READ)), store.class_names)
        about = "≈ " if len(there) > BLOCKS_READ else ""
        opinion = (
            [f"{about}{seen['agreement']:.0%}", f"{about}{seen['entropy']['mean']:.2f}"] if seen else ["none yet", ""]
        )
        cells = [
            name,
            teacher_in_words(label_set.teacher),
            f"{label_set.num_views} {label_set.view_set}",
            label_set.codec,
        ]
        rows.append(
            [html.escape(str(cell)) for cell in [*cells, f"{1 - len(missing) / store.num_blocks:.0%}", *opinion]]
        )
    if not rows:
        return f'<div style="{_QUIET}">no labels yet</div>'
    if more := len(label_sets) - len(rows):
        rows.append([f"and {more} more", *[""] * 6])
    return _table(rows, ["label set", "teacher", "views", "codec", "done", "agrees", "entropy"])


def _rounds(store: Reader, missing: set[int]) -> str:
    """A line each, of the last ones; nothing without rounds."""
    told = next((label_set for label_set in store.labels.values() if label_set.fitted), None)
    found = round_facts(store, told, missing, BLOCKS_READ, damaged=[])
    rows = []
    for one in found[-ROUNDS_SHOWN:]:
        about = "≈ " if one["blocks_read"] < one["blocks_made"] else ""
        mean, agrees = one["mean_score"], one["agreement"]
        cells = [
            str(one["number"]),
            f"{one['images']:,}",
            followed_in_words(one),
            made_in_words(one),
            one["score"] or "",
        ]
        cells += ["" if mean is None else f"{about}{mean:.3g}", "" if agrees is None else f"{about}{agrees:.0%}"]
        rows.append([html.escape(cell) for cell in cells])
    head = ["round", "images", "followed", "made as", "score", "mean", "agrees"]
    return _table(rows, head) if rows else ""


def _images(store: Reader, missing: set[int]) -> str:
    """Some images of one block, of different classes if it holds several."""
    block = next(block for block in range(store.num_blocks) if block not in missing)
    ids = np.array(store.block_ids(block))
    class_ids = store.class_ids[ids]
    _, first = np.unique(class_ids, return_index=True)
    ids = np.sort(ids[first])[:IMAGES_SHOWN]
    figures = [
        f'<div style="display:inline-block;margin:6px 6px 0 0;text-align:center;width:{THUMBNAIL_PX}px">'
        f'<img src="{_data_uri(image)}" width="{THUMBNAIL_PX}" style="image-rendering:pixelated;display:block;margin:0"/>'
        f'<div style="{_QUIET};font-size:11px;overflow:hidden;white-space:nowrap;text-overflow:ellipsis">'
        f"{html.escape(store.class_names[class_id].split(',')[0])}</div></div>"
        for image, class_id in zip(store.images[ids], store.class_ids[ids].tolist(), strict=True)
    ]
    return f"<div>{''.join(figures)}</div>"


def _data_uri(pixels: np.ndarray) -> str:
    """A small picture as it is, a large one reduced to twice its size on the card."""
    from PIL import Image

    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if max(image.size) > 2 * THUMBNAIL_PX:
        image.thumbnail((2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
        image.save(buffer, "JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _table(rows: list[list[str]], head: list[str] | None = None) -> str:
    """Cells are HTML already."""
    top = "".join(f'<th style="{_CELL};{_QUIET}">{name}</th>' for name in head or [])
    lines = "".join(
        f'<tr style="background:transparent">{"".join(f"<td style={chr(34)}{_CELL}{chr(34)}>{cell}</td>" for cell in row)}</tr>'
        for row in rows
    )
    style = "border-collapse:collapse;border:0;margin:8px 0 0;font-size:13px;color:inherit"
    return f'<table style="{style}">{f"<tr>{top}</tr>" if head else ""}{lines}</table>'
