"""Scores against numbers worked out from their formulas, their names, and functions of the user's own."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from dmkd.steering.scores import SCORES, parse_score
from dmkd.stores import DmkdError, UsageError

LOGITS = of_numpy.arrays(np.float32, (3, 5), elements=st.floats(-30, 30, width=32))
TEACHER = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
STUDENT = np.array([[0.0, 1.0, 0.0], [0.5, 0.5, 3.0]])
CLASS_IDS = np.array([0, 2])


def softmax(logits, temperature):
    shares = np.exp(logits / temperature)
    return shares / shares.sum(1, keepdims=True)


def scored(name, teacher=TEACHER, student=STUDENT, class_ids=CLASS_IDS):
    return parse_score(name)(torch.tensor(teacher), torch.tensor(student), torch.tensor(class_ids)).numpy()


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
def test_kl_entropy_and_learnability_are_their_formulas(temperature):
    p, q = softmax(TEACHER, temperature), softmax(STUDENT, temperature)
    np.testing.assert_allclose(scored(f"kl:{temperature}"), (p * np.log(p / q)).sum(1), atol=1e-12)
    np.testing.assert_allclose(scored(f"entropy:{temperature}"), -(q * np.log(q)).sum(1), atol=1e-12)
    losses = [-np.log(shares[[0, 1], CLASS_IDS]) for shares in (q, p)]
    np.testing.assert_allclose(scored(f"learnability:{temperature}"), losses[0] - losses[1], atol=1e-12)


def test_numbers_that_a_hand_can_check():
    even, sure = np.zeros((1, 2)), np.array([[np.log(3), 0.0]])  # 1/2, 1/2 and 3/4, 1/4
    ids = np.array([0])
    kl = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    np.testing.assert_allclose(scored("kl:1", sure, even, ids), [kl])
    np.testing.assert_allclose(scored("entropy:1", sure, even, ids), [np.log(2)])
    np.testing.assert_allclose(scored("learnability:1", sure, even, ids), [np.log(0.75) - np.log(0.5)])
    np.testing.assert_allclose(scored("kl:2", np.array([[np.log(9), 0.0]]), even, ids), [kl], err_msg="softer by half")


@settings(deadline=None)
@given(teacher=LOGITS, student=LOGITS, temperature=st.floats(0.5, 20))
def test_kl_is_never_negative_and_none_where_both_say_the_same(teacher, student, temperature):
    ids = np.zeros(3, np.int64)
    assert (scored(f"kl:{temperature}", teacher, student, ids) >= -1e-5).all()
    np.testing.assert_allclose(scored(f"kl:{temperature}", teacher, teacher, ids), 0, atol=1e-6)
    moved = scored(f"kl:{temperature}", teacher + 7, student - 3, ids)
    np.testing.assert_allclose(moved, scored(f"kl:{temperature}", teacher, student, ids), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (None, "kl:4"),
        ("kl", "kl:4"),
        ("kl:1", "kl:1"),
        ("kl:2.50", "kl:2.5"),
        ("entropy", "entropy:1"),
        ("learnability:3", "learnability:3"),
    ],
)
def test_a_score_is_called_by_its_name_and_temperature(text, name):
    assert parse_score(text).name == name
    np.testing.assert_array_equal(scored(text), scored(name))


@pytest.mark.parametrize("text", ["kl:0", "kl:-1", "kl:x", "kl:inf", "kl:nan", "kl:1:2"])
def test_what_is_no_temperature_is_refused(text):
    with pytest.raises(UsageError, match=f"--score {text}: the temperature is a number above 0, as in kl:4"):
        parse_score(text)


@pytest.mark.parametrize("text", ["loss", "loss:", "", ":4", "KL:4", "5:4"])
def test_what_is_no_score_is_refused_with_those_that_there_are(text):
    with pytest.raises(UsageError, match=f"--score {text}: there are {', '.join(SCORES)}, .* module:function"):
        parse_score(text)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current folder, with a module of scores of the user's own."""
    (tmp_path / "ownscores.py").write_text(
        "import torch\n"
        "number = 3\n"
        "def margin(teacher, student, class_ids):\n"
        "    return teacher.gather(1, class_ids[:, None])[:, 0] - student.gather(1, class_ids[:, None])[:, 0]\n"
        "def one(teacher, student, class_ids): return teacher.mean()\n"
        "def rows(teacher, student, class_ids): return teacher\n"
        "def array(teacher, student, class_ids): return teacher[:, 0].numpy()\n"
        "def broken(teacher, student, class_ids): return teacher[:, 99]\n"
        "def none(teacher, student, class_ids): pass\n"
        "def wild(teacher, student, class_ids): return torch.log(-torch.ones(len(class_ids)))\n"
        "def endless(teacher, student, class_ids): return teacher[:, 0] / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("ownscores", None)


def test_a_function_of_the_users_own(own):
    assert parse_score("ownscores:margin").name == "ownscores:margin"
    np.testing.assert_array_equal(scored("ownscores:margin"), [2.0, 0.0])


@pytest.mark.parametrize(
    ("function", "given"), [("one", r"\(\)"), ("rows", r"\(2, 3\)"), ("array", r"\(2,\)"), ("none", r"\(\)")]
)
def test_one_that_gives_something_else_is_refused(own, function, given):
    with pytest.raises(UsageError, match=f"Score ownscores:{function} gives {given} for 2 images: one number each"):
        scored(f"ownscores:{function}")


def test_one_that_fails_is_named(own):
    with pytest.raises(
        UsageError, match=r"^Score ownscores:broken failed: IndexError: index 99 is out of bounds .*\.$"
    ):
        scored("ownscores:broken")


@pytest.mark.parametrize(("function", "value"), [("wild", "nan"), ("endless", "inf")])
def test_a_score_that_is_not_finite_is_refused(own, function, value):
    with pytest.raises(DmkdError, match=f"^Score ownscores:{function} of an image is {value}: use another --score.$"):
        parse_score(f"ownscores:{function}").finite(*map(torch.tensor, (TEACHER + 2, STUDENT, CLASS_IDS)))


def test_finite_scores_are_float32_without_a_gradient():
    teacher, student = torch.tensor(TEACHER), torch.tensor(STUDENT, requires_grad=True)
    scores = parse_score("kl").finite(teacher, student, torch.tensor(CLASS_IDS))
    assert scores.dtype == torch.float32 and not scores.requires_grad


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ownscores:margn", "has no function called 'margn'.*margin"),
        ("ownscores:number", "has something that is no function"),
        ("ownscore:margin", "there is no module 'ownscore'.*ownscores"),
    ],
)
def test_one_that_is_not_there_is_refused(own, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        parse_score(text)
