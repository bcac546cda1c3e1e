"""The classes that images to evaluate on have: what a zero-shot classifier is told where it is told no others."""

from pathlib import Path

from dmkd.recipes.class_list import ClassList, classes_of, imagenet_classes
from dmkd.stores import UsageError, open_store, store_exists


def classes_of_data(source: str) -> ClassList:
    """The names of a store's classes, or of class folders in their sorted order; folders that bear WordNet ids of ImageNet are
    called by its names. ``source`` as :func:`dmkd.classifiers.evaluation_data.list_evaluation` takes it. Raises ``UsageError``
    for tars, which name none."""
    if source == "digits":
        return ClassList(tuple(map(str, range(10))))
    if store_exists(source):
        return classes_of(open_store(source))
    folders = ClassList(tuple(sorted(p.name for p in Path(source).glob("*/") if p.is_dir() and p.name[0] != ".")))
    if not folders.names:
        raise UsageError(f"{source} names no classes: give --class-names, a file with one name a line, or imagenet.")
    if folders.wnids != folders.names:
        return folders
    imagenet = imagenet_classes()
    return imagenet.subset([place for place in folders.places_in(imagenet) if place is not None])
