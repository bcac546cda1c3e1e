"""What an export consists of: the samples of a store, block by block, as files and arrays that other tools know."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dmkd.stores import Column, LabelSet, Store, UsageError
from dmkd.stores.chunks import by_block
from dmkd.stores.layout import QUALITY_COMPONENTS

FIRST, ALL = "first", "all"
PNG_EFFORT = (
    4  # of 9. Measured on a photograph: 6, Pillow's default, saves 1 % of the bytes and takes 1.7 times as long
)


@dataclass(frozen=True)
class ImageFormat:
    """PNG, which keeps every pixel, or JPEG (4:4:4) with a quality from 1 to 100."""

    jpeg: int | None = None

    def __post_init__(self) -> None:
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise UsageError(f"--jpeg is a quality from 1 to 100, not {self.jpeg}.")

    @property
    def suffix(self) -> str:
        return "png" if self.jpeg is None else "jpg"

    def encode(self, image: np.ndarray) -> bytes:
        """uint8 (H, W, 3) -> a file. The same image gives the same bytes."""
        image = np.ascontiguousarray(image)
        if self.jpeg is not None:
            from dmkd.stores.image_chunks import JpegCodec

            return JpegCodec(self.jpeg).encode_image(image)
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=PNG_EFFORT)
        return file.getvalue()


@dataclass(frozen=True)
class Sample:
    """One image and what is known about it. Logits are float16 or float32 (C,), or (V, C) of all views; view parameters float32
    (P,) or (V, P)."""

    id: int
    class_id: int
    class_name: str
    image: bytes  # a PNG or JPEG file
    quality: dict[str, dict[str, float]]  # label set -> top1, p_class, entropy
    logits: dict[str, np.ndarray]  # label set ->
    views: dict[str, np.ndarray]  # view set ->
    columns: dict[
        str, float | None
    ]  # column -> the image's number; None: it has none, as where no student gave a score

    @property
    def key(self) -> str:
        return sample_key(self.id)


def sample_key(image_id: int) -> str:
    """``00000042``: the name of files of image 42, however many images there are."""
    return f"{image_id:08d}"


@dataclass(frozen=True)
class SampleReader:
    """Reads samples of some label sets. Safe to share between threads."""

    store: Store
    label_sets: Sequence[LabelSet]
    columns: Sequence[Column]
    image_format: ImageFormat
    views: str = FIRST  # or ALL
    dtype: str = "float16"  # of logits

    def __call__(self, ids: np.ndarray) -> Iterator[list[Sample]]:
        """The samples of ascending ids (n,), a block at a time. Raises as the store does on what is missing or damaged."""
        for _, places in by_block(ids, self.store.block_size):
            yield self._of_block(ids[places])

    def _of_block(self, ids: np.ndarray) -> list[Sample]:
        images, class_ids = self.store.images[ids], self.store.class_ids[ids].tolist()
        logits = {label_set.name: self._logits(label_set, ids) for label_set in self.label_sets}
        quality = {label_set.name: label_set.quality[ids].tolist() for label_set in self.label_sets}
        views = {name: self._seen(self.store.views[name][ids]) for name in view_sets_of(self.label_sets)}
        columns = {
            column.name: [None if np.isnan(number) else number for number in column[ids].tolist()]
            for column in self.columns
        }
        names = self.store.class_names
        return [
            Sample(
                id=image_id,
                class_id=class_ids[row],
                class_name=names[class_ids[row]],
                image=self.image_format.encode(images[row]),
                quality={name: _quality(rows[row]) for name, rows in quality.items()},
                logits={name: rows[row] for name, rows in logits.items()},
                views={name: rows[row] for name, rows in views.items()},
                columns={name: numbers[row] for name, numbers in columns.items()},
            )
            for row, image_id in enumerate(ids.tolist())
        ]

    def _logits(self, label_set: LabelSet, ids: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            logits = self._seen(label_set.logits(ids)).astype(self.dtype)
        if not np.isfinite(logits).all():
            raise UsageError(
                f"Logits of label set {label_set.name!r} are beyond what {self.dtype} can hold: export them with "
                "--dtype float32."
            )
        return logits

    def _seen(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, V, ...) of the views that were asked for."""
        return rows[:, 0] if self.views == FIRST else rows


def view_sets_of(label_sets: Sequence[LabelSet]) -> list[str]:
    """Names of the view sets that these label sets look at."""
    return sorted({label_set.view_set for label_set in label_sets})


def _quality(row: list[float]) -> dict[str, float]:
    top1, *rest = row
    return dict(zip(QUALITY_COMPONENTS, (int(top1), *rest), strict=True))
