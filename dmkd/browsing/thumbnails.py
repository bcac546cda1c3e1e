"""Small pictures of many images: read where they are, many in one file, so that a page of them is one request."""

import io
from collections import OrderedDict
from threading import Lock

import numpy as np
from PIL import Image

from dmkd.stores import DamagedChunkError, MissingBlockError, Store, layout
from dmkd.stores.chunks import by_block
from dmkd.stores.mapped import MappedArray, can_be_mapped

COLUMNS = 8  # pictures in a row of the file
MOST = 256  # pictures in a file
SIZES = (32, 64, 128, 256)  # pixels of the longer edge
LOSSLESS_PX = 64  # up to this size pixels are what people look at
MAX_MAPS = 1024
KEPT_BYTES = 192 * 2**20
DAMAGED = (179, 38, 30)


class Thumbnails:
    """Of one store. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        mapped = can_be_mapped(store.chunks, layout.IMAGES)
        self._mapped = MappedArray(store.chunks, layout.IMAGES, MAX_MAPS) if mapped else None
        self._kept: OrderedDict[tuple[int, tuple[int, int]], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def sheet(self, ids: list[int], size: int) -> tuple[bytes, str]:
        """A file with the pictures of these images, eight in a row, at most ``size`` pixels high and wide, never enlarged -> its
        bytes and media type: PNG of small ones, to the pixel, JPEG of large ones. An image that is damaged, or not there, is a
        red square."""
        height, width = self.shape(size)
        wanted = np.array(ids[:MOST], np.int64)
        tiles = np.empty((len(wanted), height, width, 3), np.uint8)
        tiles[:] = DAMAGED
        there = (wanted >= 0) & (wanted < self.store.num_images)
        for block, places in by_block(wanted[there], self.store.block_size):
            places = np.flatnonzero(there)[places]
            try:
                tiles[places] = self._of_block(block, wanted[places], (height, width))
            except (DamagedChunkError, MissingBlockError):
                continue
        rows = -(-len(tiles) // COLUMNS)
        sheet = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
        sheet[: len(tiles)] = tiles
        sheet = sheet.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2)
        return encoded(sheet.reshape(rows * height, COLUMNS * width, 3), max(height, width) <= LOSSLESS_PX)

    def shape(self, size: int) -> tuple[int, int]:
        """Height and width of a picture."""
        height, width, _ = self.store.image_shape
        scale = min(1.0, size / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _of_block(self, block: int, ids: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        if self._mapped is not None:
            rows = np.empty((len(ids), *self.store.image_shape), np.uint8)
            self._mapped.take(ids, rows)
            self.store.images.prove(ids, rows)
            return _reduced(rows, shape)
        # A block that must be fetched or decoded as a whole is worth keeping, small.
        key = (block, shape)
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
        if kept is None:
            kept = _reduced(self.store.images.block(block), shape)
            with self._lock:
                if key not in self._kept:
                    self._kept[key] = kept
                    self._bytes += kept.nbytes
                while self._bytes > KEPT_BYTES:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return kept[ids - block * self.store.block_size]


def encoded(pixels: np.ndarray, lossless: bool) -> tuple[bytes, str]:
    """uint8 (h, w, 3) -> the bytes of a PNG or a JPEG, and its media type."""
    file = io.BytesIO()
    if lossless:
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        return file.getvalue(), "image/png"
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return file.getvalue(), "image/jpeg"


def _reduced(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """uint8 (n, H, W, 3) -> (n, h, w, 3), h <= H."""
    if images.shape[1:3] == shape:
        return images
    size = (shape[1], shape[0])
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in images])
