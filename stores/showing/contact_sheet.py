"""Contact sheets: images of a store side by side, with what a teacher thinks of each. Needs Pillow, which is imported here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..chunks import Ids
from ..columns import Column
from ..errors import UsageError
from ..reader import Reader
from ..sets import LabelSet

SMALL_PX, LARGE_PX = 128, 256  # images are enlarged to at least the first, reduced to at most the second
MARGIN, GAP, LINE_PX = 28, 14, 18
TEXT_PX, HEADING_PX, TITLE_PX = 14, 15, 24
MAX_WIDTH = 2400
MAX_TILES = 400

PAPER, INK, GREY, RED, GREEN = "#ffffff", "#16191d", "#5c6670", "#b3261e", "#1a7f37"
BAR, NO_BAR = "#cfe2ff", "#f1f3f5"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Line:
    """One line of a caption. ``share``, from 0 to 1, is drawn as a bar behind it, and ``right`` is put at its end.
    ``marked`` lines start with a green mark."""

    text: str
    color: str = GREY
    right: str = ""
    share: float | None = None
    marked: bool = False


@dataclass(frozen=True)
class Tile:
    """A picture uint8 (h, w, 3) and the lines below it. ``boxes``: outlines (top, left, height, width), fractions of the
    picture, and their colours."""

    pixels: np.ndarray
    lines: tuple[Line, ...] = ()
    frame: str | None = None
    boxes: tuple[tuple[Box, str], ...] = ()


@dataclass(frozen=True)
class Row:
    """Tiles side by side, wrapped where they do not fit. The heading is on their left, or above them if it is long."""

    tiles: Sequence[Tile]
    heading: str = ""
    above: bool = False


def draw_sheet(
    title: str, subtitle: str, rows: Sequence[Row], columns: int | None = None, tile_px: int = 0
) -> Image.Image:
    """The sheet as an RGB image. ``columns`` None: as many as fit 2400 pixels, at most 8. Tiles are at least ``tile_px`` wide.

    Small pictures are enlarged by a whole factor, pixel by pixel, without interpolation.
    """
    width = max([tile_px, *(_shown_size(tile)[0] for row in rows for tile in row.tiles)])
    left = max([0, *(_width(row.heading, HEADING_PX) + GAP for row in rows if row.heading and not row.above)])
    left = min(left, 220)
    most = max([1, *(len(row.tiles) for row in rows)])
    columns = min(columns or 8, most, max(1, (MAX_WIDTH - 2 * MARGIN - left) // (width + GAP)))
    # A title wider than the tiles makes the sheet wider: it says what the sheet shows.
    inner = max(
        left + columns * (width + GAP) - GAP, _width(title, TITLE_PX, True), min(_width(subtitle, TEXT_PX), 900)
    )
    subtitle_lines = _wrap(subtitle, inner)
    lines = [(row, row.tiles[i : i + columns], i == 0) for row in rows for i in range(0, len(row.tiles), columns)]
    heights = [_line_height(tiles) + (HEADING_PX + GAP) * (row.above and first) for row, tiles, first in lines]
    top = MARGIN + TITLE_PX + 10 + LINE_PX * len(subtitle_lines) + GAP
    sheet = Image.new("RGB", (inner + 2 * MARGIN, top + sum(heights) + GAP * max(0, len(lines) - 1) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), _plain(title), INK, _font(TITLE_PX), stroke_width=0.4)
    for number, text in enumerate(subtitle_lines):
        draw.text((MARGIN, MARGIN + TITLE_PX + 10 + number * LINE_PX), text, GREY, _font(TEXT_PX))
    y = top
    for (row, tiles, first), height in zip(lines, heights, strict=True):
        shift = 0
        if row.heading and first and row.above:
            draw.text((MARGIN, y), _plain(row.heading), INK, _font(HEADING_PX), stroke_width=0.3)
            shift = HEADING_PX + GAP
        elif row.heading and first:
            middle = y + _shown_size(tiles[0])[1] // 2
            text = _shorten(row.heading, left - GAP, HEADING_PX)
            draw.text((MARGIN, middle), text, INK, _font(HEADING_PX), anchor="lm", stroke_width=0.3)
        for column, tile in enumerate(tiles):
            _draw_tile(sheet, draw, tile, MARGIN + left + column * (width + GAP), y + shift, width)
        y += height + GAP
    return sheet


def image_tiles(
    store: Reader,
    ids: Sequence[int],
    label_set: LabelSet | None,
    named: bool = True,
    column: Column | None = None,
) -> list[Tile]:
    """A tile for each id: id, class, and if there are labels p(class) and entropy; where the teacher disagrees, what it
    sees instead, in red. ``named``: with the class, unless a heading names it already. ``column``: whose numbers are told, but
    for those that are NaN."""
    chosen = np.asarray(ids, np.int64)
    if not len(chosen):
        return []
    images, class_ids = store.images[chosen], store.class_ids[chosen]
    quality = label_set.quality[chosen] if label_set is not None else None
    numbers = np.full(len(chosen), np.nan) if column is None else column[chosen]
    tiles = []
    for i, image in enumerate(images):
        lines = [Line(f"#{chosen[i]}", INK, right=class_label(store, int(class_ids[i])) if named else "")]
        frame = None
        if quality is not None:
            top1, p_class, entropy = quality[i]
            share = float(np.clip(p_class, 0, 1))
            lines.append(Line(f"p {p_class:.2f}", INK, f"H {entropy:.2f}", share))
            if top1 != class_ids[i]:
                frame = RED
                lines.append(Line(f"seen as {class_label(store, int(top1))}", RED))
        if column is not None and not np.isnan(numbers[i]):
            lines.append(Line(f"{column.name} {numbers[i]:.4g}"))
        tiles.append(Tile(image, tuple(lines), frame))
    return tiles


def show_images(store: Reader, ids: Ids, labels: str | None, columns: int | None) -> Image.Image:
    """What :meth:`dmkd.stores.Store.show` gives."""
    wanted = store.resolve_ids(ids)
    label_set = _labels_of(store, wanted, labels)
    if len(wanted) > MAX_TILES:
        raise UsageError(
            f"{len(wanted):,} images are too many for one sheet, which holds {MAX_TILES}: ask for fewer ids."
        )
    if not len(wanted):
        raise UsageError("There are no images to show: give some image ids.")
    tiles = image_tiles(store, wanted.tolist(), label_set)
    return draw_sheet(store.path, caption_key(label_set), [Row(tiles)], columns)


def _labels_of(store: Reader, ids: np.ndarray, name: str | None) -> LabelSet | None:
    """The label set of this name; without a name the first that has labels for all these images, or None."""
    label_sets = store.labels
    if name is not None:
        if name not in label_sets:
            there = f"it has {', '.join(label_sets)}" if label_sets else "it has none"
            raise UsageError(f"{store.path} has no label set {name!r}; {there}.")
        return label_sets[name]
    blocks = set((ids // store.block_size).tolist())
    whole = (one for one in label_sets.values() if one.fitted and not blocks & set(one.missing_blocks()))
    return next(whole, None)


def caption_key(label_set: LabelSet | None) -> str:
    """What the captions mean."""
    if label_set is None:
        return "image id, class asked for; no labels yet"
    return (
        f"p: {label_set.name}'s probability of the class asked for; H: its entropy in nats; red: what it sees instead"
    )


def class_label(store: Reader, class_id: int) -> str:
    """The first name of a class, such as ``tench``."""
    names = store.class_names
    return names[class_id].split(",")[0] if 0 <= class_id < len(names) else str(class_id)


def enlarge(pixels: np.ndarray) -> Image.Image:
    """uint8 (h, w, 3) at the size that sheets show it at: enlarged by a whole factor, or reduced."""
    image = Image.fromarray(pixels)
    size = _scaled(image.size)
    return image.resize(size, Image.Resampling.NEAREST if size[0] >= image.width else Image.Resampling.LANCZOS)


def _scaled(size: tuple[int, int]) -> tuple[int, int]:
    longest = max(size)
    if longest <= LARGE_PX:
        factor = max(1, -(-SMALL_PX // longest))
        return size[0] * factor, size[1] * factor
    return max(1, round(size[0] * LARGE_PX / longest)), max(1, round(size[1] * LARGE_PX / longest))


def _shown_size(tile: Tile) -> tuple[int, int]:
    height, width, _ = tile.pixels.shape
    return _scaled((width, height))


def _line_height(tiles: Sequence[Tile]) -> int:
    return max(_shown_size(tile)[1] + 6 + LINE_PX * len(tile.lines) for tile in tiles)


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int, width: int) -> None:
    image = enlarge(tile.pixels)
    sheet.paste(image, (x, y))
    for (top, left, height, box_width), color in tile.boxes:
        corner = round(x + left * image.width), round(y + top * image.height)
        opposite = corner[0] + round(box_width * image.width) - 1, corner[1] + round(height * image.height) - 1
        draw.rectangle((*corner, *opposite), outline=color, width=2)
    if tile.frame:
        draw.rectangle((x - 3, y - 3, x + image.width + 2, y + image.height + 2), outline=tile.frame, width=3)
    y += image.height + 6
    for line in tile.lines:
        middle = y + LINE_PX // 2 - 1
        if line.share is not None:
            draw.rectangle((x, y, x + width - 1, y + LINE_PX - 3), fill=NO_BAR)
            if filled := round(line.share * width):
                draw.rectangle((x, y, x + filled - 1, y + LINE_PX - 3), fill=BAR)
        if line.marked:
            draw.rectangle((x, y, x + 3, y + LINE_PX - 3), fill=GREEN)
        indent = 8 if line.share is not None else 0
        room = width - 2 * indent
        right = _shorten(line.right, room - _width(line.text, TEXT_PX) - 8, TEXT_PX) if line.right else ""
        if line.share is not None:  # a number is never shortened, a name may be
            right = line.right
        text = _shorten(line.text, room - (_width(right, TEXT_PX) + 8 if right else 0), TEXT_PX)
        draw.text((x + indent, middle), text, line.color, _font(TEXT_PX), anchor="lm")
        draw.text((x + width - indent, middle), _plain(right), line.color, _font(TEXT_PX), anchor="rm")
        y += LINE_PX


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _width(text: str, size: int, strong: bool = False) -> int:
    return round(_font(size).getlength(_plain(text))) + 2 * strong


def _plain(text: str) -> str:
    """On one line: Pillow can't measure several."""
    return " ".join(text.split())


def _shorten(text: str, width: float, size: int) -> str:
    """``text``, or as much of it as fits with an ellipsis; nothing if not even that fits."""
    text = _plain(text)
    if _width(text, size) <= width:
        return text
    while text and _width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


def _wrap(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _width(f"{lines[-1]} {word}", TEXT_PX) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
