"""What determines a student: its architecture, the labels it learns from, and the schedule."""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmkd.loading.ingredient import Ingredient
from dmkd.loading.usable import default_views
from dmkd.recipes.label_choice import parse_labels
from dmkd.recipes.selecting import in_full, selection_of
from dmkd.recipes.store_choice import complete_weights, labels_of_each
from dmkd.stores import Store, UsageError
from dmkd.training.loss_table import HARD, HARD_LABELS, LOSSES, LossOption, loss_options, options_of_some
from dmkd.training.presets import DM_KD, OPTIMIZER_DEFAULTS, PRESETS, SCHEDULES, SGD_LIKE, schedule_for
from dmkd.training.start import Start
from dmkd.views.policy import parse_policy
from dmkd.views.shown import shown_views

LENGTH = ("epochs", "updates", "warmup_epochs", "warmup_updates")  # fields that say how long a run is

# Fields and their values where they are not used, which the JSON leaves out: recipes were written before there were any.
UNUSED: dict[str, Any] = {
    **dict.fromkeys((*LENGTH, "size", "hard_weight_end", "weights", "start_from")),
    "hard_labels": "asked",
    "beside": (),
}


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that determines a student, given a store."""

    student: str  # timm architecture
    student_args: dict[str, Any]  # for timm's create_model, beside the name, such as drop_path_rate
    pretrained: bool  # begin with timm's pretrained weights
    labels: str | None  # label sets, "resnet34" or "resnet34=2,resnet18=1"; None: class ids alone
    view_set: str  # views that the student sees, those of the labels; or rrc or whole, which are drawn
    size: int | None  # pixels, height and width, that they are rendered to; None: as the views say
    select: str | None  # which images, by their ids or the first teacher's opinion of them; None: all
    loss: str  # a name in LOSSES
    temperature: float
    temperature_end: float | None  # the temperature falls to this over the run; None: it stays
    hard_weight: float  # share of the cross-entropy with a hard label, in [0, 1]
    feature_weight: float  # of the squared error of the features, where the labels hold features
    loss_options: dict[str, float]  # that one loss alone reads, as ``dkd_beta``; in the JSON among all others
    label_smoothing: float  # of the cross-entropy with hard labels, in [0, 1)
    optimizer: str  # sgd is plain momentum; else a name that timm.optim knows
    lr: float
    momentum: float  # of SGD
    weight_decay: float
    schedule: str
    milestones: tuple[float, ...]  # of the step schedule: shares of the epochs at which lr falls tenfold
    warmup_epochs: int | None  # None: warmup_updates
    epochs: int | None  # None: updates
    batch_size: int  # images an optimiser step, of all workers together
    accumulate: int  # parts that a worker's share of a batch is run in, one after another
    clip_grad: float | None  # the gradient's norm is cut to this; None: it is not
    ema: float | None  # the student is the moving average of the weights with this decay; None: the weights themselves
    sync_bn: bool  # batch statistics of all workers together
    seed: int
    updates: int | None = None  # optimiser steps of the run, instead of epochs
    warmup_updates: int | None = None  # optimiser steps in which the learning rate rises, instead of warmup_epochs
    hard_weight_end: float | None = None  # hard_weight moves to this over the run; None: it stays
    hard_labels: str = "asked"  # whose class the hard label is, a word in HARD_LABELS
    start_from: Start | None = None  # another student's weights that it begins with; in the JSON their sha256
    beside: tuple[Ingredient, ...] = ()  # other stores that are learnt from together with the one given
    weights: tuple[float, ...] | None = (
        None  # of all these stores in a batch, the one given first; None: by their images
    )

    def to_json(self) -> dict[str, Any]:
        """JSON-able; without what is :data:`UNUSED`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {"milestones": list(self.milestones), "beside": (), "weights": None}  # the run describes its stores
        values["start_from"] = self.start_from and self.start_from.sha256
        values = {key: value for key, value in values.items() if key not in UNUSED or value != UNUSED[key]}
        return {**values.pop("loss_options"), **values}

    def ingredients(self, store: Store) -> list[Ingredient]:
        """What is learnt from, the store given first."""
        return [Ingredient(store, self.labels, self.view_set, self.select), *self.beside]

    @property
    def is_anchored(self) -> bool:
        """Whether the loss is mixed with that of hard labels, all the way or for a part of it."""
        return LOSSES[self.loss].from_labels and bool(self.hard_weight or self.hard_weight_end)

    @property
    def own_options(self) -> dict[str, float]:
        """The loss's own options by their words, such as ``beta`` of ``dkd_beta``."""
        return {word: self.loss_options[f"{self.loss}_{word}"] for word in LOSSES[self.loss].options}


def defaults_for(store: Store) -> tuple[str, dict[str, Any]]:
    """The name and the values of the schedule that suits a store's images."""
    return schedule_for(store.recipe.get("generator"), max(store.image_shape[:2]))


def resolve_training(store: Store, given: dict[str, Any], preset: str | None = None) -> tuple[str, TrainingRecipe]:
    """Options that were given (``None`` = not) over a preset, or over what suits the store -> preset's name and recipe.

    Of a preset that was asked for, the student is still the one that suits the store. A warm-up that was not given keeps its
    share of a run that is shorter than the preset's. Raises ``UsageError`` for what can't be trained.
    """
    return _resolve(store, given, preset)


def resolve_mixture(
    stores: Sequence[Store], weights: Sequence[float | None], given: dict[str, Any], preset: str | None = None
) -> tuple[str, TrainingRecipe]:
    """As :func:`resolve_training`, for several stores: the first one's recipe, with the others beside it.

    ``labels`` are as :func:`dmkd.recipes.store_choice.labels_of_each` reads them. Stores without labels are learnt from by their
    class ids, whatever the loss, and are those that ``view_set`` is of. Classes and defaults are the first store's.
    """
    if given.get("feature_weight"):
        raise UsageError(
            "--feature-weight compares with the features of one teacher: leave it out, or name one --store."
        )
    labels = labels_of_each(given.get("labels"), stores)
    (name, recipe), *others = (
        _resolve(store, {**given, "labels": of_it}, preset, mixed=True)
        for store, of_it in zip(stores, labels, strict=True)
    )
    beside = tuple(
        Ingredient(store, other.labels, other.view_set, other.select)
        for store, (_, other) in zip(stores[1:], others, strict=True)
    )
    if LOSSES[recipe.loss].from_labels and not (recipe.labels or any(one.labels for one in beside)):
        raise UsageError(
            f"--loss {recipe.loss} learns from labels, and no store has any that are used: use --loss hard."
        )
    for one in beside:
        one.class_numbers(stores[0])
    return name, dataclasses.replace(recipe, beside=beside, weights=complete_weights(weights))


def check_training(given: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for options that no store could be trained with, as far as they alone tell: before one is made."""
    _, _, chosen = _values(DM_KD, given)
    _length(DM_KD, chosen)


def _values(
    defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, LossOption], dict[str, Any]]:
    """All values, what the loss takes of its own, and what was given. Raises ``UsageError`` for values out of range."""
    chosen = {key: value for key, value in given.items() if value is not None}
    values = {**UNUSED, **defaults, "seed": 0, **chosen}
    options = loss_options(values["loss"])
    values = {**{key: option.default for key, option in options.items()}, **values}
    if values["loss"] in LOSSES and "temperature" not in chosen:
        values["temperature"] = LOSSES[values["loss"]].temperature or values["temperature"]
    _check(values, options)
    return values, options, chosen


def _resolve(
    store: Store, given: dict[str, Any], preset: str | None, mixed: bool = False
) -> tuple[str, TrainingRecipe]:
    """``mixed``: beside other stores, so that labels need not be all that is learnt from."""
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"There is no preset {preset!r}; there are {', '.join(PRESETS)}.")
    name, defaults = defaults_for(store)
    if preset is not None:
        name, defaults = preset, {**PRESETS[preset].values, "student": defaults["student"]}
    values, options, chosen = _values(defaults, given)
    if values["select"] is not None:
        values["select"] = in_full(values["select"], store.selections)
        selection_of(store, values["select"])
    if values["start_from"] is not None:
        if values["pretrained"]:
            raise UsageError("--start-from and --pretrained are two ways to begin: give one of them.")
        values["start_from"] = Start.of(values["start_from"])
    values |= _length(defaults, chosen)
    if values["optimizer"] not in SGD_LIKE and given.get("lr") is None and values["lr"] > 0.01:
        if values["optimizer"] not in OPTIMIZER_DEFAULTS:
            raise UsageError(
                f"--optimizer {values['optimizer']}: say --lr as well; SGD's {values['lr']:g} is not for it."
            )
        lr, weight_decay = OPTIMIZER_DEFAULTS[values["optimizer"]]
        decay = given.get("weight_decay")
        values |= {"lr": lr, "weight_decay": weight_decay if decay is None else decay}
    values["labels"], values["view_set"] = _choose_labels(store, values, mixed)
    views = shown_views(store, values["view_set"])
    values["size"] = _choose_size(store, views.attributes["size"], values["size"])
    if values["feature_weight"]:
        _refuse_labels_without_features(store, values["labels"])
    if not LOSSES[values["loss"]].takes_sparse:
        _refuse_sparse_labels(store, values["labels"], values["loss"])
    learnt = LOSSES[values["loss"] if values["labels"] is not None else HARD]
    if "partner" in views.components and not learnt.takes_mixed:
        raise UsageError(
            f"--loss {values['loss']} needs one class an image, and the views of these labels mix two: use --loss kl."
        )
    values |= {"milestones": tuple(values["milestones"]), "loss_options": {key: values[key] for key in options}}
    return name, TrainingRecipe(**{key: value for key, value in values.items() if key not in loss_options()})


def views_of_student(recipe: TrainingRecipe, store: Store) -> dict[str, Any]:
    """The attributes of the views that a student sees, ``size`` and ``interpolation`` among them, at the student's size."""
    attributes = shown_views(store, recipe.view_set, recipe.seed).attributes
    return {**attributes, "size": recipe.size or attributes["size"]}


def parse_student_args(pairs: Sequence[str]) -> dict[str, Any]:
    """``["drop_path_rate=0.1", "act_layer=silu"]`` -> arguments of timm's ``create_model``; Python's literals, else text."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--student-arg {pair!r}: write NAME=VALUE, such as drop_path_rate=0.1.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        if not isinstance(value, str | int | float | list | tuple | None):  # it is kept in JSON files
            raise UsageError(f"--student-arg {pair!r}: a value is a number, True, False, None, a list or a word.")
        arguments[key] = list(value) if isinstance(value, tuple) else value
    return arguments


def _check(values: dict[str, Any], options: dict[str, LossOption]) -> None:
    for key, known in (("loss", tuple(LOSSES)), ("hard_labels", tuple(HARD_LABELS)), ("schedule", SCHEDULES)):
        if values[key] not in known:
            raise UsageError(f"--{key.replace('_', '-')} must be one of {', '.join(known)}, not {values[key]!r}.")
    for key in (
        "temperature",
        "temperature_end",
        "lr",
        "epochs",
        "updates",
        "batch_size",
        "accumulate",
        "clip_grad",
        "size",
    ):
        if values[key] is not None and not 0 < values[key] < float("inf"):
            raise UsageError(f"--{key.replace('_', '-')} must be greater than 0, not {values[key]}.")
    for key in ("feature_weight", *options, "weight_decay", "warmup_epochs", "seed"):
        if not 0 <= values[key] < float("inf"):
            raise UsageError(f"--{key.replace('_', '-')} must be 0 or more, not {values[key]}.")
    for key in ("hard_weight", "hard_weight_end"):
        if values[key] is not None and not 0 <= values[key] <= 1:
            raise UsageError(f"--{key.replace('_', '-')} must be from 0 to 1, not {values[key]}.")
    anchored = bool(values["hard_weight"] or values["hard_weight_end"])
    if values["hard_labels"] != UNUSED["hard_labels"] and not anchored:
        raise UsageError(
            "--hard-labels says whose class a hard label is: use it with --hard-weight or --hard-weight-end."
        )
    if not 0 <= values["label_smoothing"] < 1:
        raise UsageError(f"--label-smoothing must be from 0 to below 1, not {values['label_smoothing']}.")
    if values["label_smoothing"] and values["loss"] not in HARD_LABELS.values() and not anchored:
        raise UsageError(
            "--label-smoothing is of the class asked for or of the teacher's: use it with --loss hard or argmax, or with "
            "--hard-weight."
        )
    if values["ema"] is not None and not 0 < values["ema"] < 1:
        raise UsageError(f"--ema must be a decay between 0 and 1, such as 0.9999, not {values['ema']}.")


def _length(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, int | None]:
    """The fields of :data:`LENGTH`: of epochs and updates one is set, of the warm-ups too."""
    if "epochs" in given and "updates" in given:
        raise UsageError("--epochs and --updates can't both say how long to train: give one of them.")
    length: dict[str, int | None] = dict.fromkeys(LENGTH)
    usual, warmup = defaults["epochs"], defaults["warmup_epochs"]
    if "updates" in given:
        length |= {"updates": given["updates"], "warmup_updates": round(given["updates"] * warmup / usual)}
    else:
        epochs = given.get("epochs", usual)
        length |= {"epochs": epochs, "warmup_epochs": round(warmup * min(1, epochs / usual))}
    if "warmup_epochs" in given:
        length |= {"warmup_epochs": given["warmup_epochs"], "warmup_updates": None}
        if length["epochs"] is not None and given["warmup_epochs"] >= length["epochs"]:
            raise UsageError(
                f"--warmup-epochs {given['warmup_epochs']} must be less than the {length['epochs']} epochs of the run: the "
                "learning rate would never reach --lr."
            )
    return length


def preset_notice(preset: str | None, store: Store, recipe: TrainingRecipe) -> str | None:
    """What a run with a preset lacks of what the preset's results were obtained with, as a sentence; None if it lacks nothing."""
    wanted = PRESETS[preset].views if preset is not None else None
    if wanted is None:
        return None
    views = shown_views(store, recipe.view_set)
    if parse_policy(wanted).mix:
        lacking = None if "partner" in views.components else ("do not mix images", "do")
    else:
        lacking = None if views.padding else ("are not crops of padded images", "are")
    return lacking and (
        f"The views {recipe.view_set!r} {lacking[0]}, and the published results of {preset} were obtained with views that "
        f"{lacking[1]}: `dmkd label --views {wanted}` makes them."
    )


def refuse_unused(given: Mapping[str, Any], recipes: Sequence[TrainingRecipe]) -> None:
    """Raise ``UsageError`` if an option was given (not ``None``) that the loss of none of these runs uses."""
    losses = list(dict.fromkeys(recipe.loss for recipe in recipes))
    for option, users in options_of_some().items():
        if given.get(option) is not None and not set(users) & set(losses):
            raise UsageError(
                f"--{option.replace('_', '-')} is not used by --loss {' or '.join(losses)}, only by {_listed(users)}: "
                "leave it out, or choose another loss."
            )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _choose_labels(store: Store, values: dict[str, Any], mixed: bool) -> tuple[str | None, str]:
    label_sets, views = store.labels, store.views
    wanted = values.get("labels")
    select = values["select"]
    opinion = select is not None and selection_of(store, select).needs_teacher
    view_set = values.get("view_set")
    from_labels = LOSSES[values["loss"]].from_labels
    if wanted is not None and not parse_labels(wanted) and from_labels and not mixed:
        raise UsageError(f"--loss {values['loss']} learns from labels, and --labels names none: use --loss hard.")
    if not parse_labels(wanted) and (wanted is not None or not (from_labels or opinion)):
        return None, shown_views(store, view_set or next(iter(views), None) or default_views(store)).name
    if not label_sets:
        raise UsageError(f"{store.path} has no labels yet: run `dmkd label --teacher NAME`, or train with --loss hard.")
    if wanted is None and len(label_sets) == 1:
        wanted = next(iter(label_sets))
    if wanted is None:
        raise UsageError(f"{store.path} has several label sets: choose with --labels ({', '.join(label_sets)}).")
    names = list(parse_labels(wanted))
    for name in names:
        if name not in label_sets:
            raise UsageError(f"{store.path} has no label set {name!r}; it has {', '.join(label_sets)}.")
    labelled = label_sets[names[0]].view_set
    if view_set not in (None, labelled) and not mixed:
        raise UsageError(
            f"--views {view_set}: labels {wanted} are of the views {labelled}, so students that learn from them see these. "
            "Leave --views out, or train with --loss hard and no --labels."
        )
    return wanted, labelled


def _choose_size(store: Store, of_views: int, asked: int | None) -> int | None:
    """The size that the student sees the views at, None: that of the views, as the teacher saw them.

    A teacher is right at the size that it was trained at, so views of small images are often far larger than these. That is
    the labels' business alone: where images are less than half as large as their views, nothing but time is gained by
    training on pixels made up between theirs, so the student then sees views of the images' size.
    """
    if asked is None:
        images = max(store.image_shape[:2])
        asked = images if 2 * images < of_views else of_views
    return None if asked == of_views else asked


def _refuse_sparse_labels(store: Store, labels: str | None, loss: str) -> None:
    for name in parse_labels(labels):
        if store.labels[name].coder.is_sparse:
            raise UsageError(
                f"--loss {loss} needs whole rows of logits, and {name!r} keeps only some of each (--codec "
                f"{store.labels[name].codec}): use --loss kl, or labels of another codec."
            )


def _refuse_labels_without_features(store: Store, labels: str | None) -> None:
    """The first label set's features are what the student's are compared with."""
    first = next(iter(parse_labels(labels)), None)
    if first is None:
        raise UsageError(
            "--feature-weight needs labels that hold features, and none were chosen: name some with --labels, or leave "
            "--feature-weight out."
        )
    if store.labels[first].codec.input != "features":
        raise UsageError(
            f"--feature-weight needs labels that hold features, and {first!r} does not (--codec features)."
        )
