"""Teachers for images of given classes: which of a classifier's outputs are these classes, found by name where it has names."""

from collections.abc import Callable

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.sources import parse_classifier
from dmkd.recipes.class_list import NUM_IMAGENET, ClassList, imagenet_classes
from dmkd.recipes.class_names import first_synonym
from dmkd.stores import LabelSet
from dmkd.stores.errors import UsageError

NAMES_TOLD = 3  # of classes that a teacher does not know


def load_teacher(
    source: str, classes: ClassList, images: str, load: Callable[[str], Classifier] = load_classifier
) -> Classifier:
    """A classifier, by ``load``, that labels images of these classes. ``images``: "generator tiny makes" or "s.zarr has", for
    the message.

    Raises what ``load`` and :func:`of_classes` do: before anything is downloaded where timm knows how many classes it has."""
    meant = parse_classifier(source)
    if (known := meant.kind.known_classes(meant)) is not None:
        _outputs(source, known, None, classes, images)
    return of_classes(load(source), classes, images)


def of_classes(teacher: Classifier, classes: ClassList, images: str) -> Classifier:
    """A teacher for these classes: as it is where it has them in this order, or those of its outputs that are these classes.

    They are found by WordNet id or by name, in a nameless teacher of 1000 classes as ImageNet's; where its names say nothing, by
    number: of as many classes, or of as many as the generator has whose classes these are some of. Raises ``UsageError`` if it
    does not know all of them.
    """
    known = classes_of_classifier(teacher)
    return teacher.only(_outputs(teacher.source, teacher.num_classes, known, classes, images))


def teacher_of_labels(
    label_set: LabelSet, device: str = "cpu", load: Callable[..., Classifier] = load_classifier
) -> Classifier:
    """The teacher of a label set, with the outputs and in the precision that it has there. Raises what ``load`` does."""
    return load(label_set.source, device=device, precision=label_set.precision).only(label_set.outputs)


def classes_of_classifier(classifier: Classifier) -> ClassList | None:
    """What a classifier's classes are called; None: that is not known."""
    if not classifier.class_names:
        return imagenet_classes() if classifier.num_classes == NUM_IMAGENET else None
    return ClassList(tuple(classifier.class_names), tuple(classifier.wnids) if classifier.wnids else None)


def _outputs(
    source: str, count: int, known: ClassList | None, classes: ClassList, images: str
) -> tuple[int, ...] | None:
    """Which of ``count`` outputs, ``known`` by these names, are these classes; None: all, in order."""
    if known is None and count == NUM_IMAGENET:
        known = imagenet_classes()
    found = [None] * len(classes) if known is None else classes.places_in(known)
    here = [place for place in found if place is not None]
    if count == len(classes) and all(place in (None, number) for number, place in enumerate(found)):
        return None
    if len(here) == len(classes):
        return tuple(here)
    if not here and classes.chosen_from is not None and count == classes.chosen_from[1]:
        return classes.chosen_from[0]
    if not here:
        raise UsageError(
            f"Teacher {source} knows {count:,} classes and {images} {len(classes):,}: use a teacher of the same classes, "
            "or none (--teacher none)."
        )
    absent = [first_synonym(name) for name, place in zip(classes.names, found, strict=True) if place is None]
    told = f"{', '.join(absent[:NAMES_TOLD])}{', …' if len(absent) > NAMES_TOLD else ''}"
    raise UsageError(
        f"Teacher {source} does not know {len(absent):,} of the {len(classes):,} classes that {images} ({told}): use one that "
        "knows them, or none (--teacher none)."
    )
