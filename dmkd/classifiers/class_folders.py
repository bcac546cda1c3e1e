"""Which folders of images are which of a classifier's classes: found by WordNet id, by name, by number, or by their order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.teachers import classes_of_classifier
from dmkd.formats.find import IMAGE_SUFFIXES
from dmkd.recipes.class_list import ClassList, is_wnid
from dmkd.recipes.class_names import first_synonym
from dmkd.stores import UsageError

NAMES_TOLD = 3


def list_image_folder(root: Path, classifier: Classifier) -> tuple[list[Path], np.ndarray, list[str]]:
    """Image files below one folder a class, the class id of each, int64 (n,), and what the user should know, in sentences.

    Folders that bear a class's WordNet id, its name or a synonym are that class's, and others are left out. Folders that bear
    numbers must be class ids, all of them. Otherwise the folders in sorted order must be as many as the classes (WordNet ids sort
    in ImageNet's order). Raises ``UsageError`` if none of this holds, or if there are no images.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UsageError(f"{root} has no class folders (one folder of images for each class).")
    classes = classes_of_classifier(classifier)
    numbers = _class_ids([folder.name for folder in folders], classes, classifier.num_classes)
    if not any(number is not None for number in numbers):
        raise UsageError(
            f"{root} has {len(folders)} class folders and {classifier.source} knows {classifier.num_classes} classes: "
            "name the folders by class name or class id, or evaluate on a folder with every class."
        )
    files: list[Path] = []
    class_ids: list[int] = []
    for folder, number in zip(folders, numbers, strict=True):
        if number is not None:
            found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            files += found
            class_ids += [number] * len(found)
    if not files:
        raise UsageError(f"The class folders of {root} hold no images ({', '.join(IMAGE_SUFFIXES)}).")
    others = numbers.count(None)
    notices = (
        [f"{others:,} of {len(folders):,} folders of {root} are of other classes and are left out."] if others else []
    )
    names = classes.names if classes is not None else tuple(map(str, range(classifier.num_classes)))
    return files, np.array(class_ids, np.int64), [*notices, *absent_classes(str(root), names, class_ids)]


def absent_classes(source: str, names: Sequence[str], class_ids: Sequence[int] | np.ndarray) -> list[str]:
    """A sentence on the classes of which there are no images, if there are any."""
    absent = sorted(set(range(len(names))) - set(np.unique(class_ids).tolist()))
    if not absent:
        return []
    told = ", ".join(first_synonym(names[number]) for number in absent[:NAMES_TOLD])
    more = ", …" if len(absent) > NAMES_TOLD else ""
    return [f"{source} has no images of {len(absent):,} of the {len(names):,} classes ({told}{more})."]


def _class_ids(folders: Sequence[str], classes: ClassList | None, count: int) -> list[int | None]:
    """The class of each folder, given in sorted order; None: of another class, or not known."""
    meant = [classes.find(folder) if classes is not None else () for folder in folders]
    found = [ids[0] if len(ids) == 1 else None for ids in meant]
    known = any(number is not None for number in found)
    if not known and all(folder.isdecimal() and int(folder) < count for folder in folders):
        return [int(folder) for folder in folders]
    in_order = len(folders) == count and all(number in (None, place) for place, number in enumerate(found))
    by_wnid = classes is not None and classes.wnids is not None and all(map(is_wnid, folders))
    return list(range(count)) if in_order and not by_wnid else found
