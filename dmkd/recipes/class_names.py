"""Class names: where they come from, and how they are hashed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dmkd.stores.errors import UsageError

IMAGENET = "imagenet"


def read_class_names(path: str) -> tuple[str, ...]:
    """A text file, one class name a line, line 1 being class 0. Raises ``UsageError``."""
    try:
        lines = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--class-names: {path} can't be read: {reason}.") from error
    if not lines:
        raise UsageError(f"--class-names: {path} is empty; it needs one class name a line.")
    if "" in lines:
        raise UsageError(
            f"--class-names: line {lines.index('') + 1} of {path} is empty; it needs one class name a line."
        )
    return tuple(lines)


def class_names_from(source: str | Sequence[str]) -> tuple[str, ...]:
    """The names of ``imagenet``'s 1000 classes, as timm lists them, or those in a text file, one a line, or the names given.

    Raises ``UsageError`` if the file can't be read, or if a name begins with a comma.
    """
    if not isinstance(source, str):
        return tuple(source)
    if source.lower() == IMAGENET:
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return tuple(info.index_to_description(number) for number in range(info.num_classes()))
    names = read_class_names(source)
    for line, name in enumerate(names, 1):
        if not first_synonym(name):
            raise UsageError(f"--class-names: line {line} of {source} has no name before its first comma.")
    return names


def first_synonym(class_name: str) -> str:
    """``"tench, Tinca tinca"`` -> ``"tench"``."""
    return class_name.split(",")[0].strip()


def names_sha256(class_names: Sequence[str]) -> str:
    """The sha256, 64 hex digits, of class names in order, each followed by a line feed."""
    return hashlib.sha256("".join(f"{name}\n" for name in class_names).encode()).hexdigest()


def classes_written_alike(class_names: Sequence[str]) -> list[tuple[int, ...]]:
    """Classes that a prompt can't tell apart, because their first synonyms are the same: groups of class ids."""
    groups: dict[str, list[int]] = {}
    for class_id, name in enumerate(class_names):
        groups.setdefault(first_synonym(name).lower(), []).append(class_id)
    return [tuple(group) for group in groups.values() if len(group) > 1]
