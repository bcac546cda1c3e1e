"""An export as WebDataset shards: tar files whose members of one name belong together, as webdataset's ``decode`` reads them.

A sample ``00000042`` has ``.png`` or ``.jpg``; ``.cls``, its class id; ``.json`` with id, class id, class name, each teacher's
quality and the store's columns; ``.<label set>.logits.npy`` (C,) or (V, C); and ``.<view set>.views.npy`` (P,) or (V, P), the
views that were labelled.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dmkd.formats.samples import ImageFormat, Sample
from dmkd.runtime.whole_files import whole_file


class WebDatasetExport:
    """Shards of ``part_images`` consecutive ids, each a file that is written as a whole."""

    def __init__(self, folder: Path, image_format: ImageFormat, part_images: int) -> None:
        self.part_images = part_images
        self._folder, self._format = folder, image_format

    def part_name(self, number: int) -> str | None:
        return f"shard-{number:06d}.tar"

    def to_do(self, number: int, ids: np.ndarray) -> np.ndarray:
        return ids

    def write(self, number: int, samples: Iterator[list[Sample]], advance: Callable[[int], None]) -> None:
        with (
            whole_file(self._folder / f"{self.part_name(number)}") as partial,
            tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for block in samples:
                for sample in block:
                    for suffix, content in _members(sample, self._format.suffix):
                        member = tarfile.TarInfo(f"{sample.key}.{suffix}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
                advance(len(block))

    def side_files(self) -> dict[str, str]:
        return {}

    def notices(self, ids: np.ndarray) -> list[str]:
        return []

    def data_files(self) -> str:
        return "*.tar"


def _members(sample: Sample, image_suffix: str) -> Iterator[tuple[str, bytes]]:
    facts = {
        "id": sample.id,
        "class_id": sample.class_id,
        "class_name": sample.class_name,
        "quality": sample.quality,
        **({"columns": sample.columns} if sample.columns else {}),
    }
    yield image_suffix, sample.image
    yield "cls", str(sample.class_id).encode()
    yield "json", json.dumps(facts, ensure_ascii=False).encode()
    for name, logits in sample.logits.items():
        yield f"{name}.logits.npy", _npy(logits)
    for name, views in sample.views.items():
        yield f"{name}.views.npy", _npy(views)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
