"""What a kind of classifier source is: the base class, and what it reads of a user's words."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmkd.recipes.zero_shot import ClassPrompts

if TYPE_CHECKING:
    from dmkd.classifiers.classifier import Classifier


@dataclass(frozen=True)
class ClassifierSource:
    """A classifier that a user means. What is beside ``text``, ``name`` and ``kind`` is as its kind reads it."""

    text: str  # what a user wrote
    name: str  # short, and the default name of its label set
    kind: "Kind"
    architecture: str | None = None  # or whatever its kind calls a model by
    path: Path | None = None  # a file or folder that is there


class Kind(ABC):
    """One place where classifiers come from: how they are written, and how they are loaded. Importing one imports neither
    torch nor the library that it loads with."""

    example: str  # as users write one of them
    help: str  # what that is, in one line
    prefix: str | None = None  # what all of them begin with
    library: str | None = None  # what they need beside what dmkd brings
    of_words = False  # whether prompts make it what it is: it knows the classes that they name

    def listed(self) -> list[tuple[str, str]]:
        """What there is of this kind: how it is written, and what that is, in one line."""
        return [(self.example, self.help)]

    def words(self) -> list[str]:
        """What a shell offers: the beginnings of names, and whole ones that are known."""
        return [self.prefix] if self.prefix else []

    @abstractmethod
    def parse(self, text: str) -> ClassifierSource | None:
        """What is meant, from the text alone; None: nothing of this kind. Raises ``UsageError`` for what is of this kind, and
        not there."""

    def known_classes(self, meant: ClassifierSource) -> int | None:
        """How many classes it has, where that is known before anything is loaded or downloaded. Raises ``UsageError`` for a name
        that there is not."""
        return None

    @abstractmethod
    def load(self, meant: ClassifierSource, *, weights: bool, prompts: ClassPrompts | None) -> "Classifier":
        """It, on the CPU, with an empty sha256. ``weights`` False: the shapes alone are right, and torch's default device is
        ``meta``. Raises ``UsageError`` for a name that there is not, ``DmkdError`` if its weights can't be had."""
