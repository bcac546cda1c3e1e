"""Labelled images to evaluate on: a folder of class folders, WebDataset tars, a store, or the bundled held-out digits."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd import digits
from dmkd.classifiers.class_folders import list_image_folder
from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.teachers import classes_of_classifier
from dmkd.formats.decode import BrokenImage, decode_unturned, open_decoders
from dmkd.formats.find import Classes, ImageFile, find_images, nothing_to_measure_on, read_bytes
from dmkd.recipes.class_list import ClassList, classes_of
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
    names: Sequence[str] = ()  # of the images' files, where they are files
    notices: Sequence[str] = ()  # what the user should know of the images and their classes


def evaluation_batches(source: str, classifier: Classifier, workers: int | None = None) -> Iterator[Pixels]:
    """(pixels uint8 (n, 3, S, S), class ids int64 (n,)) of all images of ``source``, seen as the classifier evaluates.

    Takes and raises what :func:`list_evaluation` does.
    """
    listed = list_evaluation(source, classifier, workers)
    return listed.read(range(len(listed.sizes)))


def list_evaluation(source: str, classifier: Classifier, workers: int | None = None) -> ListedImages:
    """The images of ``source``, listed at once and decoded when they are read.

    ``source`` is ``digits``, a store, a folder with one folder of images a class (:func:`list_image_folder`), or WebDataset tars
    (one, a folder of them, or ``"val-{000..049}.tar"``), whose class ids are the classifier's. Images of a store's classes that
    the classifier does not know by name are left out. ``workers``: threads that decode files, None: :func:`decoding_threads`.
    Raises ``UsageError`` if it is none of these, or if its classes can't be those of the classifier.
    """
    workers = decoding_threads() if workers is None else workers
    if source == "digits":
        images, class_ids = digits.heldout()
        places = _places(ClassList(tuple(map(str, range(10)))), classifier, source)
        there = places[class_ids] >= 0
        listed = _from_arrays(images[there], places[class_ids[there]], classifier)
        return replace(listed, notices=_left_out(places, source))
    if store_exists(source):
        store = open_store(source)
        places = _places(classes_of(store), classifier, source)
        return replace(_from_store(store, classifier, places), notices=_left_out(places, source))
    if _is_tars(source):
        return _from_files(
            find_images(source, Classes(count=classifier.num_classes), Silent()).files, classifier, workers
        )
    if Path(source).is_dir():
        files, notices = _files_of_folder(Path(source), classifier)
        return replace(_from_files(files, classifier, workers), notices=notices)
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


def _from_store(store: Store, classifier: Classifier, places: np.ndarray) -> ListedImages:
    """``places``: the classifier's id of each class of the store, -1 for those that it does not know."""
    missing = set(store.missing_blocks())
    blocks = [block for block in range(store.num_blocks) if block not in missing]
    rows = {block: np.arange(len(store.block_ids(block))) for block in blocks}
    if (places < 0).any():
        rows = {block: np.flatnonzero(places[store.class_ids.block(block)] >= 0) for block in blocks}
    batches = [(block, of_block[here]) for block, of_block in rows.items() for here in _slices(len(of_block))]

    def read(numbers: Sequence[int]) -> Iterator[Pixels]:
        for block, wanted in groupby((batches[number] for number in numbers), lambda batch: batch[0]):
            images, class_ids = store.images.block(block), store.class_ids.block(block)
            for _, here in wanted:
                yield canonical_pixels(torch.from_numpy(images[here]), classifier), places[class_ids[here]]

    return ListedImages([len(here) for _, here in batches], read)


def canonical_pixels(images: torch.Tensor, classifier: Classifier) -> torch.Tensor:
    """The classifier's evaluation view of images of one size: uint8 (n, H, W, 3) -> uint8 (n, 3, S, S)."""
    box = classifier.canonical_box((images.shape[1], images.shape[2]))
    views = np.tile(np.array([*box, 0], np.float32), (len(images), 1))
    return render(images, views, size=classifier.input_size, interpolation=classifier.interpolation)


def _files_of_folder(root: Path, classifier: Classifier) -> tuple[list[ImageFile], list[str]]:
    files, class_ids, notices = list_image_folder(root, classifier)
    found = [
        ImageFile(file.name, int(class_id), file.stat().st_size, str(file.parent))
        for file, class_id in zip(files, class_ids, strict=True)
    ]
    return found, notices


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

    return ListedImages(_sizes(batches), read, [Path(file.name).name for file in files])


def _decoded(images: Sequence["Future[torch.Tensor]"], class_ids: np.ndarray) -> Pixels:
    return torch.stack([image.result() for image in images]), class_ids


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


def _places(classes: ClassList, classifier: Classifier, source: str) -> np.ndarray:
    """The classifier's id of each of these classes, int64 (C,), -1 for those that it does not know. Without names in common they
    must be as many, in the same order."""
    known = classes_of_classifier(classifier)
    found = [None] * len(classes) if known is None else classes.places_in(known)
    in_order = all(place in (None, number) for number, place in enumerate(found))
    if len(classes) == classifier.num_classes and in_order:
        return np.arange(len(classes))
    if all(place is None for place in found):
        raise UsageError(
            f"{source} has {len(classes)} classes and {classifier.source} knows {classifier.num_classes}: "
            "evaluate on images of the same classes."
        )
    return np.array([-1 if place is None else place for place in found], np.int64)


def _left_out(places: np.ndarray, source: str) -> list[str]:
    others = np.count_nonzero(places < 0)
    told = f"{others:,} of the {len(places):,} classes of {source} are other ones, and their images are left out."
    return [told] if others else []
