"""A teacher and a student side by side: what both say of images, and how much there is to learn from these."""

from dataclasses import dataclass

import torch

from dmkd.classifiers.classifier import Classifier
from dmkd.steering.scores import Score
from dmkd.stores.errors import UsageError

AT_ONCE = 256  # images; fixed, so that a score does not depend on how many are asked for


@dataclass(frozen=True)
class Critic:
    """Each sees an image by its own evaluation view."""

    teacher: Classifier
    student: Classifier
    score: Score

    def look(self, images: torch.Tensor, class_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 (n, H, W, 3) and class ids int64 (n,), on the models' device -> scores float32 (n,), and whether the
        teacher's likeliest class is the one asked for, bool (n,). Raises ``DmkdError`` for a score that is not finite."""
        scores, agreed = [], []
        for part, ids in zip(images.split(AT_ONCE), class_ids.split(AT_ONCE), strict=True):
            teacher, student = self.teacher.evaluation_logits(part), self.student.evaluation_logits(part)
            scores.append(self.score.finite(teacher, student, ids))
            agreed.append(teacher.argmax(1) == ids)
        return torch.cat(scores), torch.cat(agreed)


@dataclass(frozen=True)
class Climb:
    """Pushes a sub-batch's images up the score (a :class:`dmkd.generators.sampling.Steer`)."""

    critic: Critic
    class_ids: torch.Tensor  # int64 (n,), as the store numbers them, on the models' device
    strength: float
    window: tuple[int, int]

    def score(self, pixels: torch.Tensor, images: slice) -> torch.Tensor:
        teacher = self.critic.teacher.differentiable_logits(pixels)
        student = self.critic.student.differentiable_logits(pixels)
        scores = self.critic.score(teacher, student, self.class_ids[images])
        if pixels.requires_grad and not scores.requires_grad:
            raise UsageError(
                f"Score {self.critic.score.name} has no gradient, so images can't be pushed up it: leave --strength out, or "
                "compute it with torch from the logits."
            )
        return scores
