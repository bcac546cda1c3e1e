"""Labelled image files that exist already: where they are, their classes, and what they are called.

Three layouts are known, and recognised by what is there:

- ``image folder``: one folder of images a class, nested as you like. The class id is the folder's place in sorted
  order, the class name its name.
- ``dm-kd``: files named ``class_<id>_seed_<n>_num_<k>.png``, as DM-KD's authors released theirs, in one folder or many.
- ``webdataset``: tar files whose members ``<key>.jpg`` (or .png, .webp, .bmp, ...) and ``<key>.cls`` (or .json with "label"
  or "class") belong together.

Names that start with a dot are skipped.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmkd.runtime.progress import Display
from dmkd.stores.errors import UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
MAX_CLASSES = 1_000_000  # an id beyond this is a mistake, and would need a list of names as long
TAR_IMAGE_SUFFIXES = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)

_DM_KD_NAME = re.compile(r"class_(\d+)_seed_\d+_num_\d+\.\w+", re.IGNORECASE)
_RANGE_OR_LIST = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]*(?:,[^{},]*)+))\}")
# As the WebDataset format defines it: the key ends at the first dot of the last part of the path.
_KEY_AND_SUFFIX = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image. ``container`` is the source's folder, or the tar file, where the bytes start at ``offset``."""

    name: str  # relative to the source, with /
    class_id: int
    size: int  # bytes
    container: str
    offset: int | None = None


@dataclass(frozen=True)
class ImageSource:
    """What was found: files sorted by name, and the names of the classes."""

    path: str
    layout: str
    files: Sequence[ImageFile]
    class_names: list[str]
    notes: list[str] = field(default_factory=list)  # what the user should know


@dataclass(frozen=True)
class Classes:
    """What the user gave about classes: their names, their number, or nothing."""

    names: tuple[str, ...] | None = None
    count: int | None = None


def find_images(source: str, classes: Classes, display: Display) -> ImageSource:
    """Find out what ``source`` is and list its images. Nothing is decoded.

    Raises ``UsageError`` if it has none of the layouts, several at once, or is empty.
    """
    if classes.names is not None and classes.count not in (None, len(classes.names)):
        raise UsageError(
            f"--classes {classes.count} and --class-names ({len(classes.names)} names) contradict each other."
        )
    if classes.count is not None and classes.count < 1:
        raise UsageError(f"--classes must be at least 1, not {classes.count}.")
    path = Path(source).expanduser()
    if not path.exists() and "{" in source:
        return _list_tars(source, [Path(tar).expanduser() for tar in expand_braces(source)], classes, display)
    if path.is_file():
        if path.suffix.lower() != ".tar":
            raise UsageError(f"{source} is a file but not a .tar: give a folder of images, or WebDataset tar files.")
        return _list_tars(source, [path], classes, display)
    if not path.is_dir():
        raise UsageError(f"There is nothing to import at {source}.")
    images, tars = [], []
    for name, size in _walk(path):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            images.append((name, size))
        elif suffix == ".tar":
            tars.append(path / name)
    if images and tars:
        raise UsageError(
            f"{source} holds both images ({images[0][0]}) and tar files ({tars[0].name}): "
            "import one kind at a time, each from its own folder."
        )
    if tars:
        return _list_tars(source, tars, classes, display)
    if not images:
        raise UsageError(f"{source} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no .tar files.")
    named = [name for name, _ in images if _DM_KD_NAME.fullmatch(os.path.basename(name))]
    if len(named) == len(images):
        return _list_dm_kd(source, path, images, classes)
    if named:
        other = next(name for name, _ in images if not _DM_KD_NAME.fullmatch(os.path.basename(name)))
        raise UsageError(
            f"{source} is ambiguous: {named[0]} is named like DM-KD's images (class_<id>_seed_<n>_num_<k>) but {other} "
            "is not: import each kind from its own folder."
        )
    return _list_image_folder(source, path, images, classes)


def check_data(source: str) -> None:
    """Raise ``UsageError`` if there is nothing to measure on at ``source``: a folder of class folders, WebDataset tars, a store
    or ``digits``. What is there is looked at later."""
    if source != "digits" and not any(mark in source for mark in ("://", "{")) and not Path(source).exists():
        raise nothing_to_measure_on(source)


def nothing_to_measure_on(source: str) -> UsageError:
    """What to raise where ``source`` holds no labelled images."""
    return UsageError(
        f"There is nothing to evaluate on at {source}: give a folder of class folders, WebDataset tars, a store or 'digits'."
    )


def files_sha256(files: Sequence[ImageFile]) -> str:
    """sha256, as hex digits, of names, sizes in bytes and class ids: identifies the source."""
    digest = hashlib.sha256()
    for file in files:
        line = f"{file.name}\0{file.size}\0{file.class_id}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_bytes(file: ImageFile, limit: int | None = None, start: int = 0) -> bytes:
    """The file's bytes from ``start`` on, or ``limit`` of them. Raises ``UsageError`` if they are no longer as listed."""
    tar = file.offset is not None
    path = file.container if tar else os.path.join(file.container, file.name)
    wanted = file.size - start if limit is None else min(limit, file.size - start)
    try:
        with open(path, "rb") as opened:
            opened.seek((file.offset or 0) + start)
            data = opened.read(wanted)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error
    if len(data) != wanted:
        raise UsageError(f"{path} has become shorter since it was listed: restore it and start again.")
    return data


def expand_braces(pattern: str) -> list[str]:
    """``a-{08..10}.tar`` -> ``a-08.tar``, ``a-09.tar``, ``a-10.tar``; ``{x,y}`` too. Like a shell."""
    found = _RANGE_OR_LIST.search(pattern)
    if not found:
        return [pattern]
    first, last, listed = found.groups()
    if listed is not None:
        parts = listed.split(",")
    else:
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        parts = [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [head + part + rest for part in parts for rest in expand_braces(tail)]


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    """(name relative to ``root``, bytes) of all files below, in no particular order. Links are followed, but not in circles."""

    def below(folder: str, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, int]]:
        above |= {os.path.realpath(folder)}
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if not (entry.is_symlink() and os.path.realpath(entry.path) in above):
                        yield from below(entry.path, f"{prefix}{entry.name}/", above)
                elif entry.is_file():
                    yield prefix + entry.name, entry.stat().st_size

    try:
        yield from below(str(root), "", frozenset())
    except OSError as error:
        raise UsageError(f"{error.filename or root} can't be listed: {error.strerror or error}.") from error


def _list_dm_kd(source: str, root: Path, images: list[tuple[str, int]], classes: Classes) -> ImageSource:
    files = []
    for name, size in sorted(images):
        match = _DM_KD_NAME.fullmatch(os.path.basename(name))
        assert match
        files.append(ImageFile(name, int(match[1]), size, str(root)))
    return ImageSource(source, "dm-kd", files, _numbered_classes(source, files, classes))


def _list_image_folder(source: str, root: Path, images: list[tuple[str, int]], classes: Classes) -> ImageSource:
    loose = [name for name, _ in images if "/" not in name]
    if loose:
        raise UsageError(
            f"{source} has images outside of class folders ({loose[0]}, {len(loose)} in all): give one folder of images "
            "a class, or files named class_<id>_seed_<n>_num_<k>.png."
        )
    folders = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.is_dir()
        and not entry.name.startswith(".")
        and not (entry / "zarr.json").exists()  # a store is not a class
    )
    numbers, names = _number_folders(source, folders, classes)
    files = [ImageFile(name, numbers[name.split("/", 1)[0]], size, str(root)) for name, size in sorted(images)]
    empty = sorted(set(folders) - {name.split("/", 1)[0] for name, _ in images})
    notes = [f"Class folders without images: {', '.join(empty[:5])}{' …' if len(empty) > 5 else ''}."] if empty else []
    return ImageSource(source, "image folder", files, names, notes)


def _number_folders(source: str, folders: list[str], classes: Classes) -> tuple[dict[str, int], list[str]]:
    """Class id of each folder, and all class names.

    By default folders are numbered in sorted order. If classes are named or counted, folders called by class name or id
    are matched by that; others must be as many as the classes.
    """
    if classes.names is None and classes.count is None:
        return {folder: number for number, folder in enumerate(folders)}, folders
    names = list(classes.names or ())
    count = len(names) or classes.count or 0
    by_name: dict[str, int] = {}
    for synonyms in ([[name] for name in names], [[part.strip() for part in name.split(",")] for name in names]):
        for number, group in enumerate(synonyms):
            for name in group:
                by_name.setdefault(name, number)  # a whole name takes precedence over a synonym
    if names and all(folder in by_name for folder in folders):
        return {folder: by_name[folder] for folder in folders}, names
    if all(_is_number(folder) and int(folder) < count for folder in folders):
        return {folder: int(folder) for folder in folders}, names or _placeholder_names(count)
    if len(folders) == count:
        return {folder: number for number, folder in enumerate(folders)}, names or folders
    raise UsageError(
        f"{source} has {len(folders)} class folders but {count} classes were given: name the folders by class name or "
        "class id, have one for every class, or leave --classes and --class-names out."
    )


def _numbered_classes(source: str, files: Sequence[ImageFile], classes: Classes) -> list[str]:
    """Class names where the files give only ids. Raises ``UsageError`` if an id is beyond the classes."""
    last = max(files, key=lambda file: file.class_id)
    if last.class_id >= MAX_CLASSES:
        raise UsageError(
            f"{last.name} in {source} is of class {last.class_id:,}: class ids must be below {MAX_CLASSES:,}."
        )
    count = len(classes.names or ()) or classes.count or last.class_id + 1
    if last.class_id >= count:
        raise UsageError(
            f"{last.name} in {source} is of class {last.class_id}, but there are {count} classes (0 to {count - 1}): "
            "give more with --classes or --class-names."
        )
    return list(classes.names or _placeholder_names(count))


def _placeholder_names(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _list_tars(source: str, tars: list[Path], classes: Classes, display: Display) -> ImageSource:
    if not tars:
        raise UsageError(f"{source} matches no file: ranges run upwards, such as {{000..009}}.")
    if other := [tar for tar in tars if tar.suffix.lower() != ".tar"]:
        raise UsageError(f"{other[0]} is not a .tar file; WebDataset shards are plain tar files.")
    if absent := [tar for tar in tars if not tar.is_file()]:
        raise UsageError(
            f"{len(absent)} of the {len(tars)} tar files of {source} are missing, the first is {absent[0]}."
        )
    parent = os.path.commonpath([tar.parent.absolute() for tar in tars])
    files: list[ImageFile] = []
    unpaired = 0
    with display.task("list", len(tars), unit="tars") as advance:
        for tar in tars:
            found, without_image = _list_tar(tar, os.path.relpath(tar.absolute(), parent))
            files += found
            unpaired += without_image
            advance(1)
    if not files:
        raise UsageError(f"The tar files of {source} hold no images ({', '.join(TAR_IMAGE_SUFFIXES)}).")
    files.sort(key=lambda file: file.name)
    notes = [f"{unpaired} samples of {source} have no image and are skipped."] if unpaired else []
    return ImageSource(source, "webdataset", files, _numbered_classes(source, files, classes), notes)


def _list_tar(path: Path, name: str) -> tuple[list[ImageFile], int]:
    """Images of one tar file, and how many of its samples have none. Reads headers and labels, no pixels."""
    images: dict[str, tuple[str, int, int]] = {}  # key -> member's name, bytes, offset
    class_ids: dict[str, tuple[str, int]] = {}  # key -> the suffix that it came from, class id
    keys: set[str] = set()
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # kept for access by name: a kilobyte a member
                match = _KEY_AND_SUFFIX.fullmatch(member.name.removeprefix("./"))
                if not match or not member.isreg() or member.issparse():
                    continue
                key, suffix = match[1], match[2].lower()
                keys.add(key)
                if suffix in TAR_IMAGE_SUFFIXES:
                    if key in images:
                        raise UsageError(
                            f"Sample {key} of {path} has two images ({images[key][0]} and {member.name}): "
                            "it is unclear which one is meant."
                        )
                    images[key] = (member.name, member.size, member.offset_data)
                elif suffix in ("cls", "json") and class_ids.get(key, ("",))[0] != "cls":  # .cls wins
                    text = tar.extractfile(member)
                    class_id = None if text is None else _read_class_id(text.read(), suffix, member.name, path)
                    if class_id is not None:
                        class_ids[key] = (suffix, class_id)
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"{path} can't be read as a tar file ({error}).") from error
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error
    if without := [member for key, (member, _, _) in images.items() if key not in class_ids]:
        raise UsageError(
            f"{without[0]} in {path} has no class ({len(without)} images there have none): a sample needs a .cls file "
            'with the class id, or a .json with "label" or "class".'
        )
    files = [
        ImageFile(f"{name}/{member}", class_ids[key][1], size, str(path), offset)
        for key, (member, size, offset) in images.items()
    ]
    return files, len(keys) - len(images)


def _read_class_id(data: bytes, suffix: str, member: str, path: Path) -> int | None:
    """The class id in a .cls or .json member; None if a .json has no such field. Raises ``UsageError``."""
    try:
        value: Any = data.decode().strip()
        if suffix == "json":
            fields = json.loads(value)
            value = next((fields[name] for name in ("label", "class") if name in fields), None)
            if value is None:
                return None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{member} in {path} can't be read: {error}.") from error
    if isinstance(value, bool) or not _is_number(str(value)):
        raise UsageError(f"{member} in {path} must hold a class id (0, 1, 2 …), not {str(value)[:40]!r}.")
    return int(value)
