"""From a round that was asked for to what its images are made by: student, teacher, counts, scales, strength."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.sources import parse_classifier
from dmkd.classifiers.teachers import teacher_of_labels
from dmkd.generators.interface import GeneratorFacts
from dmkd.generators.samplers import SAMPLERS
from dmkd.recipes.guidance import Range
from dmkd.recipes.image_options import ImageOptions
from dmkd.recipes.recipe import Recipe
from dmkd.recipes.rounds import (
    OF_A_STUDENT,
    Round,
    RoundOptions,
    check_candidates,
    class_scales,
    parse_window,
)
from dmkd.runtime.progress import Display
from dmkd.steering.critic import Climb, Critic
from dmkd.steering.feedback import Feedback, class_counts, class_guidance, look_at
from dmkd.steering.scores import parse_score
from dmkd.stores import Store, UsageError
from dmkd.stores.identity import refuse_mismatch
from dmkd.stores.rounds import fingerprint_of

# Steps of DDIM with which the best of four was the same as with all in 76 % of the cases (5 of 20) and 75 % (10 of 100).
FEWEST_STEPS_OF_A_CANDIDATE, MOST_STEPS_OF_A_CANDIDATE = 5, 10


@dataclass(frozen=True)
class Followed:
    """The student that a round follows: its timm folder's two files."""

    config: dict[str, Any]
    weights: bytes
    classifier: Classifier

    @property
    def description(self) -> dict[str, Any]:
        return {"file_sha256": fingerprint_of(self.weights), "config": self.config}


def or_recommended(options: RoundOptions, recipe: Recipe) -> RoundOptions:
    """What was said of rounds; if nothing was, what gained most for its seconds on the digits (benchmarks/README.md): the best of
    four candidates, sampled with a quarter of the steps, at most 10, where these show what all would make of them."""
    if any(getattr(options, name) is not None for name in OF_A_STUDENT):
        return options
    steps = min((recipe.steps or 0) // 4, MOST_STEPS_OF_A_CANDIDATE)
    cheap = steps >= FEWEST_STEPS_OF_A_CANDIDATE and not _adds_noise(recipe)
    return dataclasses.replace(options, candidates=4, candidate_steps=steps if cheap else None)


def _adds_noise(recipe: Recipe) -> bool:
    return recipe.sampler in SAMPLERS and SAMPLERS[recipe.sampler].adds_noise


def is_begun(store: Store, options: RoundOptions, num_images: int | None) -> bool:
    """Whether the round asked for, up to ``num_images``, is the store's last one. Raises ``UsageError`` if there can't be such a
    round, ``MismatchError`` if there is another one."""
    if num_images is None:
        raise UsageError("A round adds images: say how many the store is to have then, with --images N.")
    last = store.rounds[-1] if store.rounds else None
    if last is not None and num_images == last.stop:
        stored, asked = dict(last.description.get("asked", {})), _asked(options)
        sha256 = (last.description.get("student") or {}).get("file_sha256")
        wanted = None if options.follow is None else read_followed(options.follow).description["file_sha256"]
        refuse_mismatch(
            f"Round {last.number} of {store.path}",
            {**stored, "student": sha256},
            {**asked, "student": wanted},
            "Leave --round and --follow out to finish it as it was begun, or ask for more --images to add another one.",
        )
        return True
    if num_images <= store.num_images:
        raise UsageError(
            f"{store.path} has {store.num_images:,} images already, and a round adds to them: ask for more with --images."
        )
    if store.missing_blocks() or (last is not None and last.stop > store.num_images):
        raise UsageError(
            f"{store.path} is not finished, and a round follows what is there: run `dmkd generate --store {store.path}` first."
        )
    return False


def resolve_round(
    store: Store,
    recipe: Recipe,
    info: GeneratorFacts,
    options: RoundOptions,
    num_images: int,
    device: str,
    display: Display,
    find_strength: Callable[[Round, bytes], float],
) -> tuple[Round, bytes | None]:
    """What the next round's images are made by, and its student's weights. ``find_strength`` tries out how hard images can be
    pushed. Raises ``UsageError`` for what can't be done."""
    start, images = store.num_images, num_images - store.num_images
    if options.follow is None:
        return Round(start, images, asked=_asked(options)), None
    candidates = 1 if options.candidates is None else options.candidates
    check_candidates(candidates, num_images)
    _check_candidate_steps(info, recipe, options)
    if options.strength and not info.can_be_steered:
        raise UsageError(
            f"--strength: images of {recipe.generator} can't be pushed while they are sampled, only those of a DiT; use "
            "--candidates."
        )
    if candidates > 1 and options.candidate_steps is None and _adds_noise(recipe):
        display.notice(
            f"Candidates take all {recipe.steps} steps: {recipe.sampler} adds noise at each, so that fewer show other images. A "
            "store of --sampler ddim, dpm++ or unipc takes --candidate-steps 10, say."
        )
    followed = read_followed(options.follow)
    _check_student(followed.classifier, store, options.follow)
    labels = next((one for one in store.labels.values() if one.fitted), None)
    if labels is None:
        raise UsageError(
            f"{store.path} has no teacher to compare the student with: label it first, with `dmkd label --teacher NAME`."
        )
    teacher = teacher_of_labels(store, labels, device)
    score = parse_score(options.score)
    one = Round(
        start,
        images,
        asked=_asked(options),
        student=followed.description,
        labels=labels.name,
        teacher_sha256=teacher.sha256,
        score=score.name,
        candidates=candidates,
        candidate_steps=options.candidate_steps,
        strength=options.strength or 0.0,
        window=parse_window(options.window),
    )
    critic = Critic(teacher, followed.classifier.to(device), score)
    _try_score(store, critic, one, device)
    one = dataclasses.replace(one, **_by_class(store, recipe, options, critic, images, device, display))
    if options.strength and options.agreement is not None:
        strength = find_strength(one, followed.weights)
        if strength < options.strength:
            display.notice(
                f"Images are pushed by {strength:g} instead of {options.strength:g}: the teacher would see the class of fewer "
                f"than {options.agreement:.0%} of them."
                if strength
                else f"Images are not pushed: even so the teacher sees the class of fewer than {options.agreement:.0%} of them."
            )
        one = dataclasses.replace(one, strength=strength)
    return one, followed.weights


def read_followed(folder: str) -> Followed:
    """The student in a folder, its own or its run's. Raises ``UsageError`` if there is none."""
    meant = parse_classifier(folder)
    if meant.path is None:
        raise UsageError(f"--follow {folder}: give the folder of a student, or of the run that trained it.")
    student = load_classifier(folder)
    weights = meant.path / "model.safetensors"
    if not weights.is_file():
        raise UsageError(f"--follow {folder}: there is no model.safetensors.")
    return Followed(json.loads((meant.path / "config.json").read_text()), weights.read_bytes(), student)


def _asked(options: RoundOptions) -> dict[str, Any]:
    """What was said of a round, JSON-able, but for its student, which its weights tell."""
    given = {name: getattr(options, name) for name in OF_A_STUDENT if getattr(options, name) is not None}
    if options.follow is not None:
        given |= {"score": parse_score(options.score).name, "candidates": options.candidates or 1}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _try_score(store: Store, critic: Critic, one: Round, device: str) -> None:
    """On two images, before the round is written down: after that it can't be made with another score. Raises ``UsageError`` for
    one that does not work, ``DmkdError`` for one that is not finite."""
    ids = np.arange(min(2, store.num_images))
    images = torch.from_numpy(store.images[ids]).to(device)
    class_ids = torch.from_numpy(store.class_ids[ids].astype(np.int64)).to(device)
    critic.look(images, class_ids)
    if one.strength:
        pixels = (images.permute(0, 3, 1, 2) / 255).requires_grad_()
        Climb(critic, class_ids, one.strength, one.window).score(pixels, slice(None))


def _check_student(student: Classifier, store: Store, folder: str) -> None:
    if student.num_classes != store.num_classes:
        raise UsageError(
            f"The student in {folder} knows {student.num_classes:,} classes and {store.path} has {store.num_classes:,}: follow "
            "one that was trained on this store."
        )
    if student.class_names and list(student.class_names) != list(store.class_names):
        raise UsageError(
            f"The student in {folder} knows other classes than {store.path}: follow one that was trained on it."
        )


def _check_candidate_steps(info: GeneratorFacts, recipe: Recipe, options: RoundOptions) -> None:
    steps = options.candidate_steps
    if steps is None:
        return
    if recipe.steps is None or not 1 <= steps < recipe.steps:
        fewer = f"1 to {recipe.steps - 1}" if recipe.steps and recipe.steps > 1 else "none fewer"
        raise UsageError(
            f"--candidate-steps {steps}: images of this store take {recipe.steps or 'no'} steps, and candidates are to be "
            f"cheaper: {fewer} will do."
        )
    if _adds_noise(recipe):
        raise UsageError(
            f"--candidate-steps: {recipe.sampler} adds noise at each step, so that fewer steps show other images than all will "
            "make: leave it out, or make the store with --sampler ddim, dpm++ or unipc."
        )
    asked = ImageOptions(
        sampler=recipe.sampler,
        steps=steps,
        prompts=recipe.prompts,
        negative_prompt=recipe.negative_prompt,
    )
    info.sampling(asked, {"guidance": recipe.guidance, "sampler": recipe.sampler, "steps": steps})


def _by_class(
    store: Store,
    recipe: Recipe,
    options: RoundOptions,
    critic: Critic,
    images: int,
    device: str,
    display: Display,
) -> dict[str, Any]:
    """Counts and scales of the classes, by what the images that are there say of them."""
    found: dict[str, Any] = {}
    classes = range(len(recipe.asked_classes)) if recipe.compact_classes else recipe.asked_classes
    if options.class_shares:
        seen = look_at(store, critic, np.arange(store.num_images), device)
        found["class_counts"] = class_counts(seen, classes, options.class_shares, images)
    if (limits := class_scales(options)) is not None:
        assert options.agreement is not None
        found["class_guidance"] = _class_guidance(store, recipe, critic, classes, options.agreement, limits, device)
        _tell_unreachable(found["class_guidance"], limits, options.agreement, display)
    return found


def _class_guidance(
    store: Store,
    recipe: Recipe,
    critic: Critic,
    classes: Any,
    target: float,
    limits: Range,
    device: str,
) -> tuple[float, ...]:
    """From the last images' scales, which are those of the round before, by what the teacher says of these images."""
    if recipe.guidance is None or recipe.prompts is not None:
        raise UsageError(f"--class-guidance: {recipe.generator} takes no scale of guidance for each image.")
    last = Round.from_json(store.rounds[-1].description) if store.rounds else Round(0, store.num_images)
    by_recipe = np.full(len(classes), float(np.mean(recipe.guidance)))
    before = by_recipe if last.class_guidance is None else np.array(last.class_guidance)
    seen: Feedback = look_at(store, critic, np.arange(last.start, last.stop), device)
    return class_guidance(seen, classes, before, target, limits)


def _tell_unreachable(scales: tuple[float, ...], limits: Range, target: float, display: Display) -> None:
    if stuck := sum(scale >= limits[1] for scale in scales):
        display.notice(
            f"{stuck} of {len(scales)} classes have the largest scale, {limits[1]:g}: the teacher may still see fewer than "
            f"{target:.0%} of their images as such."
        )
