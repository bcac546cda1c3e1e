"""Histograms, classes, confusions and pairs against counting by hand."""

from collections import Counter

import numpy as np
import pytest
from conftest import block_arrays, filled_store, new_store

from dmkd.browsing.query import Finder, Query
from dmkd.browsing.side_by_side import side_by_side
from dmkd.browsing.summaries import MOST_CLASSES, Histograms, agreement, class_rows, confusion, pair_counts
from dmkd.browsing.table import Table
from dmkd.stores import create_store, parse_codec


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    store = filled_store(tmp_path_factory.mktemp("browse") / "s.zarr")
    store.add_column("score", np.linspace(-2, 3, 100))
    table = Table(store.path)
    table.update()
    return table


def test_histograms_count_every_image_once_between_their_limits(table):
    ids = Finder(table).find(Query("class_id < 5"))
    found = {one["key"]: one for one in Histograms(table).of("teacher", ids)}
    assert list(found) == ["p_class", "entropy", "score"]
    for key, values in (("p_class", table.quality["teacher"][:, 1]), ("score", table.columns["score"])):
        one = found[key]
        limits = np.linspace(one["low"], one["high"], 41)
        assert np.abs(np.array(one["all"]) - np.histogram(values, limits)[0]).sum() <= 2  # at an edge, either bin
        assert sum(one["chosen"]) == len(ids) and one["mean"] == pytest.approx(values[ids].mean(), rel=1e-5)
    assert (found["p_class"]["low"], found["p_class"]["high"], found["score"]["low"]) == (0, 1, -2)


def test_classes_are_counted_and_show_their_extremes(table):
    rows = class_rows(table, "teacher", np.arange(100))
    assert [row["class_id"] for row in rows] == sorted(set(table.class_ids.tolist()))
    for row in rows:
        mine = np.flatnonzero(table.class_ids == row["class_id"])
        quality = table.quality["teacher"][mine]
        assert row["images"] == len(mine)
        assert row["agreement"] == pytest.approx((quality[:, 0] == row["class_id"]).mean())
        assert row["entropy"] == pytest.approx(quality[:, 2].mean(), rel=1e-5)
        assert (row["typical"], row["odd"]) == (mine[quality[:, 1].argmax()], mine[quality[:, 1].argmin()])
    assert class_rows(table, "teacher", np.zeros(0, np.int64)) == []


def test_classes_without_a_teacher_have_images_and_no_opinion(table):
    rows = class_rows(table, None, np.arange(100))
    assert sum(row["images"] for row in rows) == 100
    assert all(row["agreement"] is None and row["odd"] is None for row in rows)
    assert all(table.class_ids[row["typical"]] == row["class_id"] for row in rows)


def test_confusions_are_those_of_the_images(table):
    found = confusion(table, "teacher", np.arange(100))
    by_hand = Counter(zip(table.class_ids.tolist(), table.quality["teacher"][:, 0].astype(int).tolist(), strict=True))
    for i, row in enumerate(found["classes"]):
        for j, column in enumerate(found["classes"]):
            assert found["counts"][i][j] == by_hand[row, column]
    assert found["labelled"] == 100 and sum(found["others"]) == 0
    wrong = {(row, column): n for (row, column), n in by_hand.items() if row != column}
    assert found["wrong"] == sum(wrong.values()) == 100 - agreement(table, "teacher", np.arange(100))["agreed"]
    assert {(a, b): n for a, b, n in found["pairs"]} == wrong
    assert [n for _, _, n in found["pairs"]] == sorted(wrong.values(), reverse=True)


def test_of_many_classes_those_confused_most_are_shown_and_no_image_is_lost(tmp_path):
    store = create_store(
        str(tmp_path / "s.zarr"),
        recipe={"generator": "none", "seed": 0},
        num_images=400,
        image_shape=(8, 8, 3),
        class_names=[f"c{i}" for i in range(100)],
        block_size=400,
    )
    store.add_view_set("views", 1, ("top", "left", "height", "width", "flip"), {"size": 8})
    codec = parse_codec("float16")
    store.add_label_set("t", teacher={"architecture": "t"}, source="t", view_set="views", codec=codec, num_classes=100)
    class_ids = np.arange(400, dtype=np.int32) % 100
    top1 = np.where(class_ids < 10, (class_ids + 1) % 10, class_ids)  # the first ten are taken for one another
    top1[399] = 50  # one of class 99
    quality = np.stack([top1, np.full(400, 0.5), np.full(400, 1.0)], 1).astype(np.float32)
    store.write_block(
        0,
        images=np.zeros((400, 8, 8, 3), np.uint8),
        class_ids=class_ids,
        views={"views": np.tile(np.array([0, 0, 1, 1, 0], np.float32), (400, 1, 1))},
        labels={"t": (np.zeros((400, 1, 100), np.float32), quality)},
    )
    table = Table(store.path)
    table.update()
    found = confusion(table, "t", np.arange(400))
    assert len(found["classes"]) == MOST_CLASSES and {*range(10), 50, 99} <= set(found["classes"])
    assert sum(map(sum, found["counts"])) + sum(found["others"]) == 4 * MOST_CLASSES
    assert found["pairs"][-1] == [99, 50, 1] and found["wrong"] == 41


def test_pairs_are_counted_as_they_are_found(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    codec = parse_codec("float16")
    store.add_label_set("two", teacher={"architecture": "u"}, source="u", view_set="views", codec=codec, num_classes=10)
    for block in range(store.num_blocks):
        store.write_block(block, labels={"two": block_arrays(store, block, seed=block + 9)["labels"]["teacher"]})
    table = Table(store.path)
    table.update()
    finder = Finder(table)
    counts = pair_counts(table, "teacher", "two", np.arange(100))
    assert counts.pop("labelled") == 100
    assert counts == {pair: len(finder.find(Query("", "teacher", "two", pair))) for pair in counts}


def beside(*stores, classes=(), start=0, count=100):
    tables = [Table(store.path) for store in stores]
    for table in tables:
        table.update()
    return side_by_side(tables, classes, start, count)


def test_stores_of_one_seed_are_paired_by_number(tmp_path):
    one, other = (filled_store(tmp_path / name) for name in ("a.zarr", "b.zarr"))
    found = beside(one, other)
    assert found["same_seed"] and found["same_classes"] and found["of"] == 100
    assert [row["ids"] for row in found["rows"]] == [[i, i] for i in range(100)]
    some = beside(one, other, classes=[3], start=1, count=2)
    mine = np.flatnonzero(one.class_ids[:] == 3)
    assert [row["ids"][0] for row in some["rows"]] == mine[1:3].tolist() and some["of"] == len(mine)


def test_stores_of_other_seeds_and_lengths_are_paired_by_class(tmp_path):
    one = filled_store(tmp_path / "a.zarr")
    other = new_store(tmp_path / "b.zarr", num_images=40, recipe={"generator": "none", "seed": 1})
    for block in range(other.num_blocks):
        other.write_block(block, **block_arrays(other, block, seed=block + 70))
    found = beside(one, other)
    assert not found["same_seed"]
    theirs = other.class_ids[:]
    seen = Counter()
    for row in found["rows"]:
        mine, its = row["ids"]
        place = np.flatnonzero(theirs == row["class_id"])
        assert its == (place[seen[row["class_id"]]] if seen[row["class_id"]] < len(place) else None)
        seen[row["class_id"]] += 1
        assert one.class_ids[mine] == row["class_id"]
