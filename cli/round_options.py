"""Options of a round of images that follows a student: of ``generate``, ``plan`` and ``distil``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .completion import ListingOption, folders, words
from .help import heading

if TYPE_CHECKING:
    from dmkd.recipes.rounds import RoundOptions

ROUND = "Rounds of images that follow a student"


def _scores() -> str:
    from dmkd.steering.scores import SCORES

    return ", ".join(f"{name}:T ({meaning})" for name, (_, _, meaning) in SCORES.items())


def _score_examples() -> list[str]:
    from dmkd.steering.scores import SCORES

    return [f"{name}:{temperature:g}" for name, (_, temperature, _) in SCORES.items()]


_BY_HAND = (
    click.option(
        "--round",
        "another_round",
        is_flag=True,
        help="The images to be added (--images) are a round of their own.",
    ),
    click.option(
        "--follow",
        shell_complete=folders,
        metavar="FOLDER",
        help="The same, made for a student: the folder of its run. Default: none, and the round is as the recipe says.",
    ),
)
_STEERING = (
    click.option(
        "--score",
        cls=ListingOption,
        listing=_scores,
        shell_complete=words(later=_score_examples),
        metavar="NAME",
        help="How much the student has to learn from an image, at temperature T: {}, or a module:function of yours. Default: "
        "kl:4.",
    ),
    click.option(
        "--candidates",
        type=int,
        metavar="N",
        help="Sample N candidates of each image, and keep the one with the highest score. Default: 1.",
    ),
    click.option(
        "--candidate-steps",
        type=int,
        metavar="N",
        help="Sample candidates with fewer steps, and then the best one's image with all. Default: all steps, once.",
    ),
    click.option(
        "--strength",
        type=float,
        metavar="X",
        help="Push images up the score's gradient while they are sampled, by this share of the noise, such as 0.1 (DiTs only). "
        "Default: 0.",
    ),
    click.option(
        "--window",
        metavar="LOW:HIGH",
        help="Training timesteps at which they are pushed. Default: 50:800.",
    ),
    click.option(
        "--class-shares",
        type=float,
        metavar="X",
        help="Deal this share of the images to classes by their mean score, the rest evenly. Default: 0.",
    ),
    click.option(
        "--class-guidance",
        metavar="LOW:HIGH",
        help="Give each class a scale of guidance of its own, between these, that leads towards --agreement.",
    ),
    click.option(
        "--agreement",
        type=float,
        metavar="X",
        help="Share of the images whose class the teacher is to see: --strength is lowered until it does, --class-guidance led "
        "towards it.",
    ),
)


def round_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A round by hand, for :func:`read_round`."""
    return _with((*_BY_HAND, *_STEERING), function)


def steering_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What all rounds but the first are made by."""
    return _with(_STEERING, function)


def _with(options: tuple[Callable[..., Any], ...], function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed((heading(ROUND), *options)):
        function = option(function)
    return function


def read_steering(options: dict[str, Any], follow: str | None) -> "RoundOptions":
    """Take the values of :func:`steering_options` out of a command's. Raises ``UsageError``."""
    from dmkd.recipes.rounds import OF_A_STUDENT, RoundOptions, check_round
    from dmkd.steering.scores import parse_score

    given = RoundOptions(follow, **{name: options.pop(name) for name in OF_A_STUDENT})
    check_round(given)
    parse_score(given.score)
    return given


def read_round(options: dict[str, Any]) -> "RoundOptions | None":
    """Take the values of :func:`round_options` out of a command's; None: no round is asked for. Raises ``UsageError``."""
    asked, follow = options.pop("another_round"), options.pop("follow")
    given = read_steering(options, follow)
    return given if asked or follow is not None else None
