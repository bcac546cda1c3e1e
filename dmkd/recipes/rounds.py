"""A round: what images are made by beyond the store's recipe, after a look at a student."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dmkd.recipes.guidance import Range, parse_guidance
from dmkd.recipes.randomness import MAX_IMAGES, class_order, key64, uniforms
from dmkd.stores.errors import UsageError

MOST_CANDIDATES = 64
# Candidate c of image i has the seed of image i + c * _STRIDE: its own for c = 0, and no two of a store's candidates share one.
_STRIDE = MAX_IMAGES // MOST_CANDIDATES
WINDOW = (50, 800)  # training timesteps


@dataclass(frozen=True)
class RoundOptions:
    """A round as it is asked for. ``None``: not asked for; what is left out does nothing."""

    follow: str | None = (
        None  # folder of the student, or of its run; None: a round without a student, by the recipe alone
    )
    score: str | None = None  # see dmkd.steering.scores; None: kl:4
    candidates: int | None = None
    candidate_steps: int | None = None
    strength: float | None = None
    window: str | tuple[int, int] | None = None
    agreement: float | None = None  # share of the images whose class the teacher is to see
    class_shares: float | None = None  # share of the images that is dealt by the classes' scores
    class_guidance: str | tuple[float, float] | None = None  # the smallest and the largest scale


OF_A_STUDENT = tuple(field.name for field in dataclasses.fields(RoundOptions) if field.name != "follow")


@dataclass(frozen=True)
class Round:
    """What the images ``start`` to ``stop - 1`` are made by, beside the store's recipe. JSON-able by :meth:`to_json`."""

    start: int
    images: int
    asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what the resolved fields came from
    student: Mapping[str, Any] | None = None  # ``file_sha256`` and ``config`` of its timm folder; None: there is none
    labels: str | None = None  # the label set whose teacher the student is compared with
    teacher_sha256: str | None = None
    score: str | None = None
    candidates: int = 1  # of each image, of which the one with the highest score is made
    candidate_steps: int | None = None  # that candidates are sampled with; None: the recipe's, and they are the images
    strength: float = 0.0  # of the gradient of the score, as a share of the predicted noise's norm
    window: tuple[int, int] = WINDOW  # of training timesteps in which there is a gradient
    class_counts: tuple[int, ...] | None = (
        None  # images of each class, in the order of the recipe's; None: as many of each
    )
    class_guidance: tuple[float, ...] | None = None  # scale of each class; None: the recipe's

    @property
    def stop(self) -> int:
        return self.start + self.images

    def to_json(self) -> dict[str, Any]:
        """Without the fields that do nothing."""
        named = {field.name: field.default for field in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in named}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name in ("start", "images") or (value != named[name] and value != {})
        }

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "Round":
        """Raises ``UsageError`` for a description by a newer dmkd, whose images this one can't make."""
        if odd := description.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise UsageError(
                f"A round of this store was made with {', '.join(sorted(odd))}, which this dmkd does not know: upgrade."
            )
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description.items()}
        return cls(**values)

    def class_order(self, seed: int, ids: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """As :func:`dmkd.recipes.randomness.class_order`, with the round's own number of images of each class: dealt so that any
        range of ids has nearly the same shares."""
        if self.class_counts is None:
            return class_order(seed, ids, classes)
        # A last sub-batch is filled up with ids beyond the round.
        order = _dealt(seed, self.start, self.class_counts)
        return classes[order[(np.asarray(ids) - self.start) % len(order)]].astype(np.int32)

    def guidance(self, guidance: np.ndarray | None, places: np.ndarray) -> np.ndarray | None:
        """The scales of images, float32 (n,) by the recipe, of classes in these ``places`` of its classes (n,)."""
        if self.class_guidance is None:
            return guidance
        return np.array(self.class_guidance, np.float32)[places]

    def candidate(self, ids: np.ndarray, candidate: int | np.ndarray) -> np.ndarray:
        """The ids whose seeds number ``candidate`` (or one each, (n,)) of these images has."""
        return np.asarray(ids, np.int64) + candidate * _STRIDE


@lru_cache(maxsize=2)
def _dealt(seed: int, start: int, class_counts: tuple[int, ...]) -> np.ndarray:
    """The class of each image of a round, int64 (images,)."""
    counts = np.array(class_counts)
    classes = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The images of a class are evenly spaced over the round, but for a draw within their own space.
    within = uniforms(key64(seed, f"class shares from {start}"), classes, rank)
    return classes[np.argsort((rank + within) / counts[classes], kind="stable")]


def check_round(options: RoundOptions) -> None:
    """Raise ``UsageError`` for what no store could make a round of, as far as words alone allow."""
    if options.follow is None:
        if given := [name for name in OF_A_STUDENT if getattr(options, name) is not None]:
            option = f"--{given[0].replace('_', '-')}"
            raise UsageError(f"{option} is about the student that a round follows: name it, --follow FOLDER.")
        return
    parse_window(options.window)
    check_candidates(1 if options.candidates is None else options.candidates, 0)
    if options.candidate_steps is not None and (options.candidates or 1) == 1:
        raise UsageError("--candidate-steps is how candidates are sampled: say of how many, --candidates N.")
    if options.strength is not None and not 0 <= options.strength <= 10:
        raise UsageError(f"--strength {options.strength:g}: give a share of the noise from 0 to 10, such as 0.1.")
    if options.window is not None and not options.strength:
        raise UsageError("--window says at which timesteps images are pushed: say how hard, --strength 0.1.")
    if options.class_shares is not None and not 0 <= options.class_shares <= 1:
        raise UsageError(f"--class-shares {options.class_shares:g}: give a share of the images, 0 to 1.")
    if options.agreement is not None and not 0 < options.agreement < 1:
        raise UsageError(
            f"--agreement {options.agreement:g}: give a share of the images, between 0 and 1, such as 0.8."
        )
    if options.class_guidance is not None and options.agreement is None:
        raise UsageError(
            "--class-guidance leads towards a share of the images that the teacher agrees on: give --agreement."
        )
    if options.agreement is not None and not options.strength and options.class_guidance is None:
        raise UsageError("--agreement is what --strength or --class-guidance keep to: give one of them.")
    class_scales(options)


def class_scales(options: RoundOptions) -> Range | None:
    """The smallest and the largest scale of a class, if classes are to have their own. Raises ``UsageError``."""
    if options.class_guidance is None:
        return None
    scales = parse_guidance(options.class_guidance, option="--class-guidance")
    if not isinstance(scales, tuple):
        raise UsageError(
            f"--class-guidance {options.class_guidance}: give the smallest and the largest scale, such as 1:4."
        )
    return scales


def check_candidates(candidates: int, num_images: int) -> None:
    """Raise ``UsageError`` for more candidates than there are seeds for."""
    if not 1 <= candidates <= MOST_CANDIDATES:
        raise UsageError(f"--candidates {candidates}: ask for 1 to {MOST_CANDIDATES} of each image.")
    if candidates > 1 and num_images > _STRIDE:
        raise UsageError(f"--candidates: a store of {num_images:,} images has no seeds left for them; {_STRIDE:,} do.")


def parse_window(text: str | tuple[int, int] | None) -> tuple[int, int]:
    """``"50:800"`` -> (50, 800), training timesteps. Raises ``UsageError``."""
    if text is None:
        return WINDOW
    ends = text.split(":") if isinstance(text, str) else text
    try:
        low, high = (int(end) for end in ends)
    except ValueError:
        low, high = 1, 0
    if not 0 <= low < high:
        raise UsageError(f"--window {text!r}: give two training timesteps, LOW:HIGH, such as 50:800.")
    return low, high


def by_round(rounds: Sequence[Round], ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive ids, int64 (n,) -> the number of each round that made some of them, and these; 0: before the first."""
    number = np.searchsorted([one.start for one in rounds], ids, side="right")
    for one in np.unique(number):
        yield int(one), ids[number == one]


def image_counts(shares: np.ndarray, images: int) -> tuple[int, ...]:
    """Whole numbers of images, in sum ``images``, in proportion to shares (C,): by largest remainder."""
    exact = shares / shares.sum() * images
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: images - counts.sum()]] += 1
    return tuple(counts.tolist())
