"""What a kind of generator source is: the base class, and what it reads of a user's words."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmkd.generators.interface import GeneratorFacts, ImageGenerator, Loading, Told
from dmkd.stores.errors import UsageError


@dataclass(frozen=True)
class GeneratorSource:
    """A generator as the user named it, parsed once by :func:`dmkd.generators.sources.parse_source`."""

    text: (
        str  # as a store records it: digits, a folder's full path, a hub id, package.module:factory, a registered name
    )
    weights: str  # where its weights are, a folder or a hub id; of a plug-in the text
    name: str | None  # of the bundled one; None: the generator says it
    defaults: Mapping[str, Any]  # what a store of it is made with unless options say otherwise
    kind: "Kind"


class Kind(ABC):
    """One place where generators come from: how they are written, described and loaded. Importing one imports neither torch nor
    the library that it loads with."""

    example: str  # as users write one of them
    help: str  # what that is, in one line
    own_code: bool = False  # whether it runs a function of the user's, which takes arguments
    numbered: bool = False  # whether its classes are numbers, to which --class-names puts names
    has_vae: bool = False  # whether --vae can put another in the place of its VAE

    def listed(self) -> list[tuple[str, str]]:
        """What there is of this kind: how it is written, and what that is, in one line."""
        return [(self.example, self.help)]

    @abstractmethod
    def parse(self, text: str) -> GeneratorSource | None:
        """What is meant, from the text alone; None: nothing of this kind. Raises ``UsageError`` for what is of no kind at all."""

    @abstractmethod
    def check(self, source: GeneratorSource) -> None:
        """Raise ``UsageError`` for what is certainly not there, as far as that is known without importing or fetching."""

    @abstractmethod
    def describe(self, weights: str, told: Told) -> GeneratorFacts:
        """What it is, with its sha256. Raises ``UsageError`` if there is none, or if dmkd can't sample it."""

    @abstractmethod
    def configured(self, weights: str, told: Told) -> tuple[GeneratorFacts, list[dict[str, Any]]]:
        """As :meth:`describe`, with as little work as that takes: for planning. Also the configurations of a DiT pipeline: index,
        transformer, VAE, scheduler; none, if its arithmetic can't be counted."""

    @abstractmethod
    def load(self, weights: str, told: Told, loading: Loading, device: str) -> ImageGenerator:
        """It, ready to sample on a device. Raises ``UsageError`` or ``DmkdError``."""


def check_arguments(source: GeneratorSource, arguments: Mapping[str, Any] | None) -> None:
    """Raise ``UsageError`` for arguments that nobody would take."""
    if arguments and not source.kind.own_code:
        raise UsageError(
            f"--generator-arg is for generators of your own (package.module:factory); {source.text} takes no arguments."
        )
