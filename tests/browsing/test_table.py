"""What the page knows of every image, on every kind of store, while it grows and when it is damaged."""

import numpy as np
import pytest
from conftest import TEACHER, block_arrays, filled_store, new_store

from dmkd.browsing.table import Table
from dmkd.browsing.thumbnails import Thumbnails
from dmkd.stores import NotAStoreError, open_store, parse_codec
from dmkd.stores.packing import pack


def updated(path):
    table = Table(str(path))
    table.update()
    return table


def test_it_holds_what_the_store_holds_of_each_image(place):
    store = filled_store(place.path)
    store.add_column("score", np.arange(100.0))
    table = updated(place.path)
    np.testing.assert_array_equal(table.class_ids, store.class_ids[:])
    np.testing.assert_array_equal(table.quality["teacher"], store.labels["teacher"].quality[:])
    np.testing.assert_array_equal(table.columns["score"], np.arange(100.0))
    assert (table.blocks_made, table.blocks_to_read, table.damaged) == (7, 0, [])


def test_a_store_that_is_packed_while_it_is_looked_at_stays_readable(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    table = updated(store.path)
    pictures = Thumbnails(table.store)
    before = pictures.sheet([0, 99], 32)
    pack(open_store(store.path))
    assert Thumbnails(open_store(store.path)).sheet([0, 99], 32) == before == pictures.sheet([0, 99], 32)
    np.testing.assert_array_equal(updated(store.path).quality["teacher"], table.quality["teacher"])


def test_blocks_that_are_not_there_are_seen_when_they_come(place):
    store = new_store(place.path)
    store.write_block(1, **block_arrays(store, 1))
    table = updated(place.path)
    assert np.flatnonzero(table.class_ids >= 0).tolist() == list(range(16, 32)) and table.blocks_made == 1
    assert np.isnan(table.quality["teacher"][0]).all() and not np.isnan(table.quality["teacher"][16]).any()
    before = table.version
    table.update()
    assert table.version == before  # nothing has come
    store.write_block(6, **block_arrays(store, 6))
    table.update()
    assert table.version > before and (table.class_ids >= 0).sum() == 16 + 4


def test_a_store_that_grows_and_gets_another_teacher_and_a_column_is_followed(place):
    store = filled_store(place.path)
    table = updated(place.path)
    store.grow(130)
    for block in (6, 7, 8):
        store.write_block(block, **block_arrays(store, block))
    store.add_label_set(
        "second", teacher=TEACHER, source="s", view_set="views", codec=parse_codec("float16"), num_classes=10
    )
    labels = {"second": block_arrays(store, 0)["labels"]["teacher"]}
    store.write_block(0, labels=labels)
    store.add_column("score", np.arange(130.0))
    table.update()
    np.testing.assert_array_equal(table.class_ids, open_store(place.path).class_ids[:])
    np.testing.assert_array_equal(table.columns["score"], np.arange(130.0))
    assert np.isnan(table.quality["second"][:, 0]).sum() == 130 - 16
    np.testing.assert_array_equal(table.quality["second"][:16], labels["second"][1])


def test_a_column_that_was_replaced_is_read_again(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    store.add_column("score", np.arange(100.0))
    table = updated(store.path)
    store.add_column("score", -np.arange(100.0), replace=True)
    table.update()
    np.testing.assert_array_equal(table.columns["score"], -np.arange(100.0))
    store.remove_column("score")
    table.update()
    assert table.columns == {}


def test_a_damaged_block_is_named_and_left_out(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / "labels" / "teacher" / "quality" / "c.2.0"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    table = updated(store.path)
    assert len(table.damaged) == 1 and "quality" in table.damaged[0]
    assert np.flatnonzero(np.isnan(table.quality["teacher"][:, 0])).tolist() == list(range(32, 48))
    assert (table.class_ids >= 0).all()


def test_without_labels_there_are_classes(tmp_path):
    store = new_store(tmp_path / "s.zarr")
    for block in range(store.num_blocks):
        arrays = block_arrays(store, block)
        store.write_block(block, images=arrays["images"], class_ids=arrays["class_ids"])
    table = updated(store.path)
    assert (table.class_ids >= 0).all() and np.isnan(table.quality["teacher"]).all()


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(NotAStoreError, match="no store"):
        Table(str(tmp_path / "none.zarr"))
