"""Columns of a user's own: kept, proved, grown, refused."""

import numpy as np
import pytest
from conftest import block_arrays, filled_store, new_store

from dmkd.stores import DamagedChunkError, MissingBlockError, UsageError, open_store
from dmkd.stores.convert import convert
from dmkd.stores.verifying.finding import ERROR
from dmkd.stores.verifying.repair import repair
from dmkd.stores.verifying.verifier import Verifier


def errors(store):
    verifier = Verifier(store)
    found = list(verifier.attributes())
    for block in range(verifier.num_blocks):
        found += verifier.block(block)
    return [finding for finding in found if finding.severity == ERROR]


SCORES = np.random.default_rng(0).normal(size=100)


@pytest.fixture
def store(place):
    made = filled_store(place.path)
    made.add_column("clip_score", SCORES, "cosine with the class name")
    return open_store(made.path)


def test_numbers_come_back_exactly_by_id_in_any_order(store):
    column = store.columns["clip_score"]
    np.testing.assert_array_equal(column[:], SCORES)
    np.testing.assert_array_equal(column[[99, 0, 5]], SCORES[[99, 0, 5]])
    assert column.description == "cosine with the class name" and column.missing_blocks() == []
    assert column.rows.dtype == np.float64 and column.rows.shape == (100,)


def test_a_sound_column_is_found_sound_and_a_changed_number_is_not(store):
    assert errors(store) == []
    node = "columns/clip_score"
    rows = store.chunks.tree.read_block(node, 2).copy()
    rows[3, 0] += 1
    with store.chunks.tree.transaction():
        store.chunks.tree.write_block(node, 2, rows)
    changed = open_store(store.path)
    with pytest.raises(DamagedChunkError, match="image 35"):
        changed.columns["clip_score"][35]
    found = errors(changed)
    assert [(finding.node, finding.block) for finding in found] == [(node, 2)] and "1 image (35)" in found[0].sentence
    done = repair(changed, found)
    assert done.columns == ["clip_score"] and open_store(store.path).columns["clip_score"].missing_blocks() == [2]
    again = open_store(store.path)
    again.add_column("clip_score", SCORES)
    np.testing.assert_array_equal(again.columns["clip_score"][:], SCORES)


def test_other_numbers_are_another_column_and_the_same_ones_are_not(store):
    before = store.columns["clip_score"].identity
    store.add_column("clip_score", SCORES, "described anew")
    assert store.columns["clip_score"].identity == before
    store.add_column("clip_score", -SCORES, replace=True)
    replaced = open_store(store.path)
    assert replaced.columns["clip_score"].identity != before and errors(replaced) == []


def test_numbers_of_another_block_or_column_are_refused(store):
    store.add_column("other", SCORES[::-1].copy())
    tree = store.chunks.tree
    with tree.transaction():
        tree.write_block("columns/other", 1, tree.read_block("columns/clip_score", 1))
        tree.write_block("columns/other", 3, tree.read_block("columns/other", 2))
    swapped = open_store(store.path)
    for image in (16, 48):
        with pytest.raises(DamagedChunkError):
            swapped.columns["other"][image]


def test_other_pixels_take_their_numbers_with_them(store):
    store.write_block(1, **block_arrays(store, 1))
    assert store.columns["clip_score"].missing_blocks() == [], "the same pixels"
    store.write_block(1, **block_arrays(store, 1, seed=77))
    assert open_store(store.path).columns["clip_score"].missing_blocks() == [1]


def test_numbers_are_of_the_images_that_are_there(tmp_path):
    store = new_store(tmp_path / "s.zarr")
    store.write_block(2, **block_arrays(store, 2))
    store.add_column("score", SCORES)
    column = store.columns["score"]
    assert column.missing_blocks() == [0, 1, 3, 4, 5, 6]
    with pytest.raises(MissingBlockError):
        column[0]
    known = column.known(np.arange(100))
    np.testing.assert_array_equal(known[32:48], SCORES[32:48])
    assert np.isnan(known[:32]).all() and np.isnan(known[48:]).all()


def test_a_store_that_grows_keeps_its_numbers_and_takes_more(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    store.add_column("score", SCORES)
    store.grow(128)
    for block in store.missing_blocks():
        store.write_block(block, **block_arrays(store, block))
    column = store.columns["score"]
    assert column.missing_blocks() == [6, 7] and errors(store) == []
    more = np.concatenate([SCORES, np.arange(28.0)])
    store.add_column("score", more)
    np.testing.assert_array_equal(store.columns["score"][:], more)


def test_a_copy_has_them_too(store, tmp_path):
    store.save_selection("easy", "clip_score > 0")
    for ending in ("zarr", "h5"):
        copy = convert(open_store(store.path), str(tmp_path / f"copy.{ending}"))
        np.testing.assert_array_equal(copy.columns["clip_score"][:], SCORES)
        assert copy.selections == {"easy": "clip_score > 0"} and errors(copy) == []


def test_other_numbers_under_the_name_are_refused_unless_they_are_to_be_replaced(store):
    other = SCORES + 1
    with pytest.raises(UsageError, match=r"has other numbers in column clip_score: .*\(--replace\)"):
        store.add_column("clip_score", other)
    np.testing.assert_array_equal(store.columns["clip_score"][:], SCORES)
    store.add_column("clip_score", other, replace=True)
    np.testing.assert_array_equal(open_store(store.path).columns["clip_score"][:], other)


def test_a_removed_column_is_gone_and_its_name_is_free(store):
    store.remove_column("clip_score")
    assert open_store(store.path).columns == {} and errors(open_store(store.path)) == []
    with pytest.raises(UsageError, match="has no column 'clip_score'; it has none"):
        store.remove_column("clip_score")
    store.add_column("clip_score", SCORES + 2)
    np.testing.assert_array_equal(store.columns["clip_score"][:], SCORES + 2)


def test_growing_keeps_what_was_said_of_a_column_last(store):
    """Removed and added again by a process that has its array open."""
    store.remove_column("clip_score")
    store.add_column("clip_score", SCORES, "another description")
    store.grow(112)
    assert open_store(store.path).columns["clip_score"].description == "another description"


def test_a_column_that_was_removed_before_the_store_grew_can_be_added_again(store):
    store.remove_column("clip_score")
    store.grow(112)
    for block in store.missing_blocks():
        store.write_block(block, **block_arrays(store, block))
    numbers = np.arange(112.0)
    store.add_column("clip_score", numbers)
    np.testing.assert_array_equal(open_store(store.path).columns["clip_score"][:], numbers)
    assert errors(open_store(store.path)) == []


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("score", SCORES[:99], r"a number for each of its 100 images, not float64 of shape \(99,\)"),
        ("score", np.array(["a"] * 100), "not <U1 of shape"),
        ("score", np.where(np.arange(100) == 7, np.nan, SCORES), "holds nan for image 7"),
        ("entropy", SCORES, "can't be called 'entropy': selections have a meaning of their own for it"),
        ("my-score", SCORES, "can't be called 'my-score': it is no plain word"),
        ("a/b", SCORES, "not a valid column name"),
    ],
)
def test_what_is_no_column_is_refused_and_nothing_is_left(tmp_path, name, values, said):
    store = filled_store(tmp_path / "s.zarr")
    with pytest.raises(UsageError, match=said):
        store.add_column(name, values)
    assert open_store(store.path).columns == {} and not (tmp_path / "s.zarr/columns").exists()
