"""How a store writes its pixels: ``raw``, ``webp`` (lossless) or ``jpeg:95``, by the name that users give."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import NotAStoreError, UsageError
from .layout import Share

if TYPE_CHECKING:
    from .image_chunks import ImageFilesCodec

RAW, WEBP, JPEG = "raw", "webp", "jpeg"
DEFAULT_QUALITY = 95

# Share of the raw bytes, of 256 x 256 photographs (benchmarks/image_codecs.py); jpeg by quality.
WEBP_SHARE = 0.44
JPEG_SHARES = ((50, 0.047), (75, 0.070), (85, 0.095), (90, 0.12), (95, 0.18), (98, 0.27), (100, 0.43))


@dataclass(frozen=True)
class ImageCodec:
    """An image codec. ``str(codec)`` is its name, as users and stores write it."""

    kind: str = RAW
    quality: int | None = None  # of jpeg, 1 to 100

    def __str__(self) -> str:
        return self.kind if self.quality is None else f"{self.kind}:{self.quality}"

    @property
    def lossy(self) -> bool:
        """Whether readers get pixels that differ from those written."""
        return self.kind == JPEG

    @property
    def expected_share(self) -> Share:
        """Share of the raw pixels' bytes that images take on disk, if they are like photographs."""
        if self.kind == RAW:
            return Share("exact", 1.0)
        if self.quality is None:
            return Share("about", WEBP_SHARE)
        qualities, shares = zip(*JPEG_SHARES, strict=True)
        return Share("about", float(np.interp(self.quality, qualities, shares)))

    def serializer(self) -> "ImageFilesCodec | None":
        """The codec that writes chunks in Zarr; None: raw pixels."""
        from .image_chunks import JpegCodec, WebpCodec

        if self.kind == RAW:
            return None
        return WebpCodec() if self.quality is None else JpegCodec(self.quality)

    def as_stored(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) as a reader will get them: the same array if the codec is lossless."""
        if not self.lossy:
            return images
        serializer = self.serializer()
        assert serializer is not None
        return serializer.as_stored(images)


def parse_image_codec(text: str | None) -> ImageCodec:
    """The image codec that ``raw``, ``webp``, ``jpeg`` or ``jpeg:95`` names; None: raw. Else ``UsageError``."""
    kind, colon, value = (text or RAW).partition(":")
    if kind in (RAW, WEBP) and not colon:
        return ImageCodec(kind)
    if kind == JPEG and (not colon or (value.isascii() and value.isdigit() and 1 <= int(value) <= 100)):
        return ImageCodec(JPEG, int(value) if colon else DEFAULT_QUALITY)
    raise UsageError(
        f"There is no image codec {text!r}; known: raw, webp (lossless), and jpeg:95 with a quality from 1 to 100."
    )


def stored_image_codec(text: str) -> ImageCodec:
    """The image codec that a store's attributes name. Raises ``NotAStoreError`` if this version does not know it."""
    try:
        return parse_image_codec(text)
    except UsageError as error:
        raise NotAStoreError(
            f"The images are written with codec {text!r}, which this version of dmkd does not know."
        ) from error
