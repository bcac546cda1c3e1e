"""Pixels of ids: by the recipe, or by that of a round, as the best of candidates, or pushed up a score."""

from typing import Any

import numpy as np
import torch

from dmkd.generators.interface import ImageGenerator
from dmkd.recipes.recipe import Recipe
from dmkd.recipes.rounds import Round
from dmkd.runtime.accelerators import upload
from dmkd.steering.critic import Climb, Critic
from dmkd.views.render import render


def make_images(
    generator: ImageGenerator,
    recipe: Recipe,
    ids: np.ndarray,
    one: Round | None = None,
    critic: Critic | None = None,
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Consecutive ids (n,) of one round (None: of none) -> images uint8 (n, H, W, 3) on the generator's device, class ids int32
    (n,), as they are stored, and scores float64 (n,), NaN without a critic.

    Sampled in sub-batches of one fixed size, the last one filled up with the ids that follow: a convolution may choose
    another algorithm for another batch size, so only equal shapes give equal bits. An image depends on its id, round and recipe.
    """
    sub_batch = SubBatch(generator, recipe, one or Round(0, 0), critic)
    starts = range(0, len(ids), recipe.sub_batch)
    made = [sub_batch.make(np.arange(ids[start], ids[start] + recipe.sub_batch)) for start in starts]
    images, class_ids, scores = zip(*made, strict=True)
    return torch.cat(images)[: len(ids)], np.concatenate(class_ids)[: len(ids)], np.concatenate(scores)[: len(ids)]


def shrink(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 (n, H, W, 3) -> uint8 (n, size, size, 3) on the same device, as Pillow's bicubic resize gives them, to the bit."""
    whole = np.tile(np.array([0, 0, 1, 1, 0], np.float32), (len(images), 1))
    return render(images, whole, size=size, interpolation="bicubic").permute(0, 2, 3, 1).contiguous()


class SubBatch:
    """What makes the images of one round a sub-batch at a time."""

    def __init__(self, generator: ImageGenerator, recipe: Recipe, one: Round, critic: Critic | None) -> None:
        self.generator, self.recipe, self.round, self.critic = generator, recipe, one, critic

    def make(self, ids: np.ndarray) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """As :func:`make_images`, of ids (n,) of one sub-batch."""
        class_ids = self.recipe.class_ids(ids, self.round.class_order)
        options = self._options(ids)
        if self.round.candidates == 1:
            images = self._sample(ids, ids, options)
            return images, class_ids, self._scores(images, class_ids)
        images, scores, best = self._best_candidates(ids, class_ids, options)
        if self.round.candidate_steps is not None:
            images = self._sample(ids, self.round.candidate(ids, best), options)
            scores = self._scores(images, class_ids)
        return images, class_ids, scores

    def _options(self, ids: np.ndarray) -> dict[str, Any]:
        """How these images are sampled."""
        options = self.recipe.sampling(ids)
        places = self.recipe.class_places(ids, self.round.class_order)
        guidance = self.round.guidance(options.get("guidance"), places)
        if guidance is not None:
            options["guidance"] = guidance
        if self.round.strength:
            assert self.critic is not None
            class_ids = self.recipe.class_ids(ids, self.round.class_order)
            device = next(self.critic.teacher.model.parameters()).device
            asked = upload(torch.from_numpy(class_ids.astype(np.int64)), device)
            options["steer"] = Climb(self.critic, asked, self.round.strength, self.round.window)
        return options

    def _best_candidates(
        self, ids: np.ndarray, class_ids: np.ndarray, options: dict[str, Any]
    ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """The images with the highest score of each one's candidates, their scores, and the number of each, int64 (n,). Of equals
        the first."""
        cheap = options | ({} if self.round.candidate_steps is None else {"steps": self.round.candidate_steps})
        if self.round.candidate_steps is not None:
            cheap.pop("steer", None)
        images, scores, best = None, np.full(len(ids), -np.inf), np.zeros(len(ids), np.int64)
        for number in range(self.round.candidates):
            candidates = self._sample(ids, self.round.candidate(ids, number), cheap)
            theirs = self._scores(candidates, class_ids)
            better = theirs > scores
            kept = torch.from_numpy(better).to(candidates.device)[:, None, None, None]
            images = candidates if images is None else torch.where(kept, candidates, images)
            scores, best = np.where(better, theirs, scores), np.where(better, number, best)
        assert images is not None
        return images, scores, best

    def _sample(self, ids: np.ndarray, of_seeds: np.ndarray, options: dict[str, Any]) -> torch.Tensor:
        """Images of ids (n,) from the seeds of ids ``of_seeds`` (n,), as they are stored but for a lossy codec."""
        classes = self.recipe.generator_classes(ids, self.round.class_order)
        images = self.generator.sample(classes, self.recipe.image_seeds(of_seeds), **options)
        return images if self.recipe.size is None else shrink(images, self.recipe.size)

    def _scores(self, images: torch.Tensor, class_ids: np.ndarray) -> np.ndarray:
        if self.critic is None:
            return np.full(len(images), np.nan)
        asked = upload(torch.from_numpy(class_ids.astype(np.int64)), images.device)
        return self.critic.look(images, asked)[0].cpu().numpy().astype(np.float64)
