"""Labelled images to evaluate on: a folder of class folders, WebDataset tars, a store, or the bundled held-out digits."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from dmkd import digits
from dmkd.classifiers.classifier import Classifier
from dmkd.formats.decode import BrokenImage, decode_unturned
from dmkd.formats.find import IMAGE_SUFFIXES, Classes, ImageFile, find_images, nothing_to_measure_on, read_bytes
from dmkd.runtime.progress import Silent
from dmkd.stores import Store, UsageError, open_store, store_exists
from dmkd.views.render import render

BATCH = 256


def evaluation_batches(
    source: str, classifier: Classifier, class_names: list[str] | None = None, workers: int = 0
) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """(pixels uint8 (n, 3, S, S), class ids int64 (n,)) of all images of ``source``, seen as the classifier evaluates.

    ``source`` is ``digits``, a store, a folder with one folder of images a class (ImageFolder), or WebDataset tars (one, a
    folder of them, or ``"val-{000..049}.tar"``). Raises ``UsageError`` if it is none of these, or if its classes can't be
    those of the classifier.
    """
    if source == "digits":
        images, class_ids = digits.heldout()
        _check_count(10, classifier, source)
        return _from_arrays(images, class_ids, classifier)
    if store_exists(source):
        store = open_store(source)
        _check_count(store.num_classes, classifier, source)
        return _from_store(store, classifier)
    if _is_tars(source):
        return _from_tars(source, classifier, workers)
    if Path(source).is_dir():
        return _from_folder(Path(source), classifier, class_names, workers)
    raise nothing_to_measure_on(source)


def _from_arrays(images: np.ndarray, class_ids: np.ndarray, classifier: Classifier) -> Iterator:
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        yield canonical_pixels(torch.from_numpy(part), classifier), class_ids[start : start + BATCH].astype(np.int64)


def _from_store(store: Store, classifier: Classifier) -> Iterator:
    missing = set(store.missing_blocks())
    for block in (block for block in range(store.num_blocks) if block not in missing):
        yield from _from_arrays(store.images.block(block), store.class_ids.block(block), classifier)


def canonical_pixels(images: torch.Tensor, classifier: Classifier) -> torch.Tensor:
    """The classifier's evaluation view of images of one size: uint8 (n, H, W, 3) -> uint8 (n, 3, S, S)."""
    box = classifier.canonical_box((images.shape[1], images.shape[2]))
    views = np.tile(np.array([*box, 0], np.float32), (len(images), 1))
    return render(images, views, size=classifier.input_size, interpolation=classifier.interpolation)


def _from_folder(root: Path, classifier: Classifier, class_names: list[str] | None, workers: int) -> Iterator:
    files, class_ids = list_image_folder(root, classifier, class_names)
    sizes = (file.stat().st_size for file in files)
    listed = [
        ImageFile(file.name, int(c), size, str(file.parent))
        for file, c, size in zip(files, class_ids, sizes, strict=True)
    ]
    return _decoded(listed, classifier, workers)


def _is_tars(source: str) -> bool:
    path = Path(source)
    if path.is_dir():
        return next(path.glob("*.tar"), None) is not None
    return source.endswith(".tar") and (path.is_file() or "{" in source)


def _from_tars(source: str, classifier: Classifier, workers: int) -> Iterator:
    found = find_images(source, Classes(count=classifier.num_classes), Silent())
    return _decoded(found.files, classifier, workers)


def _decoded(files: Sequence[ImageFile], classifier: Classifier, workers: int) -> Iterator:
    images = _ImageFiles(files, _pil_transform(classifier))
    loader = torch.utils.data.DataLoader(images, batch_size=BATCH, num_workers=workers, collate_fn=_collate)
    for batch in loader:
        if isinstance(batch, str):
            raise UsageError(batch)
        pixels, class_ids = batch
        yield pixels, class_ids.numpy()


def _collate(samples: list[tuple[torch.Tensor, int] | str]) -> Any:
    """A batch, or what is wrong with the first image of it that can't be read."""
    return next((sample for sample in samples if isinstance(sample, str)), None) or default_collate(samples)


def list_image_folder(
    root: Path, classifier: Classifier, class_names: list[str] | None = None
) -> tuple[list[Path], np.ndarray]:
    """Image files below one folder a class, and the class id of each: int64 (n,).

    Folders that bear the class names, or the class ids as numbers, are matched by them; otherwise the folders in sorted
    order must be as many as the classes (ImageNet's WordNet ids sort in class order).
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UsageError(f"{root} has no class folders (one folder of images for each class).")
    names = class_names or classifier.class_names or []
    by_name = {synonym.strip(): i for i, name in enumerate(names) for synonym in [name, *name.split(",")]}
    if all(folder.name in by_name for folder in folders):
        numbers = [by_name[folder.name] for folder in folders]
    elif all(folder.name.isdigit() and int(folder.name) < classifier.num_classes for folder in folders):
        numbers = [int(folder.name) for folder in folders]
    elif len(folders) == classifier.num_classes:
        numbers = list(range(len(folders)))
    else:
        raise UsageError(
            f"{root} has {len(folders)} class folders and {classifier.source} knows {classifier.num_classes} classes: "
            "name the folders by class name or class id, or evaluate on a folder with every class."
        )
    files: list[Path] = []
    class_ids: list[int] = []
    for folder, number in zip(folders, numbers, strict=True):
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        files += found
        class_ids += [number] * len(found)
    if not files:
        raise UsageError(f"The class folders of {root} hold no images ({', '.join(IMAGE_SUFFIXES)}).")
    return files, np.array(class_ids, np.int64)


class _ImageFiles(torch.utils.data.Dataset):
    def __init__(self, files: Sequence[ImageFile], transform: Any) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int] | str:
        """Pixels and class id, or a sentence: an exception would reach the user with the traceback of a worker process."""
        file = self.files[index]
        try:
            return self.transform(decode_unturned(read_bytes(file))), file.class_id
        except BrokenImage as error:
            return f"{file.container}/{file.name} can't be read as an image: {error}."
        except UsageError as error:
            return str(error)


def _pil_transform(classifier: Classifier) -> Any:
    """timm's own evaluation transform up to the uint8 pixels; images of every size go through Pillow."""
    from timm.data import create_transform

    return create_transform(
        input_size=(3, classifier.input_size, classifier.input_size),
        interpolation=classifier.interpolation,
        crop_pct=classifier.crop_pct,
        crop_mode=classifier.crop_mode,
        normalize=False,
    )


def _check_count(classes: int, classifier: Classifier, source: str) -> None:
    if classes != classifier.num_classes:
        raise UsageError(
            f"{source} has {classes} classes and {classifier.source} knows {classifier.num_classes}: "
            "evaluate on images of the same classes."
        )
