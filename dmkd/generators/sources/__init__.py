"""Where generators come from. To add a kind, write a class and put it in the list below.

Importing this imports neither torch nor diffusers, so a slip in a name is told at once.
"""

from collections.abc import Mapping
from typing import Any

from dmkd.generators.defaults import DM_KD_DEFAULTS
from dmkd.generators.sources.kind import GeneratorSource, Kind, check_arguments
from dmkd.generators.sources.pipelines import Bundled, Pipelines
from dmkd.generators.sources.plugins import Plugins

__all__ = ["KINDS", "GeneratorSource", "Kind", "check_arguments", "parse_source", "source_defaults"]

# In the order in which they are asked whether a text is of their kind; the last one takes whatever no other does.
KINDS: tuple[Kind, ...] = (Bundled(), Plugins(), Pipelines())


def parse_source(text: str) -> GeneratorSource:
    """Which generator a user or a store means, from the text alone."""
    return next(source for kind in KINDS if (source := kind.parse(text)) is not None)


def source_defaults(text: str | None) -> Mapping[str, Any]:
    """The defaults of a source as a store records it; None: no generator made it."""
    return DM_KD_DEFAULTS if text is None else parse_source(text).defaults
