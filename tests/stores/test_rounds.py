"""Rounds in a store, on every backend: begun, grown, chained, proved, repaired, copied, tagged."""

import re

import numpy as np
import pytest
from conftest import filled_store, new_store
from interruptions import interrupt
from stores_with_rounds import STUDENT, add_round, arrays_of, columns_of, fill, followed, store_with_rounds

from dmkd.stores import MismatchError, UsageError, open_store
from dmkd.stores.columns import bind_column
from dmkd.stores.convert import convert
from dmkd.stores.identity import fingerprint
from dmkd.stores.pack_copy import pack_copy
from dmkd.stores.packing import pack
from dmkd.stores.tags import read_tag, verify_tag, write_tag
from dmkd.stores.verifying.finding import ERROR, NOTE
from dmkd.stores.verifying.repair import repair
from dmkd.stores.verifying.verifier import Verifier


def errors(store):
    verifier = Verifier(open_store(store.path))
    found = list(verifier.attributes())
    for block in range(verifier.num_blocks):
        found += verifier.block(block)
    return [finding for finding in found if finding.severity == ERROR]


def where(found):
    return [(finding.node, finding.block) for finding in found]


@pytest.fixture
def store(place):
    return open_store(store_with_rounds(place.path).path)


def test_images_before_and_after_have_their_round_and_score(store):
    ids = np.arange(100)
    np.testing.assert_array_equal(store.columns["round"][:], np.searchsorted([60, 80], ids, side="right"))
    scored = (ids >= 60) & (ids < 80)
    np.testing.assert_array_equal(store.columns["score"][:], np.where(scored, ids / 7, np.nan))
    first, second = store.rounds
    assert (first.number, first.start, first.stop, second.start, second.stop) == (1, 60, 80, 80, 100)
    assert first.description == {"start": 60, "images": 20, **followed()} and first.student_weights() == STUDENT
    assert errors(store) == []


def test_the_recipe_stays_the_stores_and_each_round_follows_from_the_one_before(store):
    first, second = store.rounds
    assert (first.before, second.before, store.lineage) == (store.identity, first.identity, second.identity)
    assert first.identity == fingerprint({"before": store.identity, **first.description})
    assert len({store.identity, first.identity, second.identity}) == 3


def test_the_numbers_of_round_0_are_there_as_soon_as_a_round_is_begun(place):
    store = fill(new_store(place.path, num_images=40))
    store.chunks.tree.delete_block("images", 1)  # not made yet
    store.add_round({"start": 40, "images": 8})
    for column in (store.columns["round"], store.columns["score"]):
        assert column.of_rounds and column.missing_blocks() == [1]
    there = [*range(16), *range(32, 40)]
    assert (store.columns["round"][there] == 0).all() and np.isnan(store.columns["score"][there]).all()
    fill(store)
    assert errors(store) == [] and (store.columns["round"][:] == 0).all()


def test_a_round_that_has_not_grown_yet_is_sound(place):
    store = fill(new_store(place.path, num_images=40))
    store.add_round({"start": 40, "images": 8})
    assert errors(store) == []
    store.grow(48)
    assert errors(store) == [] and store.missing_blocks() == [2]


# Refusals


def test_new_images_come_with_the_columns_of_rounds_and_no_others(store):
    arrays = arrays_of(store, 5)
    for columns in ({}, {"round": columns_of(store, 5)["round"]}, {**columns_of(store, 5), "other": np.zeros(16)}):
        with pytest.raises(UsageError, match="need numbers in columns round, score"):
            store.write_block(5, **{**arrays, "columns": columns})
    with pytest.raises(UsageError, match="takes 16 float64 here, not float64 of shape"):
        store.write_block(5, **{**arrays, "columns": {"round": np.ones(16), "score": np.ones(15)}})
    with pytest.raises(UsageError, match="are written with new images, and there are none"):
        store.write_block(5, labels=arrays["labels"], columns=arrays["columns"])
    store.write_block(5, labels=arrays["labels"])
    assert errors(store) == []


def test_a_store_without_rounds_takes_no_columns(place):
    store = new_store(place.path)
    columns = {"round": np.zeros(16), "score": np.zeros(16)}
    with pytest.raises(UsageError, match="need numbers in columns none, and what was given is round, score"):
        store.write_block(0, **{**arrays_of(store, 0), "columns": columns})
    assert store.missing_blocks() == list(range(7))


@pytest.mark.parametrize("name", ["round", "score"])
def test_a_store_with_such_a_column_of_its_own_keeps_it_and_has_no_rounds(place, name):
    store = filled_store(place.path, num_images=40)
    store.add_column(name, np.arange(40.0))
    with pytest.raises(UsageError, match=f"has a column '{name}' of its own.*dmkd columns --remove {name}"):
        store.add_round({"start": 40, "images": 8})
    assert open_store(place.path).rounds == [] and store.columns[name][:].tolist() == list(range(40))
    store.remove_column(name)
    store.add_round({"start": 40, "images": 8})
    assert errors(store) == [] and set(store.columns) == {"round", "score"}


def test_columns_of_rounds_are_nobodys_to_change(store):
    for change in (
        lambda: store.remove_column("round"),
        lambda: store.add_column("score", np.zeros(100), replace=True),
    ):
        with pytest.raises(UsageError, match="says how its rounds came about"):
            change()
    assert errors(store) == []


# Interruptions


def test_a_beginning_that_is_interrupted_anywhere_is_as_if_it_had_not_been(place):
    fill(new_store(place.path, num_images=20))
    for after in range(100):
        store = open_store(place.path)
        interrupt(store, after)
        student = bytes(after + 1)  # another one each time
        try:
            store.add_round({"start": 20, "images": 4, **followed(student)}, student)
            break
        except KeyboardInterrupt:
            left = open_store(place.path)
            assert left.rounds == [] and left.lineage == left.identity and errors(left) == []
            left.write_block(1, **arrays_of(left, 1))
            assert errors(left) == []
    assert after > 5
    store = open_store(place.path)
    assert store.rounds[0].student_weights() == student
    store.grow(24)
    assert errors(fill(store)) == []


# Verifying, repairing


@pytest.mark.breaks_metadata
def test_a_description_that_was_changed_breaks_the_chain(store):
    tree, (first, _) = store.chunks.tree, store.rounds
    tree.set_attributes({"candidates": 9}, first.node)
    assert where(errors(store)) == [("rounds/1", None)]
    changed = {**first.description, "candidates": 9}
    tree.set_attributes({"identity": fingerprint({"before": store.identity, **changed})}, first.node)
    assert where(errors(store)) == [("rounds/2", None)], "it followed another round"


@pytest.mark.breaks_metadata
@pytest.mark.parametrize(("gone", "node"), [((1,), "rounds/2"), ((2,), "rounds"), ((1, 2), "rounds")])
def test_a_round_that_is_gone_is_missed_and_nothing_is_repaired_without_it(store, gone, node):
    for number in gone:
        store.chunks.tree.set_attributes({"identity": None}, f"rounds/{number}")
    found = [finding for finding in errors(store) if finding.block is None]
    assert where(found) == [(node, None)] and not found[0].repairable
    done = repair(open_store(store.path), errors(store))
    assert done.deleted == {} and "Nothing was deleted" in done.refused[0]


def test_a_student_that_is_damaged_is_found(store, place):
    name = next(name for name in place.names() if name.startswith("rounds/1/student/c"))
    content = bytearray(place.read(name))
    content[3] ^= 1
    place.write(name, bytes(content))
    (finding,) = errors(store)
    assert finding.node == "rounds/1/student" and "bring rounds/1 back from a copy" in finding.sentence
    with pytest.raises(MismatchError, match=r"student of round 1 .* is damaged"):
        open_store(store.path).rounds[0].student_weights()


def test_another_student_in_its_place_is_found(store):
    store.chunks.tree.write_constant("rounds/1/student", np.frombuffer(b"another", np.uint8))
    (finding,) = errors(store)
    assert finding.node == "rounds/1/student" and "not the one that its images followed" in finding.sentence


def with_wrong_round(store):
    ids = np.array(store.block_ids(4))
    column = store.columns["round"]
    rows = bind_column(column.identity, ids, store.checks.block(4), np.where(ids < 70, 1.0, 2.0))
    store.chunks.tree.write_block(column.node, 4, rows)


@pytest.mark.parametrize(
    ("harm", "node", "sentence"),
    [
        (with_wrong_round, "columns/round", "10 images .* are not the rounds that these images were made in"),
        (lambda store: store.chunks.tree.delete_block("columns/round", 4), "columns/round", "there are images"),
        (lambda store: store.chunks.tree.delete_block("columns/score", 4), "columns/score", "there are images"),
    ],
)
def test_numbers_that_are_wrong_or_gone_take_their_images_along_and_all_come_back(store, place, harm, node, sentence):
    store.chunks.tree.set_attributes({"source": "a generator"})
    before = place.chunks()
    with store.chunks.tree.transaction():
        harm(store)
    found = errors(store)
    assert where(found) == [(node, 4)] and re.search(sentence, found[0].sentence)
    done = repair(open_store(store.path), found)
    assert done.images and not done.columns and done.refused == []
    again = open_store(store.path)
    assert again.missing_blocks() == [4]
    fill(again)
    assert errors(again) == [] and place.chunks() == before


def test_images_of_no_generator_are_not_deleted_for_a_number(store):
    with store.chunks.tree.transaction():
        store.chunks.tree.delete_block("columns/score", 4)
    done = repair(open_store(store.path), errors(store))
    assert done.deleted == {} and "were not made by a generator" in done.refused[0]


# Copies and tags


def check_same(copy, store):
    assert [one.description for one in copy.rounds] == [one.description for one in store.rounds]
    assert copy.lineage == store.lineage and copy.rounds[0].student_weights() == STUDENT
    for name in ("round", "score"):
        np.testing.assert_array_equal(copy.columns[name][:], store.columns[name][:])
        assert copy.columns[name].of_rounds
    assert errors(copy) == []
    add_round(copy, 20, b"a later student")
    assert errors(copy) == [] and len(copy.rounds) == 3


@pytest.mark.parametrize("ending", ["zarr", "h5"])
def test_a_converted_store_has_the_rounds_and_goes_on_with_more(store, tmp_path, ending):
    check_same(convert(store, str(tmp_path / f"copy.{ending}")), store)


def test_a_packed_store_has_the_rounds_and_goes_on_with_more(tmp_path):
    store = store_with_rounds(tmp_path / "s.zarr")
    check_same(pack_copy(store, str(tmp_path / "packed.zarr")), store)
    before = open_store(convert(store, str(tmp_path / "copy.zarr")).path)
    pack(store)
    check_same(open_store(store.path), before)


def test_a_tag_holds_while_a_further_round_is_added(store):
    tag = write_tag(store, "v1")
    assert tag.manifest["rounds"] == {"1": store.rounds[0].identity, "2": store.rounds[1].identity}
    add_round(store, 20)
    found = verify_tag(open_store(store.path), read_tag(store, "v1"))
    assert not [finding for finding in found if finding.severity == ERROR]
    assert ("rounds/3", "Round 3 was added after the tag was made.") in [
        (finding.node, finding.sentence) for finding in found if finding.severity == NOTE
    ]
    assert write_tag(store, "v2").sha256 != tag.sha256


@pytest.mark.breaks_metadata
def test_a_tag_does_not_hold_with_other_rounds(store):
    tag = write_tag(store, "v1")
    store.chunks.tree.set_attributes({"candidates": 9}, "rounds/1")
    assert "rounds/1" in [one.node for one in verify_tag(open_store(store.path), tag) if one.severity == ERROR]
    store.chunks.tree.set_attributes({"identity": None}, "rounds/2")
    found = verify_tag(open_store(store.path), tag)
    assert "Round 2 was tagged and is not there." in [finding.sentence for finding in found]
