"""`dmkd import`: images that exist already become a store like a generated one.

Image id -> file is a seeded order of the sorted file list (:func:`import_order`), fixed before the first block, so that a
block's bytes depend on the source and the options alone. What is done is read off the store. The source's identity is
the sha256 over names, sizes in bytes and classes: files that were added, removed or renamed are noticed whenever the
command is run again.

Broken files. Before a store is made every file is looked at: its header and its end, or with ``skip_broken`` the whole
picture, since which files count must be known before any has an id. Those left out are named in the recipe, so that the
run can be resumed without looking again. A file that is damaged in between ends the run when its turn comes; with
``skip_broken`` a store that has no block yet is then begun anew.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dmkd.cards.dataset_card import write_card
from dmkd.formats.decode import RESIZE, BrokenImage, decode, ends_whole, fit, header_size, open_decoders
from dmkd.formats.find import Classes, ImageFile, ImageSource, files_sha256, find_images, read_bytes
from dmkd.making.asked import LabelOptions, check_least
from dmkd.making.limits import check_limits
from dmkd.making.sizes import PlannedLabels, StoreSize
from dmkd.recipes.class_list import ClassList, classes_of, imagenet_classes
from dmkd.recipes.class_names import read_class_names
from dmkd.recipes.randomness import check_number_of_images, key64, mix64
from dmkd.runtime.devices import default_cpu_threads
from dmkd.runtime.progress import Display
from dmkd.runtime.versions import library_versions
from dmkd.stores import Store, UsageError, create_store, open_store, store_exists
from dmkd.stores.create import begin_anew
from dmkd.stores.identity import refuse_mismatch
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.stores.layout import choose_block_size
from dmkd.stores.packing import Folding, fold_packed

if TYPE_CHECKING:
    from dmkd.engine.engine import RunOptions

HEADER_BYTES = 2**16  # of a file are read for its header; all of it where that is not enough
TAIL_BYTES = 2**12  # and for its end
CHECKED_AT_ONCE = 1024


@dataclass(frozen=True)
class ImportOptions:
    """How images are brought in. ``None``: as the store has it, or what suits the source."""

    size: int | None = None  # pixels, height and width
    class_names: str | None = None  # a text file, one name a line
    classes: int | None = None
    block_size: int | None = None
    workers: int | None = None  # threads that decode; Pillow lets them run side by side
    skip_broken: bool = False
    seed: int | None = None
    image_codec: str | None = None


def import_images(
    path: str,
    source: str,
    options: ImportOptions,
    display: Display,
    labels: LabelOptions | None = None,
    run: "RunOptions | None" = None,
) -> Store:
    """Make a store of the images of ``source``, or resume one; then label it, if ``labels`` says so.

    Everything that can be is checked before the first file is written. Raises ``UsageError`` if the source or an image
    can't be used, ``MismatchError`` if the store was made of other files or with other options.
    """
    for option, least in (("size", 1), ("block_size", 1), ("workers", 1), ("seed", 0)):
        check_least(option, getattr(options, option), least)
    parse_image_codec(options.image_codec)
    store = open_store(path) if store_exists(path) else None
    if store is not None and store.recipe.get("source") != "import":
        raise UsageError(f"{path} was not made by an import, so none can go on there: give another --store.")
    if store is not None:
        store.require_writable()
    names = None if options.class_names is None else read_class_names(options.class_names)
    found = find_images(source, Classes(names, options.classes), display)
    anew = store is not None and options.skip_broken and len(store.missing_blocks()) == store.num_blocks
    for note in found.notes:
        display.notice(note)

    open_decoders()
    with ThreadPoolExecutor(options.workers or default_cpu_threads()) as threads:
        classes = _classes(found)
        if store is None or anew:
            files, size, skipped = _check_files(found, options, threads, display)
            codec = str(parse_image_codec(options.image_codec))
            recipe = _recipe(found, files, size, skipped, options.seed or 0, codec)
            check_number_of_images(len(files))
            shape = (size, size, 3)
            block_size = options.block_size or choose_block_size(shape)
            planned = StoreSize(len(files), block_size, shape, codec, None)
            _check_labels_and_limits(labels, run, classes, planned, path, recipe["seed"])
            if store is not None:
                begin_anew(store)
            store = create_store(
                path,
                recipe=recipe,
                num_images=len(files),
                image_shape=shape,
                class_names=classes.names,
                class_wnids=classes.given_wnids,
                block_size=block_size,
                versions=library_versions(),
                image_codec=codec,
            )
        else:
            files = _files_to_go_on(store, found, options)
            _check_labels_and_limits(labels, run, classes_of(store), StoreSize.of(store), path, store.recipe["seed"])
            if swept := store.sweep_partials():
                display.notice(f"Swept {swept} half-written files that an interrupted run left behind.")
        _import_blocks(store, files, found, threads, display)
    fold_packed(store)
    store.touch(library_versions())
    write_card(store)
    if labels is not None:
        from dmkd.generate import RunOptions, label

        store, _ = label(path, labels, run or RunOptions(), display)
    return store


def import_order(class_ids: np.ndarray, seed: int) -> np.ndarray:
    """Which file becomes which image: int64 (n,), ``order[image id]`` is a place in the sorted list of files.

    Every class's files are shuffled, then the classes are interleaved in proportion: the k-th of a class's m files stands
    at (k + 1/2) / m of the way, ties in random order. Any range of ids is thus a sample as balanced as the source; if
    all C classes are of one size, every run of C ids is a permutation of the classes, as in generated stores.
    """
    class_ids = np.asarray(class_ids, np.int64)
    numbers = mix64(np.arange(len(class_ids), dtype=np.uint64))
    # Two hashes: the one that ordered a class would let it stand early in many runs on end.
    rank, tie = (mix64(numbers ^ key64(seed, purpose)) for purpose in ("import order", "import ties"))
    by_class = np.lexsort((rank, class_ids))
    counts = np.bincount(class_ids)
    starts = np.cumsum(counts) - counts
    sorted_ids = class_ids[by_class]
    place = np.empty(len(class_ids))
    place[by_class] = (np.arange(len(class_ids)) - starts[sorted_ids] + 0.5) / counts[sorted_ids]
    return np.lexsort((tie, place))


def _classes(found: ImageSource) -> ClassList:
    """The classes found; where their folders are called by the WordNet ids of ImageNet's classes, by these classes' names."""
    named = ClassList(tuple(found.class_names))
    if named.wnids != named.names:
        return named
    known = imagenet_classes()
    places = [place for place in named.places_in(known) if place is not None]
    return ClassList(known.subset(places).names, named.wnids) if len(places) == len(named) else named


def _recipe(
    found: ImageSource, files: Sequence[ImageFile], size: int, skipped: Sequence[str], seed: int, image_codec: str
) -> dict[str, Any]:
    """Everything that determines the pixels and their order."""
    return {
        "generator": None,
        "source": "import",
        "layout": found.layout,
        "files": len(files),
        "files_sha256": files_sha256(files),
        "skipped": list(skipped),
        "num_classes": len(found.class_names),
        "image_size": size,
        "resize": RESIZE,
        "seed": seed,
        "image_codec": image_codec,
    }


def _files_to_go_on(store: Store, found: ImageSource, options: ImportOptions) -> list[ImageFile]:
    """The files of the store's images, after comparing the source and every option that was given."""
    stored = store.recipe
    skipped = set(stored["skipped"])
    files = [file for file in found.files if file.name not in skipped]
    size = stored["image_size"] if options.size is None else options.size
    seed = stored["seed"] if options.seed is None else options.seed
    codec = str(parse_image_codec(options.image_codec)) if options.image_codec else stored["image_codec"]
    refuse_mismatch(
        f"The import in {store.path}",
        {**stored, "class_names": list(store.class_wnids or store.class_names), "block_size": store.block_size},
        {
            **_recipe(found, files, size, stored["skipped"], seed, codec),
            "class_names": found.class_names,
            "block_size": options.block_size or store.block_size,
        },
        "Give the source and the options of the first time to go on, or another --store.",
    )
    return files


def _check_files(
    found: ImageSource, options: ImportOptions, threads: ThreadPoolExecutor, display: Display
) -> tuple[list[ImageFile], int, list[str]]:
    """Look at every file -> the good ones, the size that images are to have, names of those left out."""
    files: list[ImageFile] = []
    broken: list[tuple[str, str]] = []
    sizes: Counter[tuple[int, int]] = Counter()
    look = _decoded_size if options.skip_broken else _size
    with display.task("check", len(found.files)) as advance:
        for start in range(0, len(found.files), CHECKED_AT_ONCE):
            part = found.files[start : start + CHECKED_AT_ONCE]
            for file, seen in zip(part, threads.map(look, part), strict=True):
                if isinstance(seen, BrokenImage):
                    broken.append((file.name, str(seen)))
                else:
                    sizes[seen] += 1
                    files.append(file)
            advance(len(part))
    if broken and not options.skip_broken:
        name, reason = broken[0]
        raise UsageError(
            f"{len(broken)} of {len(found.files)} files of {found.path} can't be read as images, the first is {name} "
            f"({reason}): repair or remove them, or leave them out with --skip-broken."
        )
    for name, reason in broken:
        display.notice(f"Skipped {name}: {reason}.")
    if not files:
        raise UsageError(f"None of the {len(found.files)} files of {found.path} can be read as an image.")
    return files, options.size or _common_size(sizes, found.path), [name for name, _ in broken]


def _size(file: ImageFile) -> tuple[int, int] | BrokenImage:
    """(width, height) according to the header, if the file ends as its format should; else the whole picture is looked at."""
    head = read_bytes(file, HEADER_BYTES)
    tail = read_bytes(file, TAIL_BYTES, start=max(0, file.size - TAIL_BYTES))
    try:
        if ends_whole(head, tail, file.size):
            return header_size(head)
    except BrokenImage:  # the header may be longer, or stand at the end
        pass
    return _decoded_size(file)


def _decoded_size(file: ImageFile) -> tuple[int, int] | BrokenImage:
    try:
        return decode(read_bytes(file)).size
    except BrokenImage as error:
        return error


def _common_size(sizes: Counter[tuple[int, int]], source: str) -> int:
    """The size that all images share. Raises ``UsageError`` that asks for --size if they don't, or are not square."""
    (width, height), _ = sizes.most_common(1)[0]
    if len(sizes) == 1 and width == height:
        return width
    shown = ", ".join(f"{w}x{h} ({count:,})" for (w, h), count in sizes.most_common(3))
    what = "are not square" if len(sizes) == 1 else f"have {len(sizes)} sizes"
    raise UsageError(
        f"The images of {source} {what}, and a store has square images of one size: {shown}. "
        "Say with --size how many pixels high and wide they are to be."
    )


def _check_labels_and_limits(
    labels: LabelOptions | None, run: "RunOptions | None", classes: ClassList, size: StoreSize, path: str, seed: int
) -> None:
    """Refuse teachers, views or a codec that would be refused after hours of import, and what memory or disk can't hold."""
    label_sets: Sequence[PlannedLabels] = ()
    if labels is not None:
        from dmkd.making.label_sets import LabelRequest, check_request
        from dmkd.making.planned_labels import asked_labels
        from dmkd.making.resolve import TeacherPrecision, load_teachers
        from dmkd.runtime.devices import choose_device
        from dmkd.stores import parse_codec

        precision = TeacherPrecision(labels.teacher_precision, choose_device(run.device if run else None))
        teachers = load_teachers(labels.teachers or (), size.store, classes, f"{path} has", precision, labels.templates)
        request = LabelRequest(teachers, parse_codec(labels.codec), labels.views, labels.view_seed, labels.name)
        check_request(request, size.image_shape[:2])
        label_sets = asked_labels(size, request, seed)
    check_limits(path, size, label_sets, workers=1)


def _import_blocks(
    store: Store, files: Sequence[ImageFile], found: ImageSource, threads: ThreadPoolExecutor, display: Display
) -> None:
    """Write what is missing, a block at a time: memory holds one block and the pictures being decoded."""
    blocks = store.missing_blocks()
    if not blocks:
        return
    class_ids = np.fromiter((file.class_id for file in files), np.int32, len(files))
    order = import_order(class_ids, store.recipe["seed"])
    size = store.recipe["image_size"]

    def pixels(file: ImageFile) -> np.ndarray | BrokenImage:
        try:
            return fit(decode(read_bytes(file)), size)
        except BrokenImage as error:
            return error

    todo = sum(len(store.block_ids(block)) for block in blocks)
    facts = {"command": "import", "options": {"source": found.path}, "versions": library_versions()}
    with (
        store.log_run(**facts) as log,
        display.task("import", store.num_images, store.num_images - todo) as advance,
        Folding(store) as folding,
    ):
        worker = log.add_worker({"host": socket.gethostname(), "pid": os.getpid()})
        for block in blocks:
            start = time.perf_counter()
            chosen = order[np.array(store.block_ids(block))]
            images = np.empty((len(chosen), size, size, 3), np.uint8)
            broken = []
            for row, (place, decoded) in enumerate(zip(chosen, threads.map(pixels, _of(files, chosen)), strict=True)):
                if isinstance(decoded, BrokenImage):
                    broken.append((files[place].name, decoded))
                else:
                    images[row] = decoded
            if broken:
                name, reason = broken[0]
                first = "" if len(store.missing_blocks()) == store.num_blocks else f"delete {store.path} and "
                raise UsageError(
                    f"{name} of {found.path} can't be decoded ({reason}; {len(broken)} such files in block {block}): "
                    f"{first}import again with --skip-broken, or without these files."
                )
            decoded_at = time.perf_counter()
            store.write_block(block, images=images, class_ids=class_ids[chosen])
            log.add_block(block, worker, decoded_at - start, time.perf_counter() - decoded_at)
            advance(len(chosen))
            folding.block_done()


def _of(files: Sequence[ImageFile], places: np.ndarray) -> Iterator[ImageFile]:
    return (files[place] for place in places)
