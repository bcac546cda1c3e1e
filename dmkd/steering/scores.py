"""Scores: how much there is to learn from an image, by what its teacher and the student say of it.

A score is a function of the teacher's logits, float32 (n, C), the student's, and class ids, int64 (n,), all on one device ->
(n,), larger where there is more to learn. One of the user's own is ``module:function``; it must be differentiable to be climbed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dmkd.runtime.failures import named_line
from dmkd.runtime.own_code import is_own_code, own_function
from dmkd.stores.errors import DmkdError, UsageError

if TYPE_CHECKING:  # the list of scores is read by help, which does not wait for torch
    from torch import Tensor

Function = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
OfTemperature = Callable[["Tensor", "Tensor", "Tensor", float], "Tensor"]
DEFAULT = "kl:4"


def kl(teacher: "Tensor", student: "Tensor", class_ids: "Tensor", temperature: float) -> "Tensor":
    """KL(teacher || student) of the softmaxes at a temperature, nats: what distillation makes small (Hinton et al. 2015)."""
    from torch.nn.functional import log_softmax

    said = log_softmax(teacher / temperature, 1)
    return (said.exp() * (said - log_softmax(student / temperature, 1))).sum(1)


def entropy(teacher: "Tensor", student: "Tensor", class_ids: "Tensor", temperature: float) -> "Tensor":
    """Entropy of the student's softmax, nats (Deliberate Practice: Askari-Hemmat et al. 2025)."""
    from torch.nn.functional import log_softmax

    said = log_softmax(student / temperature, 1)
    return -(said.exp() * said).sum(1)


def learnability(teacher: "Tensor", student: "Tensor", class_ids: "Tensor", temperature: float) -> "Tensor":
    """The student's cross-entropy with the class asked for, less the teacher's: hard for one and easy for the other (Mindermann
    et al. 2022; LGD, arXiv 2604.00519, with omega = 1)."""
    from torch.nn.functional import cross_entropy

    losses = [cross_entropy(logits / temperature, class_ids, reduction="none") for logits in (student, teacher)]
    return losses[0] - losses[1]


# name -> function, temperature where none is given, words for help
SCORES: dict[str, tuple[OfTemperature, float, str]] = {
    "kl": (kl, 4.0, "KL of teacher and student"),
    "entropy": (entropy, 1.0, "of the student"),
    "learnability": (learnability, 1.0, "the student's loss less the teacher's"),
}


@dataclass(frozen=True)
class Score:
    """A score by its name. Calling it refuses what is not (n,)."""

    name: str  # with its temperature: ``kl:4``
    function: Function

    def __call__(self, teacher: "Tensor", student: "Tensor", class_ids: "Tensor") -> "Tensor":
        import torch

        try:
            scores = self.function(teacher, student, class_ids)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise UsageError(f"Score {self.name} failed: {named_line(error)}.") from error
        if not isinstance(scores, torch.Tensor) or scores.shape != class_ids.shape:
            shape = tuple(getattr(scores, "shape", ()))
            raise UsageError(f"Score {self.name} gives {shape} for {len(class_ids)} images: one number each is wanted.")
        return scores

    def finite(self, teacher: "Tensor", student: "Tensor", class_ids: "Tensor") -> "Tensor":
        """The same, float32 (n,); raises ``DmkdError`` if one is not finite."""
        import torch

        scores = self(teacher, student, class_ids).detach().float()
        if not torch.isfinite(scores).all():
            raise DmkdError(
                f"Score {self.name} of an image is {scores[~torch.isfinite(scores)][0]}: use another --score."
            )
        return scores


def parse_score(text: str | None) -> Score:
    """``kl:4``, ``kl``, ``entropy``, ``learnability:2`` or ``module:function`` -> the score. Raises ``UsageError``."""
    text = DEFAULT if text is None else text
    name, _, number = text.partition(":")
    if name not in SCORES:
        if is_own_code(text):
            return Score(text, own_function(text))
        raise UsageError(
            f"--score {text}: there are {', '.join(SCORES)}, with a temperature as in {DEFAULT}, and functions of your own, "
            "module:function."
        )
    function, usual, _ = SCORES[name]
    try:
        temperature = float(number) if number else usual
    except ValueError:
        temperature = math.nan
    if not 0 < temperature < math.inf:
        raise UsageError(f"--score {text}: the temperature is a number above 0, as in {DEFAULT}.")
    return Score(
        f"{name}:{temperature:g}",
        lambda teacher, student, class_ids: function(teacher, student, class_ids, temperature),
    )
