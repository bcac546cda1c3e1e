"""Labelled images to evaluate on: a folder of class folders, WebDataset tars, a store, or the bundled held-out digits."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd import digits
from dmkd.classifiers.classifier import Classifier
from dmkd.formats.decode import BrokenImage, decode_unturned, open_decoders
from dmkd.formats.find import IMAGE_SUFFIXES, Classes, ImageFile, find_images, nothing_to_measure_on, read_bytes
from dmkd.runtime.devices import default_cpu_threads
from dmkd.runtime.progress import Silent
from dmkd.stores import Store, UsageError, open_store, store_exists
from dmkd.views.render import render

BATCH = 256
MOST_THREADS = 8  # that decode, unless told otherwise
BATCHES_AHEAD = 2  # that are being decoded while one is looked at

Pixels = tuple[torch.Tensor, np.ndarray]  # of a batch: uint8 (n, 3, S, S), and class ids int64 (n,)


@dataclass(frozen=True)
class ListedImages:
    """Labelled images in batches, not yet decoded."""

    sizes: Sequence[int]  # images of each batch
    read: Callable[[Sequence[int]], Iterator[Pixels]]  # the batches of these numbers, seen as the classifier evaluates


def evaluation_batches(
    source: str, classifier: Classifier, class_names: list[str] | None = None, workers: int | None = None
) -> Iterator[Pixels]:
    """(pixels uint8 (n, 3, S, S), class ids int64 (n,)) of all images of ``source``, seen as the classifier evaluates.

    Takes and raises what :func:`list_evaluation` does.
    """
    listed = list_evaluation(source, classifier, class_names, workers)
    return listed.read(range(len(listed.sizes)))


def list_evaluation(
    source: str, classifier: Classifier, class_names: list[str] | None = None, workers: int | None = None
) -> ListedImages:
    """The images of ``source``, listed at once and decoded when they are read.

    ``source`` is ``digits``, a store, a folder with one folder of images a class (ImageFolder), or WebDataset tars (one, a
    folder of them, or ``"val-{000..049}.tar"``). ``workers``: threads that decode files, None: :func:`decoding_threads`. Raises
    ``UsageError`` if it is none of these, or if its classes can't be those of the classifier.
    """
    workers = decoding_threads() if workers is None else workers
    if source == "digits":
        images, class_ids = digits.heldout()
        _check_count(10, classifier, source)
        return _from_arrays(images, class_ids, classifier)
    if store_exists(source):
        store = open_store(source)
        _check_count(store.num_classes, classifier, source)
        return _from_store(store, classifier)
    if _is_tars(source):
        return _from_files(
            find_images(source, Classes(count=classifier.num_classes), Silent()).files, classifier, workers
        )
    if Path(source).is_dir():
        return _from_files(_files_of_folder(Path(source), classifier, class_names), classifier, workers)
    raise nothing_to_measure_on(source)


def decoding_threads(processes: int = 1) -> int:
    """Threads that decode images, where so many processes share this machine: one a core, at most 8 a process."""
    return max(1, min(MOST_THREADS, default_cpu_threads() // processes))


def _slices(count: int) -> list[slice]:
    """Batches of ``count`` images."""
    return [slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def _sizes(slices: Sequence[slice]) -> list[int]:
    return [here.stop - here.start for here in slices]


def _from_arrays(images: np.ndarray, class_ids: np.ndarray, classifier: Classifier) -> ListedImages:
    batches = _slices(len(images))

    def read(numbers: Sequence[int]) -> Iterator[Pixels]:
        for here in (batches[number] for number in numbers):
            yield canonical_pixels(torch.from_numpy(images[here]), classifier), class_ids[here].astype(np.int64)

    return ListedImages(_sizes(batches), read)


def _from_store(store: Store, classifier: Classifier) -> ListedImages:
    missing = set(store.missing_blocks())
    blocks = [block for block in range(store.num_blocks) if block not in missing]
    batches = [(block, here) for block in blocks for here in _slices(len(store.block_ids(block)))]

    def read(numbers: Sequence[int]) -> Iterator[Pixels]:
        for block, wanted in groupby((batches[number] for number in numbers), lambda batch: batch[0]):
            images, class_ids = store.images.block(block), store.class_ids.block(block)
            for _, here in wanted:
                yield canonical_pixels(torch.from_numpy(images[here]), classifier), class_ids[here].astype(np.int64)

    return ListedImages(_sizes([here for _, here in batches]), read)


def canonical_pixels(images: torch.Tensor, classifier: Classifier) -> torch.Tensor:
    """The classifier's evaluation view of images of one size: uint8 (n, H, W, 3) -> uint8 (n, 3, S, S)."""
    box = classifier.canonical_box((images.shape[1], images.shape[2]))
    views = np.tile(np.array([*box, 0], np.float32), (len(images), 1))
    return render(images, views, size=classifier.input_size, interpolation=classifier.interpolation)


def _files_of_folder(root: Path, classifier: Classifier, class_names: list[str] | None) -> list[ImageFile]:
    files, class_ids = list_image_folder(root, classifier, class_names)
    return [
        ImageFile(file.name, int(class_id), file.stat().st_size, str(file.parent))
        for file, class_id in zip(files, class_ids, strict=True)
    ]


def _is_tars(source: str) -> bool:
    path = Path(source)
    if path.is_dir():
        return next(path.glob("*.tar"), None) is not None
    return source.endswith(".tar") and (path.is_file() or "{" in source)


def _from_files(files: Sequence[ImageFile], classifier: Classifier, workers: int) -> ListedImages:
    """Decoded by threads: Pillow works outside of Python's lock, and threads need no copies, no shared memory and no fork of a
    process that uses a GPU."""
    batches, transform = _slices(len(files)), _pil_transform(classifier)

    def decode(file: ImageFile) -> torch.Tensor:
        try:
            return transform(decode_unturned(read_bytes(file)))
        except BrokenImage as error:
            raise UsageError(f"{file.container}/{file.name} can't be read as an image: {error}.") from error

    def read(numbers: Sequence[int]) -> Iterator[Pixels]:
        open_decoders()
        ahead: deque[tuple[list[Future[torch.Tensor]], np.ndarray]] = deque()
        pool = ThreadPoolExecutor(max(1, workers))
        try:
            for number in numbers:
                here = files[batches[number]]
                class_ids = np.array([file.class_id for file in here], np.int64)
                ahead.append(([pool.submit(decode, file) for file in here], class_ids))
                if len(ahead) > BATCHES_AHEAD:
                    yield _decoded(*ahead.popleft())
            while ahead:
                yield _decoded(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    return ListedImages(_sizes(batches), read)


def _decoded(images: Sequence["Future[torch.Tensor]"], class_ids: np.ndarray) -> Pixels:
    return torch.stack([image.result() for image in images]), class_ids


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
