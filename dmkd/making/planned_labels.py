"""The label sets that a run works on, as :mod:`dmkd.making.sizes` counts them: a store's, and those asked for."""

from collections.abc import Sequence
from functools import partial

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.default_weights import default_weights_notice
from dmkd.classifiers.load import configured_classifier
from dmkd.classifiers.teachers import prompts_of_labels
from dmkd.making.label_sets import LabelRequest, label_set_name, new_view_set, quality_view, view_set_for
from dmkd.making.sizes import PlannedLabels, StoreSize
from dmkd.stores import LabelSet, Store
from dmkd.views.description import ViewDescription
from dmkd.views.policy import parse_views


def stored_labels(store: Store) -> list[PlannedLabels]:
    """The label sets of a store."""
    views = {name: ViewDescription.of(view_set) for name, view_set in store.views.items()}
    return [
        PlannedLabels(
            one.name,
            views[one.view_set],
            one.codec,
            partial(_configured, store, one),
            one,
            views[one.view_set].quality_view(one.quality_view),
        )
        for one in store.labels.values()
    ]


def asked_labels(size: StoreSize, request: LabelRequest, default_seed: int) -> list[PlannedLabels]:
    """The label sets that are asked for; the seed is for views of a new store.

    Raises what :func:`dmkd.making.label_sets.add_label_sets` does for views that can't be."""
    planned = []
    views: ViewDescription | None = None  # the first teacher's: later ones look at the views as they are
    for teacher in request.teachers:
        if views is None and size.store is not None:
            views = view_set_for(size.store, request, teacher)
        elif views is None:
            wanted = parse_views(request.views or request.default_views)
            seed = default_seed if request.view_seed is None else request.view_seed
            views = new_view_set(wanted, seed, True, teacher, size.image_shape[:2], size.block_size)
        name = label_set_name(request, teacher, views)
        stored = size.store.labels.get(name) if size.store is not None else None
        seen = views.quality_view(stored.quality_view if stored is not None else quality_view(teacher, views))
        planned.append(PlannedLabels(name, views, request.codec, partial(_same, teacher), stored, seen))
    return planned


def teacher_notices(planned: Sequence[PlannedLabels], request: LabelRequest) -> list[str]:
    """What to say of the teachers of label sets that are about to be begun: weights that teach otherwise than expected, and
    views of another size than a teacher was trained at, unless that size was asked for."""
    sentences = []
    for one in planned:
        if one.stored is not None:
            continue
        teacher, size = one.find_teacher(), one.view_set.size
        if (sentence := default_weights_notice(teacher.source)) is not None:
            sentences.append(sentence)
        if teacher.input_size != size and (request.views is None or parse_views(request.views).size is None):
            sentences.append(
                f"Teacher {teacher.source} was trained at {teacher.input_size}x{teacher.input_size} and labels views of "
                f"{size}x{size}, as all teachers and the student see the same ones: --views ...,size={teacher.input_size} would "
                "make views of its own size."
            )
    return sentences


def _configured(store: Store, labels: LabelSet) -> Classifier:
    return configured_classifier(labels.source, prompts=prompts_of_labels(store, labels)).only(labels.outputs)


def _same(teacher: Classifier) -> Classifier:
    return teacher
