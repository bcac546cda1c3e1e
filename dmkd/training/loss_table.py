"""The losses that a student can be trained with, each one entry of :data:`LOSSES`: help, checks, completion, the printed recipe
and the training itself follow from it. torch is imported when a loss is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from dmkd.loading import Batch
    from dmkd.loading.torch_codecs import LabelDecoder

HARD, ARGMAX = (
    "hard",
    "argmax",
)  # the class asked for, which needs no teacher; and the class that the teacher finds likeliest
HARD_LABELS = {"asked": HARD, "argmax": ARGMAX}  # word -> the loss that a soft one is mixed with


@dataclass(frozen=True)
class Setting:
    """What a loss is computed with, at one step."""

    temperature: float
    label_smoothing: float  # of hard labels
    options: Mapping[str, float]  # the loss's own, by their words


class Compute(Protocol):
    def __call__(
        self, batch: "Batch", logits: "torch.Tensor", setting: Setting, /
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """The student's ``logits``, float (n, C) -> the loss, a scalar, the mean over the batch; and the class that its labels
        find likeliest, int64 (n,)."""


@dataclass(frozen=True)
class LossOption:
    """A number, 0 or more, that one loss alone reads."""

    default: float
    help: str


@dataclass(frozen=True)
class Loss:
    """``help`` and ``words``: what it is, in the help of ``--loss`` and in a printed recipe."""

    compute: Compute
    help: str
    words: str
    from_labels: bool = True  # learns from stored labels; else from the class asked for alone
    tempered: bool = True  # softens these labels by a temperature
    temperature: float | None = None  # that its authors use, and it is computed at unless told; None: the preset's
    takes_mixed: bool = True  # also from views that mix two images, and so two classes
    takes_sparse: bool = True  # also from labels that keep only some logits of a view
    options: Mapping[str, LossOption] = field(default_factory=dict)  # --NAME-WORD by WORD
    in_every_recipe: bool = False  # recipes of other losses name its options too


def loss_options(loss: str | None = None) -> dict[str, LossOption]:
    """The losses' own options as a recipe with this loss names them (``dkd_beta``); None: those of all losses."""
    return {
        f"{name}_{word}": option
        for name, entry in LOSSES.items()
        if loss in (None, name) or entry.in_every_recipe
        for word, option in entry.options.items()
    }


def options_of_some() -> dict[str, list[str]]:
    """Each training option that only some losses use, and the names of these losses."""
    from_labels = [name for name, entry in LOSSES.items() if entry.from_labels]
    tempered = [name for name in from_labels if LOSSES[name].tempered]
    return {
        **dict.fromkeys(("temperature", "temperature_end"), tempered),
        **dict.fromkeys(("hard_weight", "hard_weight_end", "hard_labels"), from_labels),
        **{f"{name}_{word}": [name] for name, entry in LOSSES.items() for word in entry.options},
    }


def _sparse_labels(batch: "Batch") -> "tuple[LabelDecoder, Mapping[str, torch.Tensor]] | None":
    """The decoder and the arrays of the only label set, if it has a sparse form: its losses need no dense row then."""
    if len(batch.labels) != 1:
        return None
    name, arrays = next(iter(batch.labels.items()))
    decoder = batch.decoder.decoders[name]
    return (decoder, arrays) if decoder.is_sparse else None


def _kl(batch: "Batch", logits: "torch.Tensor", setting: Setting) -> "tuple[torch.Tensor, torch.Tensor]":
    from dmkd.training.losses import kd_loss, sparse_kd_loss

    if sparse := _sparse_labels(batch):
        decoder, arrays = sparse
        ids, kept = decoder.sparse(arrays)
        tail = decoder.tail_log_mass(arrays, setting.temperature)
        return sparse_kd_loss(logits, ids, kept, tail, setting.temperature), ids[:, 0]
    teacher = batch.logits(setting.temperature)
    return kd_loss(logits, teacher, setting.temperature), teacher.argmax(1)


def _argmax(batch: "Batch", logits: "torch.Tensor", setting: Setting) -> "tuple[torch.Tensor, torch.Tensor]":
    """Of the very view, mixed views included; of several teachers the class of their mean probabilities."""
    from dmkd.training.losses import hard_label_loss

    sparse = _sparse_labels(batch)
    likeliest = sparse[0].sparse(sparse[1])[0][:, 0] if sparse else batch.logits().argmax(1)
    return hard_label_loss(logits, likeliest, setting.label_smoothing), likeliest


def _dkd(batch: "Batch", logits: "torch.Tensor", setting: Setting) -> "tuple[torch.Tensor, torch.Tensor]":
    from dmkd.training.losses import decoupled_kd_loss

    teacher = batch.logits(setting.temperature)
    loss = decoupled_kd_loss(logits, teacher, batch.class_ids, setting.temperature, **setting.options)
    return loss, teacher.argmax(1)


def _standardised(batch: "Batch", logits: "torch.Tensor", setting: Setting) -> "tuple[torch.Tensor, torch.Tensor]":
    from dmkd.training.losses import standardised_kd_loss

    teacher = batch.logits(setting.temperature)
    return standardised_kd_loss(logits, teacher, setting.temperature, **setting.options), teacher.argmax(1)


def _dist(batch: "Batch", logits: "torch.Tensor", setting: Setting) -> "tuple[torch.Tensor, torch.Tensor]":
    from dmkd.training.losses import dist_loss

    teacher = batch.logits(setting.temperature)
    return dist_loss(logits, teacher, setting.temperature, **setting.options), teacher.argmax(1)


def _gift(batch: "Batch", logits: "torch.Tensor", setting: Setting) -> "tuple[torch.Tensor, torch.Tensor]":
    from dmkd.training.losses import gift_loss

    teacher = batch.logits()
    return gift_loss(logits, teacher, batch.class_ids, **setting.options), teacher.argmax(1)


def _hard(batch: "Batch", logits: "torch.Tensor", setting: Setting) -> "tuple[torch.Tensor, torch.Tensor]":
    """Of a mixed view with both classes, each by its share."""
    from torch.nn.functional import one_hot

    from dmkd.training.losses import hard_label_loss

    target = batch.class_ids
    if batch.partners is not None:
        own, other = (one_hot(b.class_ids, logits.shape[1]).float() for b in (batch, batch.partners))
        share = batch.own_share()[:, None]
        target = share * own + (1 - share) * other
    return hard_label_loss(logits, target, setting.label_smoothing), batch.class_ids


LOSSES = {
    "kl": Loss(_kl, help="KL divergence from the teacher", words="KL"),
    "dkd": Loss(
        _dkd,
        help="decoupled KL",
        words="decoupled KL",
        temperature=4.0,
        takes_mixed=False,
        options={
            "alpha": LossOption(1.0, "weight of the target class."),
            "beta": LossOption(
                8.0,
                "weight of the other classes. Its authors, with --hard-weight 0.5: 8 on CIFAR-100 at T=4, 0.5 on ImageNet at "
                "T=1; there it grows over the first 20 epochs and the first one, which dmkd does not do.",
            ),
        },
        in_every_recipe=True,  # recipes named them before other losses had options, and must stay equal
    ),
    HARD: Loss(
        _hard, help="only the class asked for", words="cross-entropy with the class asked for", from_labels=False
    ),
    ARGMAX: Loss(
        _argmax,
        help="only the class that the teacher finds likeliest in the view",
        words="cross-entropy with the teacher's likeliest class",
        tempered=False,
    ),
    "standardised": Loss(
        _standardised,
        help="KL of logits that are standardised row by row",
        words="KL of standardised logits",
        temperature=2.0,
        takes_sparse=False,
        options={
            "weight": LossOption(9.0, "its weight. Its authors': 9 on CIFAR-100 at T=2, beside 0.1 x hard labels.")
        },
    ),
    "dist": Loss(
        _dist,
        help="correlations within images and classes",
        words="DIST's correlations",
        temperature=1.0,
        options={
            "beta": LossOption(1.0, "weight of an image's correlation over the classes."),
            "gamma": LossOption(
                1.0,
                "weight of a class's correlation over the batch. Its authors: 1 and 1 at T=1, with --hard-weight 0.5.",
            ),
        },
    ),
    "gift": Loss(
        _gift,
        help="cosine with the teacher's logits, refined by the class asked for",
        words="GIFT's cosine",
        tempered=False,
        takes_mixed=False,
        takes_sparse=False,
        options={
            "weight": LossOption(0.1, "of the class asked for in the label, its authors'."),
            "smoothing": LossOption(0.1, "of the class asked for, its authors'."),
        },
    ),
}
