"""Rounds of text-to-image generators, of those of the user's own, of lossy, smaller and chosen images, and in one file."""

import sys

import numpy as np
import pytest
from conftest import make_teacher
from tiny_rounds import ALL_AT_ONCE, HERE, begin, copy, follow, make_student, recipe_and_round, refused
from tiny_text_models import save_tiny_text_pipeline

from dmkd.generate import ImageOptions, LabelOptions, generate
from dmkd.runtime.progress import Silent
from dmkd.stores import open_store
from dmkd.verify import verify


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text-to-image generator, names of three classes, a teacher and a student of these."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "names.txt").write_text("cat\ndog\nfish\n")
    make_teacher(folder / "teacher", num_classes=3)
    make_student(folder / "student", ["cat", "dog", "fish"])
    save_tiny_text_pipeline(folder / "sd")
    return folder


def test_a_text_to_image_generator_makes_candidates_and_can_not_be_steered(text, tmp_path):
    store = begin(
        tmp_path / "s.zarr",
        text / "sd",
        text / "teacher",
        images=8,
        sampler="pipeline",
        guidance=3,
        class_names=str(text / "names.txt"),
    )
    student = text / "student"
    refused(
        store, {"strength": 0.1}, "--strength: images of sd can't be pushed .* only those of a DiT; use --cand", student
    )
    refused(
        store,
        {"class_guidance": "1:4", "agreement": 0.5},
        "--class-guidance: sd takes no scale of guidance for",
        student,
    )
    store = follow(store, student, 24, candidates=2, candidate_steps=2, class_shares=0.5)
    assert not store.missing_blocks() and (store.columns["score"][8:] >= 0).all()
    assert not verify(store.path, regenerate=1.0, device="cpu", display=Silent()).findings


PLUGIN = """
import numpy as np

class Noise:
    class_names = ("cat", "dog", "fish")
    image_size = 32
    sha256 = "ab" * 32
    cpu_sub_batch = 8

    def sample(self, class_ids, seeds):
        drawn = [np.random.default_rng(int(seed)).integers(0, 200, (32, 32, 3), np.uint8) for seed in seeds]
        return np.stack(drawn) + (18 * class_ids).astype(np.uint8)[:, None, None, None]

def make(device):
    return Noise()
"""


def test_a_generator_of_the_users_own_makes_candidates(text, tmp_path, monkeypatch):
    (tmp_path / "plain_noise.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    images = ImageOptions(generator="plain_noise:make", images=20, block_size=8)
    store, _ = generate(
        str(tmp_path / "s.zarr"), images, LabelOptions((str(text / "teacher"),), "center"), HERE, Silent()
    )
    student = text / "student"
    refused(store, {"strength": 0.1}, "--strength: images of plain_noise:make can't be pushed", student)
    refused(
        store, {"candidates": 2, "candidate_steps": 2}, "images of this store take no steps, .* none fewer", student
    )
    refused(store, {"class_guidance": "1:2", "agreement": 0.5}, "plain_noise:make takes no scale of guidance", student)
    store = follow(store, student, 40, candidates=4)
    alone = follow(copy(open_store(store.path), tmp_path / "more.zarr"), student, 60)
    assert store.columns["score"][20:].mean() > alone.columns["score"][40:].mean()
    assert not verify(store.path, regenerate=1.0, device="cpu", display=Silent()).findings
    sys.modules.pop("plain_noise")


@pytest.mark.parametrize(
    "options",
    [
        {"image_codec": "jpeg:80"},
        pytest.param({"size": 16}, marks=pytest.mark.slow),
        {"classes": "2,5,7"},
        pytest.param({"guidance": "1:3"}, marks=pytest.mark.slow),
    ],
)
def test_other_recipes_have_rounds_too(tiny_generator, tiny_teacher, tmp_path, options):
    store = begin(tmp_path / "s.zarr", tiny_generator, tiny_teacher, images=20, **options)
    student = make_student(tmp_path / "student", store.class_names)
    store = follow(store, student, 40, **ALL_AT_ONCE)
    assert not store.missing_blocks() and np.isfinite(store.columns["score"][20:]).all()
    counts = recipe_and_round(store)[1].class_counts
    assert len(counts) == store.num_classes
    assert np.bincount(store.class_ids[20:], minlength=store.num_classes).tolist() == list(counts)
    assert not verify(store.path, regenerate=1.0, device="cpu", display=Silent()).findings
