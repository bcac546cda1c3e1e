"""Bytes of an image file -> RGB pixels, upright, of the size that a store has. Only Pillow, so pixels are Pillow's."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dmkd.stores.errors import DmkdError, first_line

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
RESIZE = "shorter edge by Pillow's bicubic, centre crop"

_EXIF_ORIENTATION = 0x0112


class BrokenImage(DmkdError):
    """These bytes are not an image that a store can hold. ``str`` is the reason, without the file's name."""


def open_decoders() -> None:
    """Load Pillow's decoders once, before threads ask for them at the same time."""
    from PIL import Image

    Image.init()


def header_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels from the header; nothing is decoded. Raises ``BrokenImage``."""
    with _reasons(), _open(data) as image:
        _check_depth(image)
        return image.size


def ends_whole(head: bytes, tail: bytes, size: int) -> bool:
    """Whether a file of ``size`` bytes that begins and ends like this has the end that its format wants. If not it may be cut
    off, or followed by something else, or of a format whose end says nothing: decoding it tells."""
    if head.startswith(b"\xff\xd8"):  # JPEG: "end of image", which compressed data can't hold
        return b"\xff\xd9" in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" in tail
    if head.startswith(b"RIFF"):  # WebP: the length that follows is that of the rest
        return int.from_bytes(head[4:8], "little") + 8 <= size
    if head.startswith(b"BM"):
        return 0 < int.from_bytes(head[2:6], "little") <= size
    return False


def decode(data: bytes) -> Any:
    """A whole image -> RGB Pillow image, turned as its EXIF orientation says. Raises ``BrokenImage``.

    Greyscale, palette and CMYK images become RGB as Pillow converts them; transparency is dropped, as timm and
    torchvision do; of 16 bits the upper 8 are kept, for greyscale as for colour.
    """
    with _reasons(), _open(data) as image:
        _check_depth(image)
        image.load()
        return _to_rgb(_upright(image))


def decode_unturned(data: bytes) -> Any:
    """A whole image -> RGB Pillow image, not turned: what timm and torchvision evaluate on. Raises ``BrokenImage``."""
    with _reasons(), _open(data) as image:
        return image.convert("RGB")


def fit(image: Any, size: int) -> np.ndarray:
    """RGB Pillow image -> uint8 (size, size, 3): the shorter edge resized, then the centre. Unchanged if it has that size.

    The same numbers as torchvision's ``Resize(size, BICUBIC)`` and ``CenterCrop(size)``, which timm's evaluation
    transform uses: the longer edge is rounded down, the crop's corner to the nearest (even) pixel.
    """
    from PIL import Image

    width, height = image.size
    if min(width, height) != size:
        short, long = min(width, height), max(width, height)
        longer = size * long // short
        width, height = (size, longer) if width <= height else (longer, size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if (width, height) != (size, size):
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


@contextmanager
def _reasons() -> Iterator[None]:
    """Whatever Pillow's decoders raise on bad bytes (they raise nearly everything) becomes ``BrokenImage``."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except (BrokenImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage("its image format is not known here") from error
    except Exception as error:
        raise BrokenImage(first_line(error)) from error


def _open(data: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=FORMATS)


def _check_depth(image: Any) -> None:
    """Refuse 32-bit pixels: there is no telling which value is white."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise BrokenImage("it has 32 bits a channel; convert it to 8")


def _upright(image: Any) -> Any:
    """Pillow's ``exif_transpose``, except that unreadable EXIF data is ignored."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(_EXIF_ORIENTATION))
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Any) -> Any:
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # straight to RGB Pillow gives the same pixels and a warning
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")
