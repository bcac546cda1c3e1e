"""What images say of a student, class by class, and what follows for the next ones."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import filled_store
from hypothesis import given
from hypothesis import strategies as st

from dmkd.steering import feedback
from dmkd.steering.feedback import GAIN, PRIOR, Feedback, class_counts, class_guidance, look_at

CLASSES = range(4)


def feedback_of(score=(1.0, 1.0, 1.0, 1.0), agreement=(0.5, 0.5, 0.5, 0.5)):
    return Feedback(np.array(score), np.array(agreement))


class Brightness:
    """A critic that scores an image by its mean, and agrees where the class is even."""

    def __init__(self):
        self.seen = []

    def look(self, images, class_ids):
        self.seen.append(len(images))
        return images.float().mean((1, 2, 3)), class_ids % 2 == 0


def shrunk(values, classes, num_classes):
    """One class after the other: the mean of its values and of so many more that are the mean of all."""
    return [
        (values[classes == number].sum() + PRIOR * values.mean()) / ((classes == number).sum() + PRIOR)
        for number in range(num_classes)
    ]


def test_means_by_class_are_shrunk_to_that_of_all(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=60)
    ids, critic = np.arange(8, 58), Brightness()
    found = look_at(store, critic, ids, "cpu")
    classes, brightness = store.class_ids[ids], store.images[ids].mean((1, 2, 3))
    np.testing.assert_allclose(found.score, shrunk(brightness, classes, 10), rtol=1e-6)
    np.testing.assert_allclose(found.agreement, shrunk((classes % 2 == 0).astype(float), classes, 10), rtol=1e-6)
    assert sum(critic.seen) == 50


def test_a_class_without_images_is_as_all(tmp_path, monkeypatch):
    monkeypatch.setattr(feedback, "AT_ONCE", 7)
    store = filled_store(tmp_path / "s.zarr", num_images=48)
    ids = np.flatnonzero(store.class_ids[:] != 3)
    found = look_at(store, Brightness(), ids, "cpu")
    assert found.score[3] == pytest.approx(store.images[ids].mean((1, 2, 3)).mean(), rel=1e-6)
    assert found.agreement[3] == pytest.approx((store.class_ids[ids] % 2 == 0).mean())


def test_of_many_images_some_are_looked_at_evenly_spaced(monkeypatch):
    monkeypatch.setattr(feedback, "MOST_IMAGES", 5)
    asked = []

    class Rows:
        def __getitem__(self, ids):
            asked.append(ids.tolist())
            return np.zeros((len(ids), 2, 2, 3), np.uint8)

    store = SimpleNamespace(class_ids=np.zeros(101, np.int32), images=Rows(), num_classes=2)
    look_at(store, Brightness(), np.arange(101), "cpu")
    assert asked == [[0, 25, 50, 75, 100]]


def test_a_share_of_the_images_is_dealt_by_the_scores():
    of = feedback_of(score=(4.0, 2.0, 1.0, 1.0))
    assert class_counts(of, CLASSES, 0.0, 400) == (100, 100, 100, 100)
    assert class_counts(of, CLASSES, 1.0, 400) == (200, 100, 50, 50)
    assert class_counts(of, CLASSES, 0.5, 400) == (150, 100, 75, 75)


def test_scores_below_zero_count_from_the_smallest():
    """As those of learnability do where the student is ahead."""
    assert class_counts(feedback_of(score=(-1.0, 0.0, 1.0, 3.0)), CLASSES, 1.0, 70) == (0, 10, 20, 40)
    assert class_counts(feedback_of(score=(0.0, 0.0, 0.0, 0.0)), CLASSES, 1.0, 40) == (10, 10, 10, 10)
    assert class_counts(feedback_of(score=(-2.0, -2.0, -2.0, -2.0)), CLASSES, 1.0, 40) == (10, 10, 10, 10)


def test_only_the_chosen_classes_are_dealt():
    assert class_counts(feedback_of(score=(4.0, 2.0, 1.0, 1.0)), (3, 1), 1.0, 30) == (10, 20)


@given(
    score=st.lists(st.floats(-100, 100), min_size=4, max_size=4),
    share=st.floats(0, 1),
    images=st.integers(1, 1000),
)
def test_every_image_is_dealt_and_a_higher_score_never_gets_fewer(score, share, images):
    counts = class_counts(feedback_of(score=score), CLASSES, share, images)
    assert sum(counts) == images and min(counts) >= int((1 - share) * images / 4 - 1e-6)
    for a in CLASSES:
        for b in CLASSES:
            assert counts[a] >= counts[b] - 1 or score[a] <= score[b]


def test_where_the_teacher_sees_too_few_guidance_grows_and_where_more_than_enough_it_shrinks():
    of = feedback_of(agreement=(0.2, 0.8, 0.95, 0.5))
    few, enough, many, middling = class_guidance(of, CLASSES, np.full(4, 2.0), 0.8, (1.0, 10.0))
    assert many < enough < middling < few and enough == 2.0
    assert few == pytest.approx(2 * (16**GAIN), abs=1e-4), "by the odds: 4 to 1 instead of 1 to 4"


def test_guidance_keeps_within_its_limits():
    of = feedback_of(agreement=(0.0, 1.0, 0.0, 1.0))
    before = np.array([3.0, 1.5, 1.0, 8.0])
    assert class_guidance(of, CLASSES, before, 0.8, (1.0, 4.0)) == (4.0, 1.0, 4.0, pytest.approx(1.608, abs=1e-3))


def test_guidance_goes_on_from_the_scales_before():
    of = feedback_of(agreement=(0.5, 0.5, 0.5, 0.5))
    first, second = class_guidance(of, (0, 1), np.array([1.0, 2.0]), 0.7, (1.0, 10.0))
    assert second == pytest.approx(2 * first, abs=1e-3) and first > 1


def test_guidance_comes_to_rest_where_the_target_is_met():
    """With a teacher that sees more of more guidance, as with odds = scale squared."""
    scale = np.array([1.0])
    for _ in range(30):
        odds = scale**2
        scale = np.array(class_guidance(feedback_of(agreement=odds / (1 + odds)), [0], scale, 0.9, (1.0, 10.0)))
    assert scale[0] == pytest.approx(3.0, abs=1e-3)
