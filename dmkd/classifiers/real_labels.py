"""ReaL: ImageNet's validation set with all classes that people see in an image (Beyer et al. 2020, arXiv:2006.07159)."""

import json
import pkgutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.evaluate import Predictions
from dmkd.classifiers.teachers import classes_of_classifier
from dmkd.recipes.class_list import imagenet_classes
from dmkd.stores.errors import UsageError

TIMM = "timm"  # comes with the labels
FILE_NAME = "ILSVRC2012_val_{:08d}.JPEG"


def read_real_labels(source: str) -> dict[str, frozenset[int]]:
    """File name -> ImageNet's class ids that are right, from timm or a ``real.json`` as its authors released it. Raises
    ``UsageError`` if the file is none."""
    try:
        text = (
            pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json")
            if source == TIMM
            else Path(source).read_bytes()
        )
        assert text is not None
        return {FILE_NAME.format(i + 1): frozenset(map(int, ids)) for i, ids in enumerate(json.loads(text))}
    except OSError as error:
        raise UsageError(f"--real {source}: the file can't be read: {error.strerror}.") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"--real {source} is no list of class ids for each image, as real.json is.") from error


def real_top1(
    predictions: Predictions, names: Sequence[str], classifier: Classifier, labels: dict[str, frozenset[int]]
) -> tuple[float, int]:
    """The share of images whose likeliest class is one of those that are right, and of how many images: those that have any.

    ``names``: the images' file names. Raises ``UsageError`` if they are not ImageNet's, or the classifier's classes are not."""
    own = classes_of_classifier(classifier)
    ids = own.places_in(imagenet_classes()) if own is not None else [None]
    if None in ids:
        raise UsageError("--real knows the classes of ImageNet, and this classifier has others: leave it out.")
    known = [(place, labels[name]) for place, name in enumerate(names) if labels.get(name)]
    if not known:
        raise UsageError(
            f"--real is for a folder of ImageNet's validation images ({FILE_NAME.format(1)}, …), and there are none."
        )
    likeliest = np.array(ids)[predictions.top[:, 0]]
    return float(np.mean([int(likeliest[place]) in right for place, right in known])), len(known)
