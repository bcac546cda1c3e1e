"""Where generators come from. To add a kind, write a class and put it in the list below.

Importing this imports neither torch nor diffusers, so a slip in a name is told at once.
"""

from collections.abc import Mapping
from typing import Any

from dmkd.generators.defaults import DM_KD_DEFAULTS
from dmkd.generators.sources.kind import GeneratorSource, Kind, check_arguments
from dmkd.generators.sources.pipelines import Bundled, Checkpoints, Pipelines
from dmkd.generators.sources.plugins import Plugins
from dmkd.recipes.other_vae import with_vae, without_vae
from dmkd.stores.errors import UsageError

__all__ = ["KINDS", "GeneratorSource", "Kind", "check_arguments", "parse_source", "source_defaults"]

# In the order in which they are asked whether a text is of their kind; the last one takes whatever no other does.
KINDS: tuple[Kind, ...] = (Bundled(), Checkpoints(), Plugins(), Pipelines())


def parse_source(text: str, vae: str | None = None) -> GeneratorSource:
    """Which generator a user or a store means, from the text alone; ``vae``: one to put in the place of its own. Raises
    ``UsageError`` for what is of no kind, and for another VAE where there is none."""
    if vae is not None and not parse_source(without_vae(text)[0]).kind.has_vae:
        raise UsageError(f"--vae is for DiT pipelines and checkpoints; {text} has no VAE that dmkd knows.")
    text = with_vae(text, vae)
    return next(source for kind in KINDS if (source := kind.parse(text)) is not None)


def source_defaults(text: str | None) -> Mapping[str, Any]:
    """The defaults of a source as a store records it; None: no generator made it."""
    return DM_KD_DEFAULTS if text is None else parse_source(text).defaults
