"""The losses that a student can be trained with, each one entry of :data:`LOSSES`: help, checks, completion, the printed recipe
and the training itself follow from it. torch is imported when a loss is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from dmkd.loading import Batch

HARD = "hard"  # the loss that needs no teacher


@dataclass(frozen=True)
class Setting:
    """What a loss is computed with, at one step."""

    temperature: float
    label_smoothing: float  # of the class asked for
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
    from_labels: bool = True  # learns from stored labels at a temperature; else from the class asked for alone
    takes_mixed: bool = True  # also from views that mix two images, and so two classes
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
    return {
        **dict.fromkeys(("temperature", "temperature_end", "hard_weight"), from_labels),
        **{f"{name}_{word}": [name] for name, entry in LOSSES.items() for word in entry.options},
    }


def _kl(batch: "Batch", logits: "torch.Tensor", setting: Setting) -> "tuple[torch.Tensor, torch.Tensor]":
    from dmkd.training.losses import kd_loss, sparse_kd_loss

    if len(batch.labels) == 1:
        name, arrays = next(iter(batch.labels.items()))
        decoder = batch.decoder.decoders[name]
        if decoder.is_sparse:  # no need for a dense row
            ids, kept = decoder.sparse(arrays)
            tail = decoder.tail_log_mass(arrays, setting.temperature)
            return sparse_kd_loss(logits, ids, kept, tail, setting.temperature), ids[:, 0]
    teacher = batch.logits(setting.temperature)
    return kd_loss(logits, teacher, setting.temperature), teacher.argmax(1)


def _dkd(batch: "Batch", logits: "torch.Tensor", setting: Setting) -> "tuple[torch.Tensor, torch.Tensor]":
    from dmkd.training.losses import decoupled_kd_loss

    teacher = batch.logits(setting.temperature)
    loss = decoupled_kd_loss(logits, teacher, batch.class_ids, setting.temperature, **setting.options)
    return loss, teacher.argmax(1)


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
        takes_mixed=False,
        options={
            "alpha": LossOption(1.0, "weight of the target class."),
            "beta": LossOption(
                8.0, "weight of the other classes. Its authors: 8 on CIFAR-100 at T=4, 0.5 on ImageNet at T=1."
            ),
        },
        in_every_recipe=True,  # recipes named them before other losses had options, and must stay equal
    ),
    HARD: Loss(
        _hard, help="only the class asked for", words="cross-entropy with the class asked for", from_labels=False
    ),
}
