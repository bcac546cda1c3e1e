"""What no round can be made of: one sentence each, and the store is as it was."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tree_bytes
from tiny_rounds import HERE, begin, copy, follow, make_student, refused

from dmkd.generate import ImageOptions, LabelOptions, generate
from dmkd.making import round_request
from dmkd.runtime.progress import Silent
from dmkd.stores import MismatchError, UsageError, open_store


@pytest.fixture(scope="module")
def first(tmp_path_factory, tiny_generator, tiny_teacher):
    return begin(tmp_path_factory.mktemp("first") / "s.zarr", tiny_generator, tiny_teacher)


@pytest.fixture(scope="module")
def student(tmp_path_factory, first):
    return make_student(tmp_path_factory.mktemp("student") / "student", first.class_names)


@pytest.fixture(scope="module")
def followed(tmp_path_factory, first, student):
    """60 images, 20 of them made in a round."""
    return follow(copy(first, tmp_path_factory.mktemp("followed") / "s.zarr"), student, candidates=3, score="entropy")


def test_without_a_round_a_store_that_has_some_is_not_grown(followed):
    before = tree_bytes(Path(followed.path))
    with pytest.raises(
        UsageError, match="The last images of .* were made in round 1: add --follow STUDENT .* or --round"
    ):
        generate(followed.path, ImageOptions(images=100), LabelOptions(), HERE, Silent())
    assert generate(followed.path, ImageOptions(images=60), LabelOptions(), HERE, Silent())[0].num_images == 60
    assert tree_bytes(Path(followed.path)) == before


def test_a_round_that_was_begun_is_gone_on_with_as_it_was(followed, student, tmp_path):
    before = tree_bytes(Path(followed.path))
    other = make_student(tmp_path / "other", followed.class_names, seed=6)
    stored, asked = (round_request.read_followed(str(one)).description["file_sha256"] for one in (student, other))
    with pytest.raises(
        MismatchError, match=f"Round 1 of .*student: the store has {stored[:12]}…, you asked for {asked[:12]}…"
    ):
        follow(followed, other, 60, candidates=3, score="entropy")
    with pytest.raises(MismatchError, match="candidates: the store has 3, you asked for 2"):
        follow(followed, student, 60, candidates=2, score="entropy")
    with pytest.raises(MismatchError, match="score: the store has entropy:1, you asked for kl:4"):
        follow(followed, student, 60, candidates=3)
    with pytest.raises(UsageError, match="holds 60 images and can't shrink to 50; ask for at least as many"):
        follow(followed, student, 50, candidates=3)
    assert tree_bytes(Path(followed.path)) == before and len(open_store(followed.path).rounds) == 1


def test_a_round_needs_a_store_and_a_number(first, student, tmp_path):
    with pytest.raises(
        UsageError, match="There is no store at .* that a round could be added to: make its first images"
    ):
        follow(tmp_path / "none.zarr", student)
    assert not (tmp_path / "none.zarr").exists()
    with pytest.raises(
        UsageError, match="A round adds images: say how many the store is to have then, with --images N"
    ):
        follow(first, student, None)
    with pytest.raises(UsageError, match="has 40 images already, and a round adds to them: ask for more with --images"):
        follow(first, student, 40)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"candidates": 2, "candidate_steps": 4},
            "--candidate-steps 4: images of this store take 4 steps, .* 1 to 3 will do",
        ),
        ({"candidates": 2, "candidate_steps": 0}, "--candidate-steps 0: .* 1 to 3 will do"),
        ({"candidates": 65}, "--candidates 65"),
        ({"strength": 11.0}, "--strength 11"),
        ({"score": "kl:x"}, "--score kl:x"),
        ({"class_guidance": "1:4"}, "give --agreement"),
    ],
)
def test_what_no_round_can_be_made_of_leaves_the_store_alone(first, student, options, sentence):
    refused(first, options, sentence, student)


OWN_SCORES = """
import torch
def wild(teacher, student, class_ids): return teacher[:, 0] * float("nan")
def few(teacher, student, class_ids): return teacher
def broken(teacher, student, class_ids): return teacher[:, 99]
def counted(teacher, student, class_ids): return (teacher.argmax(1) != class_ids).float()
"""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"score": "scores_of_rounds:wild"}, "Score scores_of_rounds:wild of an image is nan: use another --score"),
        (
            {"score": "scores_of_rounds:few"},
            r"Score scores_of_rounds:few gives \(2, 10\) for 2 images: one number each is wanted",
        ),
        ({"score": "scores_of_rounds:broken"}, "Score scores_of_rounds:broken failed: IndexError"),
        ({"score": "scores_of_rounds:counted", "strength": 0.1}, "Score scores_of_rounds:counted has no gradient"),
        ({"score": "scores_of_rounds:none"}, "scores_of_rounds has no function called 'none'"),
    ],
)
def test_a_score_that_does_not_work_leaves_the_store_alone(first, student, tmp_path, monkeypatch, options, sentence):
    (tmp_path / "scores_of_rounds.py").write_text(OWN_SCORES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    refused(first, options, sentence, student)
    sys.modules.pop("scores_of_rounds", None)


def test_students_that_do_not_fit_leave_the_store_alone(first, student, tmp_path):
    seven = make_student(tmp_path / "seven", first.class_names[:7])
    refused(
        first, {}, "The student in .*seven knows 7 classes and .* has 10: follow one that was trained on this", seven
    )
    others = make_student(tmp_path / "others", [f"other {number}" for number in range(10)])
    refused(first, {}, "The student in .*others knows other classes than .*: follow one that was trained on it", others)
    refused(first, {}, "none", tmp_path / "none")
    refused(first, {}, "--follow resnet18: give the folder of a student, or of the run that trained it", "resnet18")
    (tmp_path / "pth").mkdir()
    shutil.copy(student / "config.json", tmp_path / "pth")
    refused(first, {}, "pth", tmp_path / "pth")
    run = tmp_path / "run"
    shutil.copytree(student, run / "student")
    assert round_request.read_followed(str(run)).description == round_request.read_followed(str(student)).description


def test_a_store_without_a_teacher_has_nothing_to_compare_with(tiny_generator, student, tmp_path):
    store = begin(tmp_path / "s.zarr", tiny_generator, "none", images=16)
    refused(
        store,
        {},
        "has no teacher to compare the student with: label it first, with `dmkd label --teacher NAME`",
        student,
    )
    store = follow(store, None, 24)
    assert np.isnan(store.columns["score"][:]).all() and store.columns["round"][:].tolist() == [0.0] * 16 + [1.0] * 8
