"""`dmkd export`: a store as the files that other tools read.

The images are cut into parts by id: runs of ids that depend on the options alone, so a store that grows, or whose missing
blocks are made later, adds to an export and changes nothing in it. Every file appears whole or not at all; what is there is
known from the files, and for shards from ``export.json``, which says which ids each holds. It also holds everything that
determines the files' contents: an export is never continued with other options, or from another store.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dmkd.cards.dataset_card import export_card
from dmkd.formats.imagefolder import ImageFolderExport
from dmkd.formats.samples import ALL, FIRST, ImageFormat, Sample, SampleReader
from dmkd.formats.state import STATE_FILE, ExportState
from dmkd.recipes.selected_classes import selection_notice
from dmkd.recipes.selecting import selected, selection_of
from dmkd.runtime.devices import default_cpu_threads
from dmkd.runtime.progress import Display
from dmkd.runtime.whole_files import sweep_partials, write_file
from dmkd.stores import Column, LabelSet, Store, UsageError, locations

FORMATS = ("imagefolder", "webdataset", "parquet")
CARD_FILE = "README.md"

# Of raw pixels in a shard: PNGs of photographs are about two thirds of it. And a bound on what one thread does at a time.
SHARD_BYTES, SHARD_IMAGES = 256 * 2**20, 8192


@dataclass(frozen=True)
class ExportOptions:
    """What to write. ``None``: what suits the store."""

    format: str
    jpeg: int | None = None  # quality; None: PNG
    labels: str | None = None  # label sets, with commas, or "none"; None: all, of an image folder none
    views: str = FIRST  # whose logits: FIRST or ALL
    dtype: str = "float16"  # of logits
    columns: str | None = None  # columns of numbers, with commas, or "none"; None: all, of an image folder none
    select: str | None = None
    images: int | None = None  # ids below
    shard_images: int | None = None  # ids a shard
    workers: int | None = None  # threads


@dataclass(frozen=True)
class Exported:
    """What an export holds now."""

    folder: str
    format: str
    images: int  # in the export
    written: int  # of them, by this run
    missing: int  # ids asked for whose images or labels have not been made

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Export(Protocol):
    """One format. Part ``number`` holds ids [number * part_images, (number + 1) * part_images) if they are chosen."""

    part_images: int

    def part_name(self, number: int) -> str | None:
        """The part's file; None if a part is many files."""

    def to_do(self, number: int, ids: np.ndarray) -> np.ndarray:
        """The ones of the part's ids (n,) that must be written if the part is not known to be done."""

    def write(self, number: int, samples: Iterator[list[Sample]], advance: Callable[[int], None]) -> None:
        """Write these samples, block by block."""

    def side_files(self) -> dict[str, str]:
        """Small text files that belong to the export: name -> text."""

    def notices(self, ids: np.ndarray) -> list[str]:
        """What users of the files should know, if they hold these ids."""

    def data_files(self) -> str:
        """A pattern, relative to the folder, of the files that hold data."""


def export_store(store: Store, folder: str, options: ExportOptions, display: Display) -> Exported:
    """Write the images of ``store``, and its labels where the format has room for them, to a local folder.

    What is there is skipped. Raises ``UsageError`` if an option is wrong or the folder is taken, ``MismatchError`` if it
    holds an export of something else, ``DmkdError`` if the disk fails. Blocks that are missing are left out, with a notice.
    """
    reader = _reader(store, options)
    judge = _judge(store, reader.label_sets, options)
    target = _target(folder)
    export = _export(store, target, reader, options)
    ids, missing, selected = _chosen_ids(store, reader, judge, options)
    state = ExportState(target, _description(store, ids, reader, judge, export, options))
    state.check(len(ids), store.path, grown_from=(store.identity, *(one.before for one in store.rounds)))
    if selected:
        display.notice(selected)
    if len(missing):
        display.notice(
            f"{len(missing):,} images of {store.path} have not been made or labelled yet{_or_numbered(reader)} and are left out; "
            "rerun the same command later to add them."
        )

    target.mkdir(parents=True, exist_ok=True)
    sweep_partials(target)
    parts = _parts(ids, export.part_images)
    work = {number: part for number, part in parts.items() if not state.is_done(export.part_name(number), part)}
    todo = {number: export.to_do(number, part) for number, part in work.items()}
    written = sum(map(len, todo.values()))
    state.save(len(ids))
    with display.task("export", len(ids), len(ids) - written) as advance:
        _write_parts(export, reader, {n: t for n, t in todo.items() if len(t)}, parts, state, options, advance)
    state.save(len(ids))
    for text in export.notices(ids):
        display.notice(text)
    for name, text in export.side_files().items():
        write_file(target / name, text.encode())
    facts = {**state.description, "images": len(ids), "data_files": export.data_files()}
    write_file(target / CARD_FILE, export_card(store, facts).encode())
    return Exported(folder, options.format, len(ids), written, len(missing))


def _write_parts(
    export: Export,
    reader: SampleReader,
    todo: dict[int, np.ndarray],
    parts: dict[int, np.ndarray],
    state: ExportState,
    options: ExportOptions,
    advance: Callable[[int], None],
) -> None:
    """Parts in parallel, one a thread. The first failure, or Ctrl-C, ends them all at their next block."""
    stopping, advancing = threading.Event(), threading.Lock()

    def locked_advance(count: int) -> None:
        with advancing:
            advance(count)

    def samples(ids: np.ndarray) -> Iterator[list[Sample]]:
        for block in reader(ids):
            if stopping.is_set():
                raise _Stopped
            yield block

    def write(number: int) -> None:
        if stopping.is_set():
            return
        export.write(number, samples(todo[number]), locked_advance)
        state.note(export.part_name(number), parts[number])

    with ThreadPoolExecutor(options.workers or default_cpu_threads()) as threads:
        try:
            done = wait([threads.submit(write, number) for number in todo], return_when=FIRST_EXCEPTION)
            for future in done.done:
                future.result()
        finally:
            stopping.set()


class _Stopped(Exception):
    """Another thread has failed: its error is the one to report."""


def _description(
    store: Store,
    ids: np.ndarray,
    reader: SampleReader,
    judge: LabelSet | None,
    export: Export,
    options: ExportOptions,
) -> dict[str, Any]:
    """Everything that determines the contents of the files."""
    judged = None
    if options.select is not None:
        judged = {"by": judge and judge.identity, "rule": str(selection_of(store, options.select))}
    description = {"format": options.format, "store": store.lineage_of(ids), "jpeg": options.jpeg, "select": judged}
    if options.format == "imagefolder":
        return description
    return {
        **description,
        "labels": {label_set.name: label_set.identity for label_set in reader.label_sets},
        "views": options.views,
        "dtype": options.dtype,
        "shard_images": export.part_images,
        # Without columns as exports were described before there were any.
        **({"columns": {column.name: column.identity for column in reader.columns}} if reader.columns else {}),
    }


def _reader(store: Store, options: ExportOptions) -> SampleReader:
    """What to read of each image, after checking the options for it."""
    for option, value, known in (
        ("--format", options.format, FORMATS),
        ("--views", options.views, (FIRST, ALL)),
        ("--dtype", options.dtype, ("float16", "float32")),
    ):
        if value not in known:
            raise UsageError(f"{option} must be {' or '.join(known)}, not {value!r}.")
    for option in ("images", "shard_images", "workers"):
        count = getattr(options, option)
        if count is not None and count < 1:
            raise UsageError(f"--{option.replace('_', '-')} must be at least 1, not {count}.")
    if options.images is not None and options.images > store.num_images:
        raise UsageError(f"{store.path} has {store.num_images:,} images, so --images can't be {options.images:,}.")
    if options.format == "imagefolder":
        _refuse_logits(options)
        return SampleReader(store, [], [], ImageFormat(options.jpeg))
    columns = _columns(store, options.columns)
    return SampleReader(
        store, _label_sets(store, options.labels), columns, ImageFormat(options.jpeg), options.views, options.dtype
    )


def _refuse_logits(options: ExportOptions) -> None:
    """Refuse options about logits where none are written."""
    named = options.labels not in (None, "none") and options.select is None
    if options.columns not in (None, "none"):
        raise UsageError("An image folder holds no columns: leave --columns out, or export as webdataset or parquet.")
    if named or options.views != FIRST or options.dtype != "float16":
        raise UsageError(
            "An image folder holds no logits: leave --labels, --views and --dtype out (with --select, --labels names the "
            "teacher whose opinion counts), or export as webdataset or parquet."
        )


def _label_sets(store: Store, names: str | None) -> list[LabelSet]:
    """The ones named, in that order; without names all that have labels. Raises ``UsageError``."""
    there = store.labels
    if names is None:
        return [label_set for label_set in there.values() if label_set.fitted]
    wanted = [] if names == "none" else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in there]:
        raise UsageError(f"{store.path} has no label set {unknown[0]!r}; it has {', '.join(there) or 'none'}.")
    return [there[name] for name in dict.fromkeys(wanted)]


def _columns(store: Store, names: str | None) -> list[Column]:
    """The ones named, in that order; without names all. Raises ``UsageError``."""
    if names is None:
        return list(store.columns.values())
    wanted = [] if names == "none" else [name.strip() for name in names.split(",")]
    return [store.column(name) for name in dict.fromkeys(wanted)]


def _or_numbered(reader: SampleReader) -> str:
    """What else images may lack, for a notice."""
    return f" (or have no numbers in {', '.join(column.name for column in reader.columns)})" if reader.columns else ""


def _judge(store: Store, label_sets: Sequence[LabelSet], options: ExportOptions) -> LabelSet | None:
    """The label set whose teacher's opinion ``--select`` goes by: the first one named, or the only one."""
    if options.select is None:
        return None
    if not selection_of(store, options.select).needs_teacher:
        return None
    candidates = _label_sets(store, options.labels) if not label_sets else list(label_sets)
    if not candidates:
        raise UsageError("--select needs a teacher's opinion of the images: choose one with --labels.")
    if options.labels is None and len(candidates) > 1:
        names = ", ".join(label_set.name for label_set in candidates)
        raise UsageError(
            f"--select uses one teacher's opinion, but {store.path} has several: name label sets with --labels; the "
            f"first one counts ({names})."
        )
    return candidates[0]


def _target(folder: str) -> Path:
    """The folder to write to. Raises ``UsageError`` if it can't be used."""
    if locations.scheme(folder):
        raise UsageError(f"--to must be a local folder, not {folder}: export to a disk, then copy the files.")
    target = Path(folder).expanduser()
    if target.exists() and not target.is_dir():
        raise UsageError(f"{folder} is a file: give a folder with --to.")
    if any((above / "zarr.json").exists() for above in [target.absolute(), *target.absolute().parents]):
        raise UsageError(f"{folder} is inside a store, which holds only its own arrays: give another folder with --to.")
    if target.is_dir() and any(target.iterdir()) and not (target / STATE_FILE).exists():
        raise UsageError(f"{folder} is not empty and holds no export: give an empty or new folder with --to.")
    return target


def _export(store: Store, target: Path, reader: SampleReader, options: ExportOptions) -> Export:
    if options.format == "imagefolder":
        if options.shard_images is not None:
            raise UsageError("--shard-images is for webdataset and parquet; an image folder has no shards.")
        return ImageFolderExport(store, target, reader.image_format)
    shard_images = options.shard_images or default_shard_images(store)
    if options.format == "webdataset":
        from dmkd.formats.webdataset import WebDatasetExport

        return WebDatasetExport(target, reader.image_format, shard_images)
    from dmkd.formats.parquet import ParquetExport

    return ParquetExport(target, reader, shard_images)


def default_shard_images(store: Store) -> int:
    """Ids a shard: as many whole blocks as 256 MB of raw pixels or 8192 images allow, and at least one."""
    image_bytes = int(np.prod(store.image_shape))
    blocks = min(SHARD_BYTES // image_bytes, SHARD_IMAGES) // store.block_size
    return max(1, blocks) * store.block_size


def _chosen_ids(
    store: Store, reader: SampleReader, judge: LabelSet | None, options: ExportOptions
) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Ids that can be written and were chosen, ascending; the requested ids that are missing; what to say of a selection."""
    needed: list[LabelSet | Column] = [*reader.label_sets, *([judge] if judge else []), *reader.columns]
    absent = set(store.missing_blocks()).union(*(rows.missing_blocks() for rows in needed))
    asked = np.arange(options.images or store.num_images)
    is_missing = np.isin(asked // store.block_size, sorted(absent))
    ids, missing = asked[~is_missing], asked[is_missing]
    if not len(ids):
        raise UsageError(
            f"{store.path} has no finished block yet of what was asked for (images"
            f"{''.join(f', {rows.name}' for rows in needed)}): nothing to export."
        )
    if options.select is None:
        return ids, missing, None
    chosen = selected(store, selection_of(store, options.select), ids, judge)
    if not chosen.any():
        raise UsageError(f"--select {options.select!r} leaves none of the {len(ids):,} images of {store.path}.")
    return ids[chosen], missing, selection_notice(options.select, store.class_ids[ids], chosen, store.class_names)


def _parts(ids: np.ndarray, part_images: int) -> dict[int, np.ndarray]:
    """Part number -> its ids."""
    numbers, starts = np.unique(ids // part_images, return_index=True)
    return dict(zip(numbers.tolist(), np.split(ids, starts[1:]), strict=True))
