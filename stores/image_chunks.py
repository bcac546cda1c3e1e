"""Zarr v3 codecs that write a chunk of images as image files: ``dmkd.jpeg`` and ``dmkd.webp``.

A chunk of n images, uint8 (n, H, W, 3), is n + 1 offsets, uint64 little-endian, counted from the start of the chunk, and the n
files back to back: image i lies from offset i to offset i + 1. The first offset is thus 8 (n + 1), the last one the length.

The codecs are entry points of the package: where dmkd is installed, ``zarr.open`` reads such a store without importing it.
"""

import asyncio
import io
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import register_codec


class ImageFilesCodec(ArrayBytesCodec):
    """What both share: n files and their offsets. Subclasses encode and decode one image."""

    is_fixed_size = False
    name: ClassVar[str]

    @abstractmethod
    def encode_image(self, image: np.ndarray) -> bytes:
        """uint8 (H, W, 3), C-contiguous -> a file. The same image gives the same bytes."""

    @abstractmethod
    def decode_image(self, file: memoryview, to: np.ndarray) -> np.ndarray:
        """A file -> uint8 (H, W, 3), in ``to`` if it is of that shape. Raises ``ValueError`` if it is damaged."""

    def encode_images(self, images: np.ndarray) -> bytes:
        """uint8 (n, H, W, 3) -> the chunk."""
        files = [self.encode_image(image) for image in np.ascontiguousarray(images)]
        offsets = 8 * (len(files) + 1) + np.concatenate([[0], np.cumsum([len(file) for file in files])])
        return b"".join([offsets.astype("<u8").tobytes(), *files])

    def decode_images(self, chunk: memoryview, shape: tuple[int, ...]) -> np.ndarray:
        """The chunk -> uint8 ``shape``. Raises ``ValueError`` if it does not hold exactly these images."""
        count, header = shape[0], 8 * (shape[0] + 1)
        if len(chunk) < header:
            raise ValueError(f"a chunk of {len(chunk)} bytes can't hold {count} images")
        offsets = np.frombuffer(chunk[:header], "<u8")
        if offsets[0] != header or offsets[-1] != len(chunk) or (offsets[1:] < offsets[:-1]).any():
            raise ValueError(f"the offsets of the chunk's {count} images are wrong")
        images = np.empty(shape, np.uint8)
        for number, (start, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
            image = self.decode_image(chunk[start:end], images[number])
            if image.shape != shape[1:]:
                raise ValueError(f"image {number} of the chunk is {image.shape} and should be {shape[1:]}")
        return images

    def as_stored(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) as a reader will get them."""
        return self.decode_images(memoryview(self.encode_images(images)), images.shape)

    # Called by zarr

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        if len(shape) != 4 or shape[-1] != 3 or dtype.to_native_dtype() != np.uint8:
            raise ValueError(f"Codec {self.name} writes uint8 images (n, H, W, 3), not {dtype} {shape}.")

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        chunk = await asyncio.to_thread(self.encode_images, chunk_array.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(chunk)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        chunk = memoryview(chunk_bytes.to_bytes())
        images = await asyncio.to_thread(self.decode_images, chunk, chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(images)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        # Zarr asks for this only inside shards, and expects it to be raised by codecs whose size varies.
        raise NotImplementedError("the size of an encoded image is not known in advance")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**data.get("configuration", {}))


@dataclass(frozen=True)
class JpegCodec(ImageFilesCodec):
    """JPEG at one quality, 4:4:4, by libjpeg-turbo with its accurate DCT.

    Every pixel keeps its own colour: at equal bytes that is nearer to the image than 4:2:0 is (benchmarks/image_codecs.py), and
    decoders, which differ in how they smooth halved colours, agree.
    """

    quality: int = 95

    name: ClassVar[str] = "dmkd.jpeg"

    def encode_image(self, image: np.ndarray) -> bytes:
        import simplejpeg

        return simplejpeg.encode_jpeg(
            image, quality=self.quality, colorspace="RGB", colorsubsampling="444", fastdct=False
        )

    def decode_image(self, file: memoryview, to: np.ndarray) -> np.ndarray:
        import simplejpeg

        return simplejpeg.decode_jpeg(file, colorspace="RGB", fastdct=False, fastupsample=False, buffer=to)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": {"quality": self.quality}}


@dataclass(frozen=True)
class WebpCodec(ImageFilesCodec):
    """Lossless WebP by Pillow. How hard it tries to save bytes is not part of the configuration: reading is the same."""

    name: ClassVar[str] = "dmkd.webp"

    def encode_image(self, image: np.ndarray) -> bytes:
        from PIL import Image

        file = io.BytesIO()
        # Measured (benchmarks/image_codecs.py): more effort saves 5 % of the bytes and takes twice to three times as long.
        Image.fromarray(image).save(file, "WEBP", lossless=True, method=1, quality=0)
        return file.getvalue()

    def decode_image(self, file: memoryview, to: np.ndarray) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(file), formats=["WEBP"]) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"an image of the chunk is damaged ({error})") from error
        if pixels.shape == to.shape:
            to[...] = pixels
        return pixels

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": {}}


for _codec in (JpegCodec, WebpCodec):
    register_codec(_codec.name, _codec)  # where dmkd is not installed, or was before these codecs existed
