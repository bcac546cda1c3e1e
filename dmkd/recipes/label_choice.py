"""Which label sets a student learns from, and with what weights."""

from dmkd.stores.errors import UsageError


def parse_labels(text: str | None) -> dict[str, float]:
    """``"resnet34,resnet18"`` or ``"resnet34=0.7,resnet18=0.3"`` -> label set -> weight (1 where none is given)."""
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        name, equals, number = part.partition("=")
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = -1.0
        if not 0 < weight < float("inf") or name in weights:
            raise UsageError(f"--labels {text!r}: write names, each once, with weights if you like: a=2,b=1.")
        weights[name] = weight
    return weights
