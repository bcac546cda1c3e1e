"""Teachers for images of given classes: which of a classifier's outputs are these classes, found by name where it has names."""

from collections.abc import Callable, Sequence

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.sources import parse_classifier
from dmkd.recipes.class_list import NUM_IMAGENET, ClassList, classes_of, imagenet_classes
from dmkd.recipes.class_names import first_synonym, names_sha256
from dmkd.recipes.zero_shot import ClassPrompts, class_prompts
from dmkd.stores import LabelSet, Store
from dmkd.stores.errors import MismatchError, UsageError

NAMES_TOLD = 3  # of classes that a teacher does not know


def load_teacher(
    source: str,
    classes: ClassList,
    images: str,
    load: Callable[..., Classifier] = load_classifier,
    templates: Sequence[str] | None = None,
) -> Classifier:
    """A classifier, by ``load``, that labels images of these classes; ``templates``: for one that is made of words. ``images``:
    "generator tiny makes" or "s.zarr has", for the message.

    Raises what ``load`` and :func:`of_classes` do: before anything is downloaded where timm knows how many classes it has."""
    meant = parse_classifier(source)
    if (known := meant.kind.known_classes(meant)) is not None:
        _outputs(source, known, None, classes, images)
    if meant.kind.of_words:
        return load(source, prompts=class_prompts(classes, templates, images))
    return of_classes(load(source), classes, images)


def of_classes(teacher: Classifier, classes: ClassList, images: str) -> Classifier:
    """A teacher for these classes: as it is where it has them in this order, or those of its outputs that are these classes.

    They are found by WordNet id or by name, in a nameless teacher of 1000 classes as ImageNet's; where its names say nothing, by
    number: of as many classes, or of as many as the generator has whose classes these are some of. Raises ``UsageError`` if it
    does not know all of them.
    """
    known = classes_of_classifier(teacher)
    return teacher.only(_outputs(teacher.source, teacher.num_classes, known, classes, images))


def teacher_of_labels(store: Store, label_set: LabelSet, device: str = "cpu") -> Classifier:
    """The teacher of a label set, with the prompts, the outputs and in the precision that it has there. Raises what
    :func:`load_classifier` and :func:`prompts_of_labels` do."""
    prompts = prompts_of_labels(store, label_set)
    return load_classifier(label_set.source, device=device, precision=label_set.precision, prompts=prompts).only(
        label_set.outputs
    )


def prompts_of_labels(store: Store, label_set: LabelSet) -> ClassPrompts | None:
    """What the teacher of a label set was made of, if it was of words: the store's class names, in templates. Raises
    ``MismatchError`` if they were others."""
    recorded = label_set.teacher.get("prompts")
    if recorded is None:
        return None
    if names_sha256(store.class_names) != recorded["class_names_sha256"]:
        raise MismatchError(
            f"The class names of {store.path} have changed since label set {label_set.name!r} was begun, whose teacher is made "
            "of them: bring the old names back, or label under another --name."
        )
    return ClassPrompts(classes_of(store), tuple(recorded["templates"]))


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
