"""Where classifiers come from. To add a kind, write a class and put it in the list below.

Importing this imports neither torch nor timm, so a slip in a name is told at once.
"""

from dmkd.classifiers.sources.bundled import BundledDigits
from dmkd.classifiers.sources.kind import ClassifierSource, ClassPrompts, Kind
from dmkd.classifiers.sources.timm_checkpoints import TimmCheckpoint
from dmkd.classifiers.sources.timm_folders import TimmFolder
from dmkd.classifiers.sources.timm_hub import TimmHub
from dmkd.classifiers.sources.timm_models import TimmModel

__all__ = ["KINDS", "ClassPrompts", "ClassifierSource", "Kind", "parse_classifier"]

# In the order in which they are asked whether a text is of their kind; timm's names are whatever no other takes.
KINDS: tuple[Kind, ...] = (BundledDigits(), TimmCheckpoint(), TimmHub(), TimmFolder(), TimmModel())


def parse_classifier(text: str) -> ClassifierSource:
    """Which classifier a user means, from the text alone. Raises ``UsageError`` for a file or folder that is not there; whether
    timm knows an architecture is found out when it is loaded."""
    return next(meant for kind in KINDS if (meant := kind.parse(text)) is not None)
