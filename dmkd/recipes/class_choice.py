"""How a user picks some classes: ``0-9,207``, ``golden retriever``, ``n02099601``, or a file of such words, one a line."""

import os
from collections.abc import Iterator
from pathlib import Path

from dmkd.recipes.class_list import ClassList, is_wnid
from dmkd.recipes.class_names import first_synonym
from dmkd.runtime.spelling import nearest_names
from dmkd.stores.errors import UsageError


def parse_classes(text: str, classes: ClassList) -> tuple[int, ...]:
    """Class ids, ascending, of what ``--classes`` says: parts between commas, or the lines of a file (``@FILE``, or its path).

    A part is an id, a range of ids, a WordNet id, or a class name: the whole name or one of its synonyms. Between commas stand
    synonyms only; a line is a whole name, with its commas, or a WordNet id and whatever follows it. Raises ``UsageError`` for a
    part that names no class, or more than one, and for a class that is named twice.
    """
    chosen: dict[int, str] = {}
    for part in class_parts(text):
        for class_id in _meant(part, classes):
            if class_id in chosen:
                raise UsageError(
                    f"--classes names class {class_id} ({first_synonym(classes.names[class_id])}) twice: {chosen[class_id]!r} "
                    f"and {part!r}."
                )
            chosen[class_id] = part
    return tuple(sorted(chosen))


def class_parts(text: str) -> list[str]:
    """The parts of what ``--classes`` says. Raises ``UsageError`` if there are none, or a file can't be read."""
    is_file = text.startswith("@") or text.endswith(".txt") or os.path.isfile(text)
    file = text.removeprefix("@") if is_file else None
    parts = [part.strip() for part in (text.split(",") if file is None else _lines(file))]
    if not (parts := list(filter(None, parts))):
        raise UsageError("--classes names no class.")
    return parts


def _lines(file: str) -> list[str]:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--classes: {file} can't be read: {getattr(error, 'strerror', None) or error}.") from error


def _meant(part: str, classes: ClassList) -> Iterator[int]:
    first, dash, last = part.partition("-")
    if part.isdecimal():
        first, last = part, part
    if first.isdecimal() and last.isdecimal() and int(first) <= int(last) and (dash or part.isdecimal()):
        if int(last) >= len(classes):
            raise UsageError(
                f"--classes: the generator has classes 0 to {len(classes) - 1}; there is no class {int(last)}."
            )
        yield from range(int(first), int(last) + 1)
        return
    word = part.split()[0]
    found = classes.find(part) or (classes.find(word) if is_wnid(word) else ())
    if not found:
        synonyms = [name.strip() for whole in classes.names for name in whole.split(",")]
        raise UsageError(
            f"--classes: {part!r} is not a class id, range or class name of this generator"
            f"{nearest_names(part, synonyms) or '.'}"
        )
    if len(found) > 1:
        raise UsageError(f"--classes: {part!r} may be class {' or '.join(map(str, found))}: name it by its number.")
    yield from found
