"""Top-1 by the ReaL labels: of images that have any, right if the likeliest class is one of them."""

import json

import numpy as np
import pytest

from dmkd.classifiers.evaluate import Predictions
from dmkd.classifiers.real_labels import FILE_NAME, read_real_labels, real_top1
from dmkd.recipes.class_list import imagenet_classes
from dmkd.stores import UsageError


class OfImageNet:
    def __init__(self, ids=None):
        classes = imagenet_classes() if ids is None else imagenet_classes().subset(ids)
        self.class_names, self.wnids, self.num_classes = list(classes.names), list(classes.wnids), len(classes)


def predictions(top):
    return Predictions(np.zeros(len(top), np.int64), np.array(top)[:, None], np.ones(len(top), np.float32))


@pytest.fixture
def real(tmp_path):
    """Of four images: two classes right, one, none, one."""
    (tmp_path / "real.json").write_text(json.dumps([[3, 7], [5], [], [7]]))
    return read_real_labels(str(tmp_path / "real.json"))


NAMES = [FILE_NAME.format(i) for i in (1, 2, 3, 4)]


def test_images_without_labels_do_not_count(real):
    assert real_top1(predictions([7, 4, 0, 7]), NAMES, OfImageNet(), real) == (pytest.approx(2 / 3), 3)


def test_a_students_own_numbers_are_taken_for_imagenets(real):
    """Of the classes 3, 5 and 7 its class 2 is ImageNet's 7."""
    assert real_top1(predictions([2, 1, 0, 2]), NAMES, OfImageNet([3, 5, 7]), real) == (1.0, 3)


def test_what_real_labels_are_not_for_is_refused(real):
    with pytest.raises(UsageError, match="--real is for a folder of ImageNet's validation images"):
        real_top1(predictions([1]), ["cat.jpg"], OfImageNet(), real)
    others = OfImageNet([1, 2])
    others.class_names, others.wnids = ["one thing", "another"], None
    with pytest.raises(UsageError, match="--real knows the classes of ImageNet, and this classifier has others"):
        real_top1(predictions([1]), NAMES[:1], others, real)


def test_timms_labels_are_there_and_a_file_that_is_none_is_refused(tmp_path):
    assert len(read_real_labels("timm")) == 50_000
    (tmp_path / "x.json").write_text('{"a": "b"}')
    for file, said in (("x.json", "is no list of class ids"), ("y.json", "can't be read: No such file")):
        with pytest.raises(UsageError, match=said):
            read_real_labels(str(tmp_path / file))
