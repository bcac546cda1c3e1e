"""Where classifiers come from. To add a kind, write a class and put it in the list below.

Importing this imports neither torch nor timm, so a slip in a name is told at once.
"""

import importlib.util

from dmkd.classifiers.sources.bundled import BundledDigits
from dmkd.classifiers.sources.clip import Clip
from dmkd.classifiers.sources.kind import ClassifierSource, Kind
from dmkd.classifiers.sources.own_functions import OwnFunction
from dmkd.classifiers.sources.timm_checkpoints import TimmCheckpoint
from dmkd.classifiers.sources.timm_folders import TimmFolder
from dmkd.classifiers.sources.timm_hub import TimmHub
from dmkd.classifiers.sources.timm_models import TimmModel
from dmkd.classifiers.sources.torchvision_models import TorchvisionModel
from dmkd.classifiers.sources.transformers_models import TransformersModel

__all__ = ["KINDS", "ClassifierSource", "Kind", "absent_library", "parse_classifier"]

# In the order in which they are asked whether a text is of their kind; timm's names are whatever no other takes.
KINDS: tuple[Kind, ...] = (
    BundledDigits(),
    TorchvisionModel(),
    TransformersModel(),
    Clip(),
    TimmCheckpoint(),
    TimmHub(),
    TimmFolder(),
    OwnFunction(),
    TimmModel(),
)


def parse_classifier(text: str) -> ClassifierSource:
    """Which classifier a user means, from the text alone. Raises ``UsageError`` for a file or folder that is not there; whether
    timm knows an architecture is found out when it is loaded."""
    return next(meant for kind in KINDS if (meant := kind.parse(text)) is not None)


def absent_library(kind: Kind) -> str | None:
    """What has to be installed before this kind can be loaded; None: nothing."""
    return kind.library if kind.library and importlib.util.find_spec(kind.library) is None else None
