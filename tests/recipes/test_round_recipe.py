"""What a round says of its images: written down and read, classes dealt, seeds of candidates, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.recipes.randomness import class_order, image_seeds
from dmkd.recipes.rounds import (
    MOST_CANDIDATES,
    OF_A_STUDENT,
    WINDOW,
    Round,
    RoundOptions,
    by_round,
    check_candidates,
    check_round,
    image_counts,
    parse_window,
)
from dmkd.stores import UsageError

TEXTS = st.text(max_size=8)
SCALES = st.floats(1, 30)
ROUNDS = st.builds(
    Round,
    start=st.integers(0, 10**6),
    images=st.integers(1, 10**6),
    asked=st.dictionaries(TEXTS, st.integers() | SCALES | TEXTS | st.lists(SCALES, min_size=2, max_size=2)),
    student=st.none() | st.fixed_dictionaries({"file_sha256": TEXTS, "config": st.dictionaries(TEXTS, TEXTS)}),
    labels=st.none() | TEXTS,
    teacher_sha256=st.none() | TEXTS,
    score=st.none() | TEXTS,
    candidates=st.integers(1, MOST_CANDIDATES),
    candidate_steps=st.none() | st.integers(1, 250),
    strength=st.floats(0, 10),
    window=st.tuples(st.integers(0, 500), st.integers(501, 999)) | st.just(WINDOW),
    class_counts=st.none() | st.lists(st.integers(0, 10**6), min_size=1).map(tuple),
    class_guidance=st.none() | st.lists(SCALES, min_size=1).map(tuple),
)


@st.composite
def dealt(draw):
    """A round with counts, the seed of its recipe, and its classes."""
    counts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any))
    start, seed = draw(st.integers(0, 10**6)), draw(st.integers(0, 2**40))
    return Round(start, sum(counts), class_counts=tuple(counts)), seed, np.arange(len(counts)) * 3


@given(one=ROUNDS)
def test_what_is_written_down_is_read_back(one):
    assert Round.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_what_does_nothing_is_not_written_down():
    """So that identities stay when a later version knows more."""
    assert Round(40, 20).to_json() == {"start": 40, "images": 20}
    assert Round(40, 20, candidates=2, window=(10, 20)).to_json() == {
        "start": 40,
        "images": 20,
        "candidates": 2,
        "window": [10, 20],
    }


def test_a_round_by_a_newer_version_is_refused():
    with pytest.raises(UsageError, match="made with curiosity, zeal, which this dmkd does not know: upgrade"):
        Round.from_json({"start": 0, "images": 1, "zeal": 2, "curiosity": 1})


@given(of=dealt())
def test_each_class_has_exactly_its_count(of):
    one, seed, classes = of
    order = one.class_order(seed, np.arange(one.start, one.stop), classes)
    assert order.dtype == np.int32
    assert [int((order == class_id).sum()) for class_id in classes] == list(one.class_counts)


@given(of=dealt(), data=st.data())
def test_the_class_of_an_image_does_not_depend_on_who_asks(of, data):
    one, seed, classes = of
    everything = one.class_order(seed, np.arange(one.start, one.stop), classes)
    asked = np.array(data.draw(st.lists(st.integers(0, one.images - 1), max_size=20)), np.int64)
    np.testing.assert_array_equal(one.class_order(seed, one.start + asked, classes), everything[asked])


@settings(max_examples=200, deadline=None)
@given(of=dealt())
def test_any_range_of_ids_has_nearly_its_share_of_each_class(of):
    """Images of a class are evenly spaced but for a draw within their own space: of any beginning of the round, each class
    lacks or exceeds its share by one, and by one of its share for each class; a range is the difference of two beginnings."""
    one, seed, classes = of
    order = one.class_order(seed, np.arange(one.start, one.stop), classes)
    shares = np.array(one.class_counts) / one.images
    seen = np.concatenate([np.zeros((1, len(classes))), np.cumsum(order[:, None] == classes, axis=0)])
    surplus = seen - np.arange(one.images + 1)[:, None] * shares
    assert (np.abs(surplus) <= 1 + len(classes) * shares).all()


def test_classes_are_mixed_and_not_dealt_in_turn():
    one = Round(0, 1000, class_counts=(500, 300, 200))
    order = one.class_order(0, np.arange(1000), np.arange(3))
    assert len(np.unique(order.reshape(100, 10), axis=0)) > 60
    assert (one.class_order(1, np.arange(1000), np.arange(3)) != order).any(), "the recipe's seed counts"
    later = Round(1000, 1000, class_counts=(500, 300, 200)).class_order(0, np.arange(1000, 2000), np.arange(3))
    assert (later != order).any(), "another round deals anew"


def test_without_counts_the_order_is_the_recipes():
    ids, classes = np.arange(40, 95), np.arange(7) * 2
    np.testing.assert_array_equal(Round(40, 55).class_order(3, ids, classes), class_order(3, ids, classes))


def test_guidance_is_the_recipes_or_that_of_each_class():
    recipes = np.full(3, 2.0, np.float32)
    assert Round(0, 3).guidance(recipes, np.array([0, 1, 1])) is recipes
    of_classes = Round(0, 3, class_guidance=(1.0, 4.0)).guidance(recipes, np.array([0, 1, 1]))
    assert of_classes.tolist() == [1.0, 4.0, 4.0] and of_classes.dtype == np.float32


@given(
    shares=st.lists(st.floats(0, 1e6), min_size=1, max_size=50).filter(lambda shares: sum(shares) > 1e-6),
    images=st.integers(0, 10**6),
)
def test_counts_are_the_shares_within_one_image(shares, images):
    shares = np.array(shares)
    counts = image_counts(shares, images)
    assert sum(counts) == images and min(counts) >= 0 and all(type(count) is int for count in counts)
    assert (np.abs(counts - shares / shares.sum() * images) < 1 + 1e-6).all()


def test_what_is_left_over_goes_to_the_largest_remainders():
    assert image_counts(np.array([0.5, 0.3, 0.2]), 4) == (2, 1, 1)
    assert image_counts(np.ones(3), 4) == (2, 1, 1), "of equals to the first"


@settings(max_examples=25, deadline=None)
@given(ids=st.sets(st.integers(0, 2**26 - 1), min_size=2, max_size=50), seed=st.integers(0, 2**40))
def test_no_two_candidates_of_a_store_share_a_seed(ids, seed):
    one = Round(0, 1, candidates=MOST_CANDIDATES)
    ids = np.array(sorted(ids))
    seeds = [image_seeds(seed, one.candidate(ids, number)) for number in range(MOST_CANDIDATES)]
    assert len(np.unique(seeds)) == len(ids) * MOST_CANDIDATES
    np.testing.assert_array_equal(seeds[0], image_seeds(seed, ids), "the first is the image as it would be without")


def test_each_image_may_have_a_candidate_of_its_own():
    one = Round(0, 4, candidates=4)
    ids = np.arange(4)
    chosen = one.candidate(ids, np.array([3, 0, 2, 1]))
    assert [int(one.candidate(ids, c)[i]) for i, c in enumerate([3, 0, 2, 1])] == chosen.tolist()


def test_ids_are_parted_by_the_rounds_that_made_them():
    rounds = [Round(10, 5), Round(15, 20)]

    def parts(*ids):
        return [(number, part.tolist()) for number, part in by_round(rounds, np.arange(*ids))]

    assert parts(8, 18) == [(0, [8, 9]), (1, [10, 11, 12, 13, 14]), (2, [15, 16, 17])]
    assert parts(10, 12) == [(1, [10, 11])] and parts(34, 35) == [(2, [34])] and parts(0, 1) == [(0, [0])]
    assert [(number, part.tolist()) for number, part in by_round([], np.arange(3))] == [(0, [0, 1, 2])]


@pytest.mark.parametrize("option", OF_A_STUDENT)
def test_what_is_about_a_student_needs_one(option):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} is about the student .* --follow FOLDER"):
        check_round(RoundOptions(**{option: 1}))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"candidates": 0}, "--candidates 0: ask for 1 to 64"),
        ({"candidates": 65}, "--candidates 65: ask for 1 to 64"),
        ({"candidate_steps": 5}, "--candidate-steps is how candidates are sampled: .* --candidates N"),
        ({"candidate_steps": 5, "candidates": 1}, "--candidate-steps is how candidates are sampled"),
        ({"strength": -0.1}, "--strength -0.1: give a share of the noise from 0 to 10"),
        ({"strength": 10.5}, "--strength 10.5: give a share"),
        ({"strength": float("nan")}, "--strength nan: give a share"),
        ({"window": "50:800"}, "--window says at which timesteps .* --strength 0.1"),
        ({"window": "50:800", "strength": 0.0}, "--window says at which timesteps"),
        ({"class_shares": 1.1}, "--class-shares 1.1: give a share of the images, 0 to 1"),
        ({"class_shares": float("nan")}, "--class-shares nan: give a share"),
        ({"agreement": 0.0, "strength": 0.1}, "--agreement 0: give a share of the images, between 0 and 1"),
        ({"agreement": 1.0, "strength": 0.1}, "--agreement 1: give a share"),
        ({"agreement": 0.8}, "--agreement is what --strength or --class-guidance keep to"),
        ({"class_guidance": "1:4"}, "--class-guidance leads towards .* give --agreement"),
        ({"class_guidance": "2", "agreement": 0.8}, "--class-guidance 2: give the smallest and the largest scale"),
        ({"class_guidance": "1:x", "agreement": 0.8}, "--class-guidance '1:x': give one number, or LOW:HIGH"),
        ({"class_guidance": "1:99", "agreement": 0.8}, "Guidance 1:99 is out of range: 1 .none. to 30"),
    ],
)
def test_what_makes_no_round_is_refused_and_the_option_is_named(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_round(RoundOptions(follow="students/first", **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"candidates": 64, "candidate_steps": 1},
        {"strength": 0.0},
        {"strength": 0.3, "window": "0:999", "agreement": 0.5},
        {"class_shares": 1.0, "class_guidance": (1.0, 4.0), "agreement": 0.9},
    ],
)
def test_what_makes_one_is_not_refused(options):
    check_round(RoundOptions(follow="students/first", **options))
    check_round(RoundOptions())


@pytest.mark.parametrize("text", ["", "50", "50:", ":800", "800:50", "50:50", "-1:50", "a:b", "1:2:3", "0.5:8", (5,)])
def test_what_is_no_window_is_refused(text):
    with pytest.raises(UsageError, match="--window .*: give two training timesteps, LOW:HIGH, such as 50:800"):
        parse_window(text)


def test_windows_are_read():
    assert parse_window("0:1") == (0, 1) and parse_window((50, 800)) == (50, 800) and parse_window(None) == WINDOW


def test_candidates_need_seeds_that_no_image_has():
    check_candidates(2, 2**26)
    check_candidates(1, 2**32)
    with pytest.raises(
        UsageError, match="--candidates: a store of 67,108,865 images has no seeds left .* 67,108,864 do"
    ):
        check_candidates(2, 2**26 + 1)
