"""What is to be labelled: which teachers, which views, under which names. Metadata only; no block is touched."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dmkd.classifiers.classifier import Classifier, linear_head
from dmkd.classifiers.teachers import of_classes
from dmkd.generators.defaults import DM_KD_DEFAULTS
from dmkd.recipes.class_list import classes_of
from dmkd.stores import Codec, Store, UsageError
from dmkd.stores.identity import refuse_mismatch
from dmkd.views.description import ViewDescription
from dmkd.views.policy import ViewsWanted, canonical_box, parse_views


@dataclass(frozen=True)
class LabelRequest:
    """Teachers that have been loaded, and how they are to label. ``None``: as the store has it, or by default."""

    teachers: Sequence[Classifier]
    codec: Codec
    views: str | None = None  # view policy, such as "rrc:8" or "rrc:8,size=32"
    view_seed: int | None = None
    name: str | None = None  # of the label set, if there is one teacher
    default_views: str = DM_KD_DEFAULTS["views"]  # of a store without views


def add_label_sets(store: Store, request: LabelRequest) -> list[str]:
    """Make room for the labels asked for, or find that it is there -> names of the label sets.

    Raises ``UsageError`` if a teacher can't label this store, ``MismatchError`` if a set of that name differs.
    """
    if request.name and len(request.teachers) > 1:
        raise UsageError("--name names one label set, and several teachers were given.")
    teachers = [of_classes(teacher, classes_of(store), f"{store.path} has") for teacher in request.teachers]
    for teacher in teachers:
        _check_codec(request.codec, teacher)
    names = []
    for teacher in teachers:
        views = view_set_for(store, request, teacher)
        if views.name not in store.views:
            store.add_view_set(views.name, views.num_views, views.components, views.to_attributes())
        name = label_set_name(request, teacher, views)
        store.add_label_set(
            name,
            teacher=teacher.to_json(),
            source=teacher.source,
            view_set=views.name,
            codec=request.codec,
            num_classes=teacher.num_classes,
            quality_view=quality_view(teacher, views),
        )
        names.append(name)
    return names


def quality_view(teacher: Classifier, views: ViewDescription) -> dict[str, Any] | None:
    """What a new label set records of the view that its quality is of, the one that its teacher is evaluated at: ``box``
    (fractions of the image), ``size`` (pixels) and ``interpolation``. None: it is the canonical one of its views."""
    box, size = teacher.canonical_box(views.image_size), teacher.input_size
    if (box, size, teacher.interpolation) == (views.canonical, views.size, views.interpolation):
        return None
    return {"box": list(box), "size": size, "interpolation": teacher.interpolation}


def check_request(request: LabelRequest, image_size: tuple[int, int], weights: bool = True) -> None:
    """Refuse, before a store is made, what :func:`add_label_sets` would refuse on the new store.

    ``weights`` False: the teachers have none, so whether logits are linear in their features is not tried."""
    size = parse_views(request.views or request.default_views).size
    for teacher in request.teachers:
        teacher.canonical_box(image_size)
        _check_size(teacher, size or request.teachers[0].input_size)
        if weights or "weight" not in request.codec.needs:
            _check_codec(request.codec, teacher)
    if request.name and len(request.teachers) > 1:
        raise UsageError("--name names one label set, and several teachers were given.")


def _check_size(teacher: Classifier, size: int) -> None:
    if teacher.fixed_input_size and teacher.input_size != size:
        raise UsageError(
            f"Teacher {teacher.source} takes {teacher.input_size}x{teacher.input_size} images only, and the views are "
            f"{size}x{size}: give views of its size, as in --views rrc:8,size={teacher.input_size}, or label with it first."
        )


def _check_codec(codec: Codec, teacher: Classifier) -> None:
    """Refuse a codec that can't write this teacher's labels, before anything is made."""
    if "weight" in codec.needs:
        linear_head(teacher, codec.name)
    elif "sample" not in codec.needs:
        codec.bind(teacher.num_classes, codec.fit(teacher.num_classes))


def view_set_for(store: Store, request: LabelRequest, teacher: Classifier) -> ViewDescription:
    """The view set that a request asks for: the stored one of that name, or one that is still to be made.

    Without a wish it is the store's first one. A new set takes its interpolation and canonical view from the teacher, and
    its size if none was asked for: a teacher is right at about the size that it was trained at, however small the images
    are, and labels are made once. (A student may see the same views at another size.) Teachers that come later look
    at the views as they are: only then do all teachers and the student see the same pixels. The same views at two sizes
    are two sets; the later one has its size in its name.

    Raises ``UsageError`` if the teacher can't look at views of that size, ``MismatchError`` if the set is there and differs.
    """
    views = _view_set_wanted(store, request, teacher)
    _check_size(teacher, views.size)
    return views


def _view_set_wanted(store: Store, request: LabelRequest, teacher: Classifier) -> ViewDescription:
    stored = store.views
    first = next((view_set for view_set in stored.values() if view_set.attributes["first"]), None)
    if request.views is None and first is not None:
        return ViewDescription.of(first)
    wanted = parse_views(request.views or request.default_views)
    seed = store.recipe.get("seed", 0) if request.view_seed is None else request.view_seed
    planned = new_view_set(wanted, seed, first is None, teacher, store.image_shape[:2], store.block_size)
    if planned.name in stored and wanted.size not in (None, stored[planned.name].attributes["size"]):
        planned = replace(planned, name=f"{planned.name}-{wanted.size}px")
    if planned.name not in stored:
        return planned
    found = ViewDescription.of(stored[planned.name])
    refuse_mismatch(
        f"View set {found.name!r} of {store.path}",
        {"policy": found.policy.to_json(), "seed": found.seed},
        {"policy": planned.policy.to_json(), "seed": seed},
        "Leave --views out to use the store's views, or ask for another number of views.",
    )
    return found


def new_view_set(
    wanted: ViewsWanted, seed: int, first: bool, teacher: Classifier, image_size: tuple[int, int], block_size: int
) -> ViewDescription:
    """A view set as this teacher wants it, of the size asked for; ``first``: of a store that has none yet."""
    size = wanted.size or teacher.input_size
    return ViewDescription(
        wanted.policy.name,
        wanted.policy,
        seed,
        first,
        size=size,
        interpolation=teacher.interpolation,
        crop_pct=teacher.crop_pct,
        crop_mode=teacher.crop_mode,
        canonical=canonical_box(image_size, size, teacher.crop_pct, teacher.crop_mode),
        image_size=image_size,
        block_size=block_size,
    )


def label_set_name(request: LabelRequest, teacher: Classifier, views: ViewDescription) -> str:
    """The name asked for, or the teacher's; labels of later views have the views' name added."""
    own = teacher.name if views.first else f"{teacher.name}-{views.name}"
    return request.name or own
