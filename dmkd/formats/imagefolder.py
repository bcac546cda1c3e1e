"""An export as torchvision's and timm's ImageFolder read it: one folder of image files a class.

Both number classes by their folders in sorted order. So folders are named after the classes where these sort in class
order, else by class id (``0042``); and where classes have no images, ``class_map.txt`` (timm's ``--class-map``) keeps the
numbers right.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dmkd.formats.samples import ImageFormat, Sample, sample_key
from dmkd.runtime.whole_files import write_file
from dmkd.stores import Store

CLASS_NAMES, CLASS_MAP = "classes.txt", "class_map.txt"

_PLAIN_NAME = re.compile(r"[\w-][\w .,()'-]{0,99}")


class ImageFolderExport:
    """Images as files. Parts are the store's blocks; the files themselves show what is there."""

    def __init__(self, store: Store, folder: Path, image_format: ImageFormat) -> None:
        self.part_images = store.block_size
        self._store, self._folder, self._format = store, folder, image_format
        self._class_folders = class_folders(list(store.class_wnids or store.class_names))

    def part_name(self, number: int) -> str | None:
        """None: parts are not files here."""
        return None

    def to_do(self, number: int, ids: np.ndarray) -> np.ndarray:
        """The ids whose file is missing."""
        class_ids = self._store.class_ids[ids].tolist()
        there = [self._file(i, c).exists() for i, c in zip(ids.tolist(), class_ids, strict=True)]
        return ids[~np.array(there, bool)]

    def write(self, number: int, samples: Iterator[list[Sample]], advance: Callable[[int], None]) -> None:
        for block in samples:
            for sample in block:
                write_file(self._file(sample.id, sample.class_id), sample.image)
            advance(len(block))

    def side_files(self) -> dict[str, str]:
        """Names of the classes, class 0 first, for ``dmkd import --class-names``; and their folders, as timm's class map."""
        names = [" ".join(name.split()) for name in self._store.class_names]
        return {CLASS_NAMES: _lines(names), CLASS_MAP: _lines(self._class_folders)}

    def notices(self, ids: np.ndarray) -> list[str]:
        absent = len(self._class_folders) - len(np.unique(self._store.class_ids[ids]))
        if not absent:
            return []
        return [
            f"{absent:,} of {len(self._class_folders):,} classes have no images here: numbering class folders in sorted order, "
            f"as torchvision does, gives class ids that differ from the store's; {CLASS_MAP} has those (timm's --class-map)."
        ]

    def data_files(self) -> str:
        return f"*/*.{self._format.suffix}"

    def _file(self, image_id: int, class_id: int) -> Path:
        return self._folder / self._class_folders[class_id] / f"{sample_key(image_id)}.{self._format.suffix}"


def class_folders(class_names: list[str]) -> list[str]:
    """A folder for each class, sorted in class order: the class names if those do and are plain file names, else the ids."""
    plain = all(_PLAIN_NAME.fullmatch(name) and not name.endswith((" ", ".")) for name in class_names)
    distinct = len({name.casefold() for name in class_names}) == len(class_names)  # some disks take A for a
    if plain and distinct and sorted(class_names) == class_names:
        return class_names
    width = max(4, len(str(len(class_names) - 1)))
    return [f"{number:0{width}d}" for number in range(len(class_names))]


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
