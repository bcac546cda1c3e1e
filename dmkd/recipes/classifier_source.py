"""Which classifier a user means, from the text alone: nothing is loaded, and neither torch nor timm is asked."""

from dataclasses import dataclass
from pathlib import Path

from dmkd import digits
from dmkd.stores.errors import UsageError

CHECKPOINTS = (".safetensors", ".pth", ".pt")
# What files of weights are called that say nothing of what they hold; their architecture says more.
NAMELESS = ("model", "weights", "pytorch_model", "checkpoint", "state_dict", "best", "last", "final")


@dataclass(frozen=True)
class ClassifierSource:
    """One of: a folder (``path`` alone), a checkpoint (``path`` and ``architecture``), a model that timm or the hub has
    (``architecture`` alone)."""

    text: str  # what a user wrote
    name: str  # short, and the default name of its label set
    architecture: str | None
    path: Path | None


def parse_classifier(text: str) -> ClassifierSource:
    """Read any of the names that :mod:`dmkd.classifiers.classifier` lists. Raises ``UsageError`` for a file or folder that
    is not there; whether timm knows an architecture is found out when it is loaded."""
    if text in digits.TEACHERS:
        return ClassifierSource(text, text, None, digits.TEACHERS[text])
    architecture, equals, file = text.partition("=")
    if equals:
        path = Path(file).expanduser()
        if not path.is_file():
            raise UsageError(f"There is no checkpoint {file}.")
        name = architecture if path.stem.lower() in NAMELESS else path.stem
        return ClassifierSource(text, name, architecture, path)
    if text.startswith("hf-hub:"):
        return ClassifierSource(text, text.rsplit("/", 1)[-1], text, None)
    path = Path(text).expanduser()
    if path.is_dir():
        run = path.resolve()  # what `dmkd train-student --out` wrote: the labels of its student are called after it
        if not (path / "config.json").exists() and (path / "student" / "config.json").exists():
            path = path / "student"
        elif run.name in ("student", "best"):
            run = run.parent
        return ClassifierSource(text, run.name, None, path)
    if path.is_file():
        raise UsageError(f"Which architecture has {text}? Write it in front, as in resnet18={text}.")
    if "/" in text or text.endswith(CHECKPOINTS):
        raise UsageError(f"There is no model at {text}.")
    return ClassifierSource(text, text, text, None)
