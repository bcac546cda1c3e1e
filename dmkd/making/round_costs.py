"""What rounds that follow a student take beside the images themselves: candidates, gradients, scores, students."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch

from dmkd.classifiers.students import create_student
from dmkd.generators.dit import GeneratorInfo
from dmkd.generators.samplers import sampler_named
from dmkd.making.flops import classifier_flops, model_calls, model_flops
from dmkd.making.round_request import or_recommended
from dmkd.making.sizes import PlannedLabels
from dmkd.recipes.recipe import Recipe
from dmkd.recipes.rounds import RoundOptions, parse_window
from dmkd.stores import UsageError

BACKWARD = 2  # a gradient by the inputs alone takes a forward pass, and as much again
TRAINING = 3  # of the weights too: a forward pass, and twice as much


@dataclass(frozen=True)
class PlannedRounds:
    """Rounds as `dmkd distil` makes them."""

    rounds: int
    student: str  # timm architecture
    steering: RoundOptions


@dataclass(frozen=True)
class RoundFlops:
    """Operations of an image beyond those of a blind one, by what they are for; and of all students but the last."""

    per_image: Mapping[str, int]
    students: int
    images: Sequence[int] = field(default_factory=tuple)  # of each round

    @property
    def extra(self) -> int:
        return sum(self.per_image.values())

    @property
    def steered(self) -> int:
        """Images that follow a student."""
        return sum(self.images[1:])


def round_flops(
    planned: PlannedRounds,
    recipe: Recipe,
    info: GeneratorInfo,
    scheduler: dict[str, Any],
    num_images: int,
    one_call: int,
    decoding: int,
    labels: PlannedLabels | None,
    epochs: int,
) -> RoundFlops:
    """``one_call``: operations of a call of the transformer, ``decoding``: of decoding; ``epochs``: of each student.

    Raises ``UsageError`` for rounds that can't be."""
    if not 1 <= planned.rounds <= num_images:
        raise UsageError(f"--rounds {planned.rounds}: {num_images:,} images can be made in 1 to {num_images:,} rounds.")
    if labels is None:
        raise UsageError("Rounds follow a student by what a teacher says: plan them with a --teacher.")
    ends = [num_images * number // planned.rounds for number in range(planned.rounds + 1)]
    images = [end - start for start, end in pairwise(ends)]
    teacher, asked = labels.find_teacher(), or_recommended(planned.steering, recipe)
    with torch.device("meta"):
        student = create_student(planned.student, teacher.num_classes, labels.view_set.size)
    seen = model_flops(student, labels.view_set.size)
    score = classifier_flops(teacher, teacher.input_size) + seen
    final = model_calls(recipe, info, scheduler) * one_call + decoding
    candidates, push = (
        asked.candidates or 1,
        _pushed_steps(recipe, info, scheduler, asked) * BACKWARD * (decoding + score),
    )
    per_image = {"score": score, "push": push}
    if candidates > 1 and asked.candidate_steps is not None:
        cheap = model_calls(replace(recipe, steps=asked.candidate_steps), info, scheduler) * one_call + decoding
        per_image["candidates"] = candidates * (cheap + score)
    elif candidates > 1:
        per_image["candidates"] = (candidates - 1) * (final + score + push)
    trained = sum(ends[number + 1] for number in range(planned.rounds - 1)) * epochs
    return RoundFlops({k: v for k, v in per_image.items() if v}, trained * TRAINING * seen, images)


def _pushed_steps(recipe: Recipe, info: GeneratorInfo, scheduler: dict[str, Any], asked: RoundOptions) -> int:
    if not asked.strength:
        return 0
    assert recipe.sampler is not None and recipe.steps is not None  # a DiT has both
    low, high = parse_window(asked.window)
    timesteps = sampler_named(recipe.sampler).solver(scheduler, info.learned_sigma).start(recipe.steps)
    return sum(low <= timestep <= high for timestep in timesteps)
