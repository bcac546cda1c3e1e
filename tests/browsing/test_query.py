"""Which images a query finds, and in which order; a rule of the page is a rule of ``--select``."""

import numpy as np
import pytest
from conftest import TEACHER, block_arrays, filled_store
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.browsing.query import Finder, Query, gap, query_from
from dmkd.browsing.table import Table
from dmkd.loading.usable import usable_images
from dmkd.stores import UsageError, open_store, parse_codec


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    store = filled_store(tmp_path_factory.mktemp("browse") / "s.zarr")
    codec = parse_codec("float16")
    store.add_label_set("second", teacher=TEACHER, source="s", view_set="views", codec=codec, num_classes=10)
    for block in range(store.num_blocks - 1):
        store.write_block(block, labels={"second": block_arrays(store, block, seed=block + 50)["labels"]["teacher"]})
    store.add_column("score", np.random.default_rng(3).normal(size=100))
    store.save_selection("sure", "entropy < 0.5")
    table = Table(store.path)
    table.update()
    return Finder(table)


RULES = [
    "entropy < 0.5 and agree",
    "@sure or class_id == 3",
    "score > 0",
    "rank(p_class) <= 3",
    "not (2 <= class_id <= 5)",
]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_finds_what_training_with_it_uses(finder, rule):
    store = open_store(finder.table.store.path)
    used = usable_images(store, ["teacher"], select=rule).ids
    np.testing.assert_array_equal(finder.find(Query(rule, "teacher")), used)


def test_a_rule_without_a_teacher_also_finds_what_is_not_labelled(finder):
    assert len(finder.find(Query("class_id >= 0", "second"))) == 100
    assert len(finder.find(Query("entropy >= 0", "second"))) == 96


@settings(deadline=None, max_examples=40)
@given(
    sort=st.sampled_from(["image_id", "class_id", "top1", "p_class", "entropy", "gap", "random", "score"]),
    down=st.booleans(),
    rule=st.sampled_from(["", "class_id < 5"]),
)
def test_orders_are_of_the_same_images_and_sorted(finder, sort, down, rule):
    query = Query(rule, "teacher", "second", sort=sort, down=down)
    found = finder.find(query)
    assert sorted(found.tolist()) == finder.find(Query(rule)).tolist()
    table = finder.table
    values = {
        "image_id": np.arange(100.0),
        "class_id": table.class_ids,
        "gap": gap(table.quality["teacher"], table.quality["second"]),
        "score": table.columns["score"],
        **dict(zip(("top1", "p_class", "entropy"), table.quality["teacher"].T, strict=True)),
    }.get(sort)
    if values is not None:
        ordered = values[found].astype(float)
        known = ordered[~np.isnan(ordered)]
        assert not np.isnan(ordered[: len(known)]).any()  # what has no value comes last
        assert (np.diff(known) <= 0).all() if down else (np.diff(known) >= 0).all()


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 1.0, 5.0, 30.0]))
def test_the_gap_is_never_more_than_the_total_variation(seed, scale):
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(2, 50, 4))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    asked = rng.integers(0, 4, 50)
    entropy = -np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0).sum(-1)
    quality = np.stack([p.argmax(-1), p[:, np.arange(50), asked], entropy], -1)
    variation = np.abs(p[0] - p[1]).sum(-1) / 2
    assert (gap(*quality) <= variation + 1e-9).all() and (gap(*quality) >= 0).all()


def test_teachers_that_are_sure_of_two_wrong_classes_are_far_apart():
    np.testing.assert_allclose(gap(np.array([[1, 0, 0.0]]), np.array([[2, 0, 0.0]])), 1)


def test_pairs_split_what_both_have_labelled(finder):
    table = finder.table
    one, other, asked = table.quality["teacher"][:, 0], table.quality["second"][:, 0], table.class_ids
    found = {
        pair: set(finder.find(Query("", "teacher", "second", pair)).tolist())
        for pair in ("both", "first", "second", "neither")
    }
    assert sorted(image for images in found.values() for image in images) == list(range(96))
    assert found["first"] == {i for i in range(96) if one[i] == asked[i] != other[i]}
    differ = finder.find(Query("", "teacher", "second", "differ"))
    np.testing.assert_array_equal(differ, [i for i in range(96) if one[i] != other[i]])


def test_images_by_their_numbers(finder):
    assert finder.find(query_from({"ids": "7,3,100,250"})).tolist() == [3, 7]
    assert finder.find(query_from({"ids": ","})).tolist() == []


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"rule": "entropi < 1"}, "no such column"),
        ({"rule": "__import__('os')"}, "not a condition"),
        ({"rule": "@other"}, "saved @sure"),
        ({"judge": "third"}, "no label set 'third'"),
        ({"sort": "beauty"}, "can't be sorted by 'beauty'"),
        ({"pair": "first", "judge": "teacher"}, "two teachers"),
        ({"pair": "all", "judge": "teacher", "versus": "second"}, "no comparison 'all'"),
        ({"ids": "1;2"}, "not the numbers"),
        ({"rule": "agree"}, "needs a teacher's opinion"),
        ({"sort": "entropy"}, "is a teacher's opinion"),
    ],
)
def test_what_can_not_be_is_refused_in_a_sentence(finder, asked, sentence):
    with pytest.raises(UsageError, match=sentence):
        finder.find(query_from(asked))
