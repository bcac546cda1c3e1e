"""The contract of a tree, verb by verb: what :class:`dmkd.stores.trees.tree.Tree` promises, of every backend.

Chunks are read and damaged through ``place``, behind the tree's back.
"""

import pickle
import threading
from contextlib import suppress

import google_crc32c
import numpy as np
import pytest

from dmkd.stores import UsageError
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.stores.layout import ArraySpec
from dmkd.stores.trees.tree import open_tree

NODE = "group/rows"
SPEC = ArraySpec((3, 2), "float32", ("y", "x"), float("nan"))
NUM_ROWS, BLOCK_SIZE = 10, 4  # blocks 0 and 1, and block 2 of two rows


def rows_of(block, spec=SPEC, seed=0):
    """Random rows of a block, of the array's dtype."""
    count = min(BLOCK_SIZE, NUM_ROWS - block * BLOCK_SIZE)
    rng = np.random.default_rng([seed, block])
    return rng.integers(0, 200, (count, *spec.shape)).astype(spec.dtype)


def chunk_of(place, node, block):
    """The name of a block's chunk, as ``place`` has it."""
    (name,) = [name for name in place.chunks() if name.startswith(f"{node}/c.{block}.")]
    return name


def images_of(codec):
    """An array of 8x8 images in an image codec, and the images of one block."""
    y, x = np.mgrid[:8, :8]
    images = np.stack([np.stack([9 * x + i, 9 * y, 20 * i + x * y], -1) for i in range(BLOCK_SIZE)]).astype(np.uint8)
    return ArraySpec((8, 8, 3), "uint8", ("y", "x", "channel"), 0, image_codec=codec), images


class TestTree:
    @pytest.fixture
    def tree(self, place):
        """A tree with one array in a group, without blocks."""
        tree = open_tree(place.path)
        tree.create_root()
        tree.create_group("group")
        tree.create_array(NODE, SPEC, NUM_ROWS, BLOCK_SIZE, {"made": "by a test"})
        return tree

    # The whole

    def test_a_tree_is_there_once_its_root_is(self, place):
        tree = open_tree(place.path)
        assert not tree.exists() and not tree.taken(), "asking makes nothing"
        assert not tree.exists() and not tree.taken()
        tree.create_root()
        assert tree.exists() and tree.taken() and open_tree(place.path).exists()
        assert tree.attributes() == {} and tree.children("") == []

    def test_making_the_root_again_keeps_what_is_there(self, tree, place):
        tree.set_attributes({"a": 1})
        tree.write_block(NODE, 0, rows_of(0))
        open_tree(place.path).create_root()
        assert tree.attributes() == {"a": 1} and tree.present_blocks(NODE) == {0}

    def test_something_else_at_the_path_is_no_tree_and_is_left_alone(self, place):
        place.litter()
        tree = open_tree(place.path)
        assert tree.taken() and not tree.exists()

    def test_nothing_is_half_written_and_sweeping_takes_nothing_whole(self, tree):
        tree.write_block(NODE, 0, rows_of(0))
        assert tree.count_partials() == tree.sweep_partials() == 0
        np.testing.assert_array_equal(tree.read_block(NODE, 0), rows_of(0))

    # Groups and attributes

    def test_attributes_are_merged_and_any_json_comes_back(self, tree, place):
        values = {
            "text": "Zürich ☃ \U0001f600",
            "nested": {"a": [1, 2.5, None, True, 1e-300]},
            "empty": "",
            "long": "x" * 99_999,
        }
        for node in ("", "group", NODE):
            tree.set_attributes({"kept": 1, "replaced": [1]}, node)
            tree.set_attributes({"replaced": values}, node)
        expected = {"kept": 1, "replaced": values}
        for seen in (tree, open_tree(place.path)):
            assert seen.attributes() == seen.attributes("group") == expected
            assert seen.attributes(NODE) == {"made": "by a test", **expected}

    def test_children_are_sorted_groups_and_arrays_and_none_where_there_is_no_group(self, tree):
        for name in ("b", "a", "c10", "c9"):
            tree.create_group(f"group/{name}")
        tree.write_block(NODE, 0, rows_of(0))
        assert tree.children("group") == tree.names("group") == ["a", "b", "c10", "c9", "rows"]
        assert tree.children("") == tree.names("") == ["group"]
        assert tree.children("group/a") == tree.children("nothing") == tree.names("nothing/at/all") == []

    def test_making_a_group_again_keeps_what_is_in_it(self, tree):
        tree.set_attributes({"a": 1}, "group")
        tree.create_group("group")
        assert tree.attributes("group") == {"a": 1} and tree.children("group") == ["rows"]
        tree.create_group("group", {"b": 2})
        assert tree.attributes("group") == {"a": 1, "b": 2} and tree.children("group") == ["rows"]

    def test_a_group_is_there_with_its_attributes_or_not_at_all(self, tree, place, monkeypatch):
        def refuse(*_):
            raise AssertionError("a second write")

        with monkeypatch.context() as patch:
            patch.setattr(tree, "set_attributes", refuse, raising=False)
            tree.create_group("group/new", {"a": [1, None]})
        assert open_tree(place.path).attributes("group/new") == {"a": [1, None]}

    def test_a_node_that_is_not_there_is_a_key_error(self, tree):
        for ask in (tree.attributes, tree.shape, tree.dtype, tree.read_constant, lambda node: tree.read_block(node, 0)):
            with pytest.raises(KeyError):
                ask("group/nothing")
        with pytest.raises(KeyError):
            tree.set_attributes({"a": 1}, "group/nothing")
        with pytest.raises(KeyError):
            tree.shape("group")

    # Arrays

    def test_an_array_is_what_was_asked_for(self, tree, place):
        for seen in (tree, open_tree(place.path)):
            assert seen.shape(NODE) == (NUM_ROWS, 3, 2)
            assert seen.dtype(NODE) == np.dtype("float32") and seen.dtype(NODE).isnative
            assert seen.attributes(NODE) == {"made": "by a test"}
            assert seen.present_blocks(NODE) == set() and seen.chunk_bytes(NODE) == {}

    def test_an_array_that_is_made_again_is_new(self, tree, place):
        tree.write_block(NODE, 0, rows_of(0))
        spec = ArraySpec((), "int32", (), -1)
        tree.create_array(NODE, spec, 5, 5)
        for seen in (tree, open_tree(place.path)):
            assert (seen.shape(NODE), seen.dtype(NODE), seen.attributes(NODE)) == ((5,), np.int32, {})
            assert seen.present_blocks(NODE) == set() and not seen.has_block(NODE, 0)

    @pytest.mark.parametrize("compression", [None, "zstd", "bitshuffle"])
    @pytest.mark.parametrize(
        ("dtype", "order"), [("uint8", None), ("int32", None), ("uint16", (1, 2, 0)), ("float16", (2, 1, 0))]
    )
    def test_blocks_come_back_whatever_they_are_written_as(self, tree, place, dtype, order, compression):
        spec = ArraySpec((3, 2), dtype, ("y", "x"), 7, compression, order)
        tree.create_array("a", spec, NUM_ROWS, BLOCK_SIZE)
        for block in (2, 0, 1):  # the last one has two rows
            tree.write_block("a", block, rows_of(block, spec))
        for seen in (tree, open_tree(place.path)):
            for block in range(3):
                found = seen.read_block("a", block)
                assert found.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(found, rows_of(block, spec))

    def test_more_room_keeps_blocks_and_adds_none(self, tree, place):
        for block in (0, 1):
            tree.write_block(NODE, block, rows_of(block))
        tree.resize(NODE, 17)
        for seen in (tree, open_tree(place.path)):
            assert seen.shape(NODE) == (17, 3, 2) and seen.present_blocks(NODE) == {0, 1}
            np.testing.assert_array_equal(seen.read_block(NODE, 1), rows_of(1))
        tree.write_block(NODE, 4, rows_of(0)[:1])
        assert tree.present_blocks(NODE) == {0, 1, 4} and len(tree.read_block(NODE, 4)) == 1

    @pytest.mark.parametrize("codec", ["raw", "webp"])
    def test_lossless_images_come_back_to_the_bit(self, tree, codec):
        spec, images = images_of(codec)
        tree.create_array("images", spec, BLOCK_SIZE, BLOCK_SIZE)
        tree.write_block("images", 0, images)
        np.testing.assert_array_equal(tree.read_block("images", 0), images)

    def test_jpeg_images_come_back_as_the_codec_says_or_are_refused(self, tree):
        spec, images = images_of("jpeg:90")
        if not tree.image_files:
            with pytest.raises(UsageError):
                tree.create_array("images", spec, BLOCK_SIZE, BLOCK_SIZE)
            return
        tree.create_array("images", spec, BLOCK_SIZE, BLOCK_SIZE)
        tree.write_block("images", 0, images)
        np.testing.assert_array_equal(tree.read_block("images", 0), parse_image_codec("jpeg:90").as_stored(images))

    # Constants

    @pytest.mark.parametrize("values", [np.eye(5, 3, dtype=np.float32), np.arange(7), np.zeros((2, 3, 4), np.uint8)])
    def test_constants_come_back_and_are_replaced_as_a_whole(self, tree, place, values):
        tree.write_constant("group/constant", np.ones(3, np.float16))
        tree.write_constant("group/constant", values)
        for seen in (tree, open_tree(place.path)):
            found = seen.read_constant("group/constant")
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values)
        assert tree.children("group") == ["constant", "rows"]

    def test_a_damaged_constant_is_an_error(self, tree, place):
        tree.write_constant("group/constant", np.eye(5, dtype=np.float32))
        name = chunk_of(place, "group/constant", 0)
        content = bytearray(place.read(name))
        content[len(content) // 2] ^= 1
        place.write(name, bytes(content))
        with pytest.raises((ValueError, RuntimeError)):
            open_tree(place.path).read_constant("group/constant")

    # Blocks

    def test_a_block_is_there_from_when_it_is_written_until_it_is_deleted(self, tree):
        assert not tree.has_block(NODE, 1)
        tree.delete_block(NODE, 1)  # of what is not there nothing comes
        for block in (0, 1, 2):
            tree.write_block(NODE, block, rows_of(block))
        assert tree.present_blocks(NODE) == {0, 1, 2} and tree.has_block(NODE, 1)
        tree.delete_block(NODE, 1)
        assert tree.present_blocks(NODE) == tree.chunk_bytes(NODE).keys() == {0, 2} and not tree.has_block(NODE, 1)
        with suppress(ValueError):
            assert np.isnan(tree.read_block(NODE, 1)).all()
        tree.write_block(NODE, 1, rows_of(1, seed=5))
        assert tree.present_blocks(NODE) == {0, 1, 2}
        np.testing.assert_array_equal(tree.read_block(NODE, 1), rows_of(1, seed=5))

    def test_the_last_rows_that_were_written_count(self, tree, place):
        for seed in (0, 1):
            tree.write_block(NODE, 2, rows_of(2, seed=seed))
        for seen in (tree, open_tree(place.path)):
            np.testing.assert_array_equal(seen.read_block(NODE, 2), rows_of(2, seed=1))

    @pytest.mark.parametrize("fill_value", [0, 3])
    def test_a_block_of_fill_values_is_there(self, tree, fill_value):
        tree.create_array("a", ArraySpec((2,), "uint8", ("y",), fill_value), 8, 4)
        tree.write_block("a", 1, np.full((4, 2), fill_value, np.uint8))
        assert tree.present_blocks("a") == {1} and tree.has_block("a", 1)
        np.testing.assert_array_equal(tree.read_block("a", 1), np.full((4, 2), fill_value))

    def test_the_bytes_of_chunks_are_those_that_are_stored(self, tree, place):
        for block in (0, 2):
            tree.write_block(NODE, block, rows_of(block))
        assert tree.chunk_bytes(NODE) == {block: len(place.read(chunk_of(place, NODE, block))) for block in (0, 2)}

    @pytest.mark.parametrize("compression", [None, "zstd", "bitshuffle"])
    def test_any_damage_to_a_chunk_is_an_error_and_harms_no_other(self, tree, place, compression):
        spec = ArraySpec((3, 2), "float32", ("y", "x"), 0, compression)
        tree.create_array("a", spec, NUM_ROWS, BLOCK_SIZE)
        for block in range(3):
            tree.write_block("a", block, rows_of(block, spec))
        name = chunk_of(place, "a", 1)
        content = place.read(name)
        damaged = [content[: len(content) // 2], content[:4], b"x", content[::-1]]
        damaged += [content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :] for at in range(0, len(content), 11)]
        for wrong in damaged:
            place.write(name, wrong)
            seen = open_tree(place.path)
            with pytest.raises((ValueError, RuntimeError)):
                seen.read_block("a", 1)
            assert seen.present_blocks("a") == {0, 1, 2} and seen.has_block("a", 1)
        for block in (0, 2):
            np.testing.assert_array_equal(tree.read_block("a", block), rows_of(block, spec))
        tree.write_block("a", 1, rows_of(1, spec))
        np.testing.assert_array_equal(tree.read_block("a", 1), rows_of(1, spec))

    @pytest.mark.parametrize("block", [0, 2])
    def test_a_damaged_chunk_is_written_over_and_deleted_as_any(self, tree, place, block):
        for act in (lambda: tree.write_block(NODE, block, rows_of(block)), lambda: tree.delete_block(NODE, block)):
            tree.write_block(NODE, block, rows_of(block))
            place.write(chunk_of(place, NODE, block), b"broken")
            act()
            if tree.has_block(NODE, block):
                np.testing.assert_array_equal(tree.read_block(NODE, block), rows_of(block))
        assert tree.present_blocks(NODE) == set()

    def test_messages_can_say_where_a_chunk_lies(self, tree, place):
        paths = {tree.chunk_path(NODE, block) for block in range(3)}
        assert len(paths) == 3 and all(place.path in path and NODE in path for path in paths)

    def test_plain_files_are_the_rows_and_their_checksum(self, tree):
        tree.create_array("packed", ArraySpec((2,), "float32", ("y",), 0, "zstd"), 8, 4)
        tree.write_block(NODE, 2, rows_of(2))
        assert not tree.has_plain_files("packed")
        if tree.has_plain_files(NODE):
            whole = np.full((BLOCK_SIZE, 3, 2), np.nan, np.float32)
            whole[:2] = rows_of(2)
            checksum = google_crc32c.value(whole.tobytes()).to_bytes(4, "little")
            assert tree.mapped_chunk(NODE, 2).tobytes() == whole.tobytes() + checksum
            with pytest.raises(FileNotFoundError):
                tree.mapped_chunk(NODE, 1)

    # Changes that belong together

    def test_a_transaction_is_seen_from_within_and_whole_at_its_end(self, tree, place):
        with tree.transaction():
            tree.write_block(NODE, 0, rows_of(0))
            with tree.transaction():
                tree.delete_block(NODE, 0)
                tree.write_block(NODE, 1, rows_of(1))
            tree.set_attributes({"a": 1})
            assert tree.present_blocks(NODE) == {1} and tree.attributes() == {"a": 1}
            np.testing.assert_array_equal(tree.read_block(NODE, 1), rows_of(1))
        for seen in (tree, open_tree(place.path)):
            assert seen.present_blocks(NODE) == {1} and seen.attributes() == {"a": 1}

    def test_of_a_transaction_that_fails_what_was_first_is_there_or_nothing(self, tree, place):
        tree.write_block(NODE, 2, rows_of(2))

        def fail():
            with tree.transaction():
                tree.delete_block(NODE, 2)
                tree.write_block(NODE, 0, rows_of(0))
                with tree.transaction():
                    tree.write_block(NODE, 1, rows_of(1))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        for seen in (tree, open_tree(place.path)):
            assert seen.present_blocks(NODE) in ({2}, set(), {0}, {0, 1}), "in the order of the calls"
            for block in seen.present_blocks(NODE):
                np.testing.assert_array_equal(seen.read_block(NODE, block), rows_of(block))
        tree.write_block(NODE, 0, rows_of(0, seed=1))
        np.testing.assert_array_equal(tree.read_block(NODE, 0), rows_of(0, seed=1))

    # Several at once

    def test_a_pickled_tree_is_opened_anew(self, tree):
        tree.write_block(NODE, 0, rows_of(0))
        again = pickle.loads(pickle.dumps(tree))
        assert again.path == tree.path and type(again) is type(tree)
        np.testing.assert_array_equal(again.read_block(NODE, 0), rows_of(0))
        again.write_block(NODE, 1, rows_of(1))
        assert tree.present_blocks(NODE) == {0, 1}

    def test_two_trees_at_one_path_see_what_the_other_writes(self, tree, place):
        other = open_tree(place.path)
        assert other.present_blocks(NODE) == set() and other.children("group") == ["rows"]
        tree.write_block(NODE, 0, rows_of(0))
        tree.set_attributes({"a": 1}, NODE)
        tree.create_group("group/more")
        assert other.has_block(NODE, 0) and other.present_blocks(NODE) == {0}
        assert other.attributes(NODE)["a"] == 1 and other.children("group") == ["more", "rows"]
        np.testing.assert_array_equal(other.read_block(NODE, 0), rows_of(0))
        other.write_block(NODE, 0, rows_of(0, seed=1))
        np.testing.assert_array_equal(tree.read_block(NODE, 0), rows_of(0, seed=1))
        other.delete_block(NODE, 0)
        assert not tree.has_block(NODE, 0) and tree.present_blocks(NODE) == set()

    def test_threads_share_a_tree(self, tree):
        tree.create_array("a", SPEC, 24 * BLOCK_SIZE, BLOCK_SIZE)
        failures = []

        def work(first):
            try:
                for block in range(first, 24, 4):
                    tree.write_block("a", block, rows_of(0, seed=block))
                    np.testing.assert_array_equal(tree.read_block("a", block), rows_of(0, seed=block))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == [] and tree.present_blocks("a") == set(range(24))

    def test_work_is_done_on_each_and_its_results_are_in_order(self, tree):
        for block in range(3):
            tree.write_block(NODE, block, rows_of(block))
        order = [2, 0, 1, 0, 2, 1]
        found = tree.map(lambda block: tree.read_block(NODE, block).sum(), iter(order))
        assert found == [rows_of(block).sum() for block in order]
        seen = []
        tree.for_each(seen.append, order)
        assert sorted(seen) == sorted(order)
        with pytest.raises(ZeroDivisionError):
            tree.map(lambda block: 1 // block, order)
        with pytest.raises(ZeroDivisionError):
            tree.for_each(lambda block: 1 // block, order)
