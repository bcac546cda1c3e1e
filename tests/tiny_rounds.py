"""Stores of tiny models and their rounds, for tests of making, training and distilling."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import tree_bytes

from dmkd.classifiers.students import create_student, save_student
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.recipes.recipe import Recipe
from dmkd.recipes.rounds import Round, RoundOptions
from dmkd.runtime.progress import Silent
from dmkd.stores import DmkdError, open_store

HERE = RunOptions(workers=0, device="cpu")
FIRST, SECOND = 40, 60  # images without a round, and with one; blocks have 16
ALL_AT_ONCE = {
    "candidates": 2,
    "candidate_steps": 2,
    "strength": 0.2,
    "class_shares": 0.5,
    "class_guidance": "1:3",
    "agreement": 0.01,
}


class Told(Silent):
    """Keeps the notices."""

    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def make_student(folder, names, seed=5, architecture="test_resnet", image_size=32):
    torch.manual_seed(seed)
    model = create_student(architecture, len(names), image_size=image_size)
    with torch.no_grad():  # so that it says something about classes
        model.get_classifier().weight.normal_(0, 1)
    fed = {"input_size": 32, "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    save_student(folder, model, architecture, list(names), {**fed, "mean": (0.5,) * 3, "std": (0.5,) * 3})
    return folder


def begin(path, generator, teacher, images=FIRST, run=HERE, **options):
    """A store before its first round."""
    options = {"sampler": "ddim", "steps": 4, "guidance": 1.5, "block_size": 16, "sub_batch": 8, **options}
    labels = LabelOptions((str(teacher),), "rrc:2")
    return generate(str(path), ImageOptions(generator=str(generator), images=images, **options), labels, run, Silent())[
        0
    ]


def follow(store, student, images=SECOND, *, display=None, run=HERE, **options):
    """Another round, that follows a student."""
    options = RoundOptions(None if student is None else str(student), **options)
    return generate(
        str(getattr(store, "path", store)),
        ImageOptions(images=images),
        LabelOptions(),
        run,
        display or Silent(),
        None,
        options,
    )[0]


def resume(store, run=HERE):
    return generate(str(getattr(store, "path", store)), ImageOptions(), LabelOptions(), run, Silent())[0]


def copy(store, path):
    shutil.copytree(store.path, path)
    return open_store(path)


def recipe_and_round(store, number=1):
    return Recipe.from_json(store.recipe), Round.from_json(store.rounds[number - 1].description)


def refused(first, options, sentence, student):
    """The refusal, and that the store is as it was."""
    before = tree_bytes(Path(first.path))
    with pytest.raises(DmkdError, match=sentence):
        follow(first, student, **options)
    assert tree_bytes(Path(first.path)) == before and not open_store(first.path).rounds
