"""Classifier-free guidance as a user writes it: one scale or a range of scales, and the part of the noise it acts on."""

import math

from dmkd.stores.errors import UsageError

LARGEST = 30.0

Range = tuple[float, float]


def parse_guidance(text: str | float | Range, least: float = 1, option: str = "--guidance") -> float | Range:
    """``2`` -> 2.0; ``"1.5:3"`` -> (1.5, 3.0): each image's scale is drawn from that range. Raises ``UsageError``.

    ``least``: 0 for pipelines whose scale for no guidance is 0.
    """
    scales = _numbers(option, text)
    if not all(least <= scale <= LARGEST for scale in scales):  # also refuses NaN
        raise UsageError(f"Guidance {_show(scales)} is out of range: {least:g} (none) to {LARGEST:g}.")
    return scales[0] if scales[0] == scales[-1] else (scales[0], scales[-1])


def parse_interval(text: str | Range | None) -> Range | None:
    """``"0.1:0.27"`` -> (0.1, 0.27): guided while the timestep is in this share of the training timesteps, 1 being pure
    noise and 0 the finished image; None: always. Raises ``UsageError``."""
    if text is None:
        return None
    ends = _numbers("--guidance-interval", text)
    if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 1:
        raise UsageError(
            f"--guidance-interval {_show(ends)}: give two shares of the noise, LOW:HIGH with 0 <= LOW < HIGH <= 1 "
            "(1 is pure noise), such as 0.1:0.27."
        )
    return ends[0], ends[1]


def _numbers(option: str, text: str | float | Range) -> list[float]:
    parts = list(text) if isinstance(text, tuple | list) else str(text).split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 2 or any(math.isnan(number) for number in numbers) or numbers != sorted(numbers):
        raise UsageError(f"{option} {text!r}: give one number, or LOW:HIGH.")
    return numbers


def _show(numbers: list[float]) -> str:
    return ":".join(f"{number:g}" for number in numbers)
