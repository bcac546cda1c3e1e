"""The contract of a store: what every backend must do."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from conftest import TEACHER, TESTS, block_arrays, filled_store, new_store, tree_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import from_url
from places import PLACES, group_json
from zarr.storage import ObjectStore

from dmkd.stores import (
    DamagedChunkError,
    MismatchError,
    MissingBlockError,
    NewerFormatError,
    NotAStoreError,
    StoreWriteError,
    UsageError,
    create_store,
    layout,
    open_store,
    parse_codec,
    store_exists,
)
from dmkd.stores.identity import fingerprint
from dmkd.stores.layout import choose_block_size


@pytest.fixture(scope="module", params=PLACES)
def filled_place(request, tmp_path_factory):
    return PLACES[request.param].new(tmp_path_factory.mktemp("filled"), request)


@pytest.fixture(scope="module")
def filled(filled_place):
    return filled_store(filled_place.path)


def expected_rows(store, name, ids):
    blocks = {b: block_arrays(store, b) for b in {i // store.block_size for i in ids}}
    return np.stack([blocks[i // store.block_size][name][i % store.block_size] for i in ids])


@settings(max_examples=30, deadline=None)
@given(ids=st.lists(st.integers(0, 99), min_size=1, max_size=40))
def test_any_ids_in_any_order_give_their_own_rows(filled, ids):
    store = open_store(filled.path)
    np.testing.assert_array_equal(store.images[ids], expected_rows(filled, "images", ids))
    np.testing.assert_array_equal(store.class_ids[ids], expected_rows(filled, "class_ids", ids))


def test_slices_single_ids_and_masks_read_the_same_rows(filled):
    everything = filled.images[:]
    assert everything.shape == (100, 8, 8, 3) and everything.dtype == np.uint8
    np.testing.assert_array_equal(filled.images[7], everything[7])
    np.testing.assert_array_equal(filled.images[90:100:3], everything[90:100:3])
    mask = np.arange(100) % 7 == 0
    np.testing.assert_array_equal(filled.images[mask], everything[mask])


def test_logits_come_back_within_half_precision(filled):
    ids = [99, 0, 16, 16]
    expected = np.stack([block_arrays(filled, i // 16)["labels"]["teacher"][0][i % 16] for i in ids])
    logits = filled.labels["teacher"].logits(ids)
    assert logits.dtype == np.float32 and logits.shape == (4, 2, 10)
    np.testing.assert_allclose(logits, expected, rtol=2**-11)
    np.testing.assert_array_equal(filled.labels["teacher"].logits(99, view=1), logits[0, 1])
    assert filled.labels["teacher"].quality[ids].shape == (4, 3)


def test_anyone_can_open_the_store_with_plain_zarr_or_h5py(filled):
    if filled.path.endswith(".h5"):
        with h5py.File(filled.path, "r") as group:
            assert [axis.label for axis in group["images"].dims] == ["image", "y", "x", "channel"]
            np.testing.assert_array_equal(group["images"][17:20], filled.images[17:20])
            assert np.isnan(group["labels/teacher/logits"].fillvalue)
            assert json.loads(group.attrs["recipe"]) == filled.recipe
        return
    storage: object = filled.path
    if filled.path.startswith("s3://"):
        storage = ObjectStore(from_url(filled.path, client_options={"allow_http": True}), read_only=True)
    group = zarr.open_group(storage, mode="r")
    assert group["images"].metadata.dimension_names == ("image", "y", "x", "channel")
    assert group["labels/teacher/logits"].metadata.dimension_names == ("image", "view", "class")
    np.testing.assert_array_equal(group["images"][17:20], filled.images[17:20])
    assert np.isnan(group["labels/teacher/logits"].fill_value)


def test_a_raw_chunk_is_the_array_and_its_checksum(filled, filled_place):
    # What lets a reader memory-map chunks; a compressor that slips in would break it.
    chunk = filled_place.read("images/c.2.0.0.0")
    assert len(chunk) == 16 * 8 * 8 * 3 + 4
    np.testing.assert_array_equal(np.frombuffer(chunk[:-4], np.uint8).reshape(16, 8, 8, 3), filled.images[32:48])


def test_ids_that_do_not_exist_are_refused(filled):
    with pytest.raises(UsageError, match="image ids 0 to 99; there is no image 100"):
        filled.images[[3, 100]]
    with pytest.raises(UsageError, match="there is no image -1"):
        filled.images[[-1]]
    with pytest.raises(UsageError, match="whole numbers"):
        filled.images[[0.5]]


def test_missing_blocks_are_those_without_images(place):
    store = new_store(place.path)
    assert store.missing_blocks() == list(range(7))
    arrays = block_arrays(store, 3)
    store.write_block(3, views=arrays["views"])
    assert store.missing_blocks() == list(range(7)), "a block without its images is not done"
    store.write_block(3, **arrays)
    assert store.missing_blocks() == [0, 1, 2, 4, 5, 6]
    assert store.labels["teacher"].missing_blocks() == [0, 1, 2, 4, 5, 6]
    with pytest.raises(MissingBlockError, match="Block 0 of images"):
        store.images[[3 * 16, 0]]


def test_an_all_black_block_is_done_not_missing(place):
    store = new_store(place.path)
    store.write_block(0, images=np.zeros((16, 8, 8, 3), np.uint8), class_ids=np.zeros(16, np.int32))
    assert 0 not in open_store(store.path).missing_blocks()
    assert store.images[[0]].sum() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": np.zeros((15, 8, 8, 3), np.uint8)},  # zarr would broadcast or truncate these
        {"images": np.zeros((1, 8, 8, 3), np.uint8)},
        {"images": np.zeros((17, 8, 8, 3), np.uint8)},
        {"images": np.zeros((16, 8, 8, 3), np.float32)},
        {"class_ids": np.full(16, 10, np.int32)},
        {"class_ids": np.full(16, -1, np.int32)},
        {"views": {"views": np.full((16, 2, 5), np.nan, np.float32)}},
        {"labels": {"teacher": (np.full((16, 2, 10), 1e6, np.float32), np.zeros((16, 3), np.float32))}},
        {"labels": {"teacher": (np.full((16, 2, 10), np.inf, np.float32), np.zeros((16, 3), np.float32))}},
        {"labels": {"teacher": (np.zeros((16, 1, 10), np.float32), np.zeros((16, 3), np.float32))}},
    ],
)
def test_wrong_data_is_refused_before_anything_is_written(place, wrong):
    store = new_store(place.path)
    with pytest.raises(UsageError):
        store.write_block(0, **{**block_arrays(store, 0), **wrong})
    assert place.chunks() == {}


def test_a_damaged_chunk_is_an_error_and_names_the_file(place):
    store = filled_store(place.path, num_images=32)
    content = bytearray(place.read("images/c.1.0.0.0"))
    content[100] ^= 1
    place.write("images/c.1.0.0.0", bytes(content))
    assert store.images[[0]].shape == (1, 8, 8, 3)
    with pytest.raises(
        DamagedChunkError, match=r"Chunk .*images(/c\.1\.|\[16:32\] of |/0\.0\.0\.0 \(block 1\)).* is damaged"
    ):
        store.images[[16]]
    place.write("images/c.1.0.0.0", bytes(content[:50]))
    with pytest.raises(DamagedChunkError):
        store.images[[16]]
    arrays = block_arrays(store, 1)
    store.write_block(1, images=arrays["images"], class_ids=arrays["class_ids"])  # the damaged chunk is not in the way
    assert store.images[[16]].shape == (1, 8, 8, 3)


def test_a_damaged_last_block_that_is_partly_used_can_be_rewritten(place):
    store = filled_store(place.path)
    place.write("images/c.6.0.0.0", b"broken")
    arrays = block_arrays(store, 6)
    store.write_block(6, images=arrays["images"], class_ids=arrays["class_ids"])
    np.testing.assert_array_equal(store.images[96:], block_arrays(store, 6)["images"])


def test_growing_keeps_what_is_there_and_redoes_the_block_that_was_partly_used(place):
    store = filled_store(place.path)
    before = store.images[:96]
    store.grow(120)
    assert store.num_images == 120 and store.missing_blocks() == [6, 7]
    assert store.labels["teacher"].missing_blocks() == [6, 7]
    np.testing.assert_array_equal(open_store(store.path).images[:96], before)
    store.write_block(7, **block_arrays(store, 7))
    assert store.missing_blocks() == [6]
    with pytest.raises(UsageError, match="can't shrink"):
        store.grow(50)


def test_growing_a_store_of_whole_blocks_redoes_nothing(place):
    store = filled_store(place.path, num_images=32)
    store.grow(48)
    assert store.missing_blocks() == [2]


def test_a_store_can_be_pickled_to_a_worker(filled):
    code = "import pickle, sys; s = pickle.load(sys.stdin.buffer); print(int(s.images[[99, 5]].sum()))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(filled), capture_output=True, check=True)
    assert int(done.stdout) == int(filled.images[[99, 5]].sum())


def test_a_second_process_sees_blocks_that_were_written_after_it_opened(place):
    writer = new_store(place.path)
    reader = open_store(writer.path)
    with pytest.raises(MissingBlockError):
        reader.images[[0]]
    writer.write_block(0, **block_arrays(writer, 0))
    np.testing.assert_array_equal(reader.images[0:16], block_arrays(writer, 0)["images"])


def test_the_attributes_of_a_set_are_read_once(place, monkeypatch):
    store, read = open_store(filled_store(place.path).path), []
    tree = type(store.chunks.tree)
    attributes = tree.attributes
    monkeypatch.setattr(tree, "attributes", lambda self, node="": read.append(node) or attributes(self, node))
    for _ in range(3):
        assert list(store.labels) == ["teacher"] and list(store.views) == ["views"]
        assert store.labels["teacher"].identity and store.labels["teacher"].coder
    assert sorted(filter(None, read)) == ["labels/teacher", "views/views"]


def test_a_store_shows_what_it_adds_at_once_and_what_others_add_after_a_refresh(place):
    one, other = new_store(place.path), open_store(place.path)
    assert list(one.labels) == list(other.labels) == ["teacher"] and list(other.views) == ["views"]
    new = {"teacher": {"name": "u"}, "source": "u", "num_classes": 10}
    one.add_view_set("more", 3, one.views["views"].components, {"policy": "test"})
    one.add_label_set("more", view_set="more", codec=parse_codec("float16"), **new)
    one.add_label_set("fitted", view_set="more", codec=parse_codec("klt:1"), **new)
    assert list(one.views) == ["more", "views"] and list(one.labels) == ["fitted", "more", "teacher"]
    assert one.labels["more"].fitted and not one.labels["fitted"].fitted
    one.fit_label_set("fitted", parse_codec("klt:1").fit(10, sample=np.eye(10, dtype=np.float32)))
    assert one.labels["fitted"].coder and list(other.labels) == ["teacher"]
    other.add_label_set("third", view_set="more", codec=parse_codec("float16"), **new)
    assert list(other.labels) == ["fitted", "more", "teacher", "third"] and list(one.labels) != list(other.labels)
    one.refresh()
    assert list(one.labels) == list(other.labels) == list(open_store(place.path).labels)


def test_growing_takes_along_what_another_process_has_added(place):
    store = new_store(place.path, num_images=32)
    assert list(store.labels) == ["teacher"]
    open_store(place.path).add_label_set(
        "more", teacher={"name": "u"}, source="u", view_set="views", codec=parse_codec("float16"), num_classes=10
    )
    store.grow(48)
    assert store.labels["more"].quality.shape == (48, 3) and store.labels["more"].missing_blocks() == [0, 1, 2]


def test_what_is_handed_out_of_a_store_is_a_copy(filled):
    filled.labels.clear()
    filled.views.clear()
    assert list(filled.labels) == ["teacher"] and list(filled.views) == ["views"]


def test_the_same_sets_can_be_added_again_and_others_of_that_name_are_refused(place):
    store = new_store(place.path)
    store.write_block(0, **block_arrays(store, 0))
    new = {"teacher": TEACHER, "source": "elsewhere", "view_set": "views", "num_classes": 10}
    store.add_label_set("teacher", codec=parse_codec("float16"), **new)
    assert 0 not in store.labels["teacher"].missing_blocks(), "labels must survive being added again"
    with pytest.raises(MismatchError, match=r"teacher\.name: the store has t, you asked for u.*--name"):
        store.add_label_set("teacher", codec=parse_codec("float16"), **{**new, "teacher": {**TEACHER, "name": "u"}})
    with pytest.raises(MismatchError, match="num_views: the store has 2, you asked for 3"):
        store.add_view_set("views", 3, store.views["views"].components, {"policy": "test"})
    with pytest.raises(UsageError, match="is not a valid label set name"):
        store.add_label_set("a/b", codec=parse_codec("float16"), **new)


def test_a_label_set_whose_making_was_interrupted_is_made_again(place):
    store = new_store(place.path)
    place.write("labels/teacher/zarr.json", group_json())
    assert store.labels == {}
    store.add_label_set(
        "teacher", teacher={"name": "u"}, source="u", view_set="views", codec=parse_codec("float16"), num_classes=10
    )
    assert store.labels["teacher"].teacher == {"name": "u"}


def test_what_is_no_store_is_told_in_one_sentence(place):
    with pytest.raises(NotAStoreError, match="There is no store at"):
        open_store(place.path)
    for name, attributes, told in (
        ("plain.zarr", {}, "is not a dmkd store"),
        ("odd.zarr", {"dmkd_format": "one"}, "its attribute dmkd_format is 'one'"),
        ("labels.zarr", {"identity": "0", "teacher": {}}, "lacks the attribute dmkd_format"),
    ):
        other = place.sibling(name)
        other.write("zarr.json", group_json(**attributes))
        with pytest.raises(NotAStoreError, match=told):
            open_store(other.path)
    other.sibling("files").write("hello.txt", b"hello")
    with pytest.raises(NotAStoreError, match="no Zarr v3 group"):
        open_store(other.sibling("files").path)


@pytest.mark.parametrize("state", ["ready", "creating"])
def test_a_store_of_a_newer_dmkd_is_refused_and_not_changed(place, state):
    store = new_store(place.path)
    newer = {**store.attributes, "dmkd_format": 2, "state": state}
    place.write("zarr.json", group_json(**newer))
    with pytest.raises(NewerFormatError, match="has format 2, but this dmkd reads format 1: upgrade dmkd") as told:
        open_store(place.path)
    assert told.value.exit_code == 1
    with pytest.raises(NewerFormatError):
        new_store(place.path)
    assert store.chunks.tree.attributes() == newer


def test_a_store_without_a_number_is_of_the_first_format(place):
    store = filled_store(place.path, num_images=32)
    attributes = {key: value for key, value in store.attributes.items() if key != "dmkd_format"}
    place.write("zarr.json", group_json(**attributes))
    unnamed = open_store(place.path)
    assert (unnamed.format, unnamed.identity) == (1, store.identity) and "dmkd_format" not in unnamed.attributes
    np.testing.assert_array_equal(unnamed.images[:], store.images[:])
    unnamed.add_label_set(
        "more", teacher={"name": "u"}, source="u", view_set="views", codec=parse_codec("float16"), num_classes=10
    )
    assert open_store(place.path).labels["more"].identity


def test_the_number_of_the_format_is_no_part_of_the_identity(place):
    store = new_store(place.path)
    assert store.format == layout.FORMAT_VERSION == 1 and store.identity == fingerprint(store.recipe)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("hello")
    with pytest.raises(NotAStoreError, match="no Zarr v3 group"):
        open_store(tmp_path / "file")


def test_nothing_that_is_there_is_overwritten(place):
    theirs = place.sibling("folder")
    theirs.write("thesis.tex", b"years of work")
    options = {"recipe": {}, "num_images": 4, "image_shape": (8, 8, 3), "class_names": ["a"]}
    with pytest.raises(UsageError, match="is not a dmkd store"):
        create_store(theirs.path, **options)
    assert theirs.names() == ["thesis.tex"]
    create_store(place.path, **options)
    with pytest.raises(UsageError, match="already exists"):
        create_store(place.path, **options)


def test_a_store_whose_making_was_interrupted_is_made_again(place):
    place.write("zarr.json", group_json(dmkd_format=1, state="creating"))
    assert not store_exists(place.path)
    with pytest.raises(NotAStoreError, match="interrupted"):
        open_store(place.path)
    assert new_store(place.path).missing_blocks() == list(range(7))


def test_half_written_files_are_swept_and_never_read(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=32)
    leftover = tmp_path / "s.zarr" / "images" / "c.1.0.0.0.4f2a.partial"
    leftover.write_bytes(b"half")
    assert store.missing_blocks() == []
    assert store.sweep_partials() == 1 and not leftover.exists()


def test_a_write_whose_temporary_file_is_swept_by_another_process_is_done_again(tmp_path, monkeypatch):
    store, replace, swept = new_store(tmp_path / "s.zarr", num_images=16), Path.replace, []

    def swept_before(file, target):
        if not swept and file.suffix == ".partial":
            swept.append(open_store(store.path).sweep_partials())
        return replace(file, target)

    monkeypatch.setattr(Path, "replace", swept_before)
    arrays = block_arrays(store, 0)
    store.write_block(0, **arrays)
    assert swept == [1], "the file was there, and was taken away before it was renamed"
    np.testing.assert_array_equal(store.images[:], arrays["images"])
    assert store.missing_blocks() == [] and store.sweep_partials() == 0


FULL_DISK = """
import resource, sys
from conftest import TEACHER, block_arrays
from dmkd.stores import open_store, StoreWriteError
store = open_store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # an image chunk has 3,076 bytes
try:
    store.write_block(1, **block_arrays(store, 1))
except StoreWriteError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_told_and_harms_nothing(tmp_path):
    store = new_store(tmp_path / "s.zarr")
    store.write_block(0, **block_arrays(store, 0))
    before = tree_bytes(tmp_path / "s.zarr")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, store.path], capture_output=True, text=True, cwd=TESTS)
    assert "images/c.1.0.0.0" in done.stdout and "Rerun the same command" in done.stdout, done.stderr
    after = tree_bytes(tmp_path / "s.zarr")
    assert {name: after[name] for name in before} == before
    assert store.missing_blocks() == [1, 2, 3, 4, 5, 6], "the block whose images did not fit is still missing"
    assert not list((tmp_path / "s.zarr").rglob("*.partial"))


def test_a_full_disk_names_itself(tmp_path, monkeypatch):
    store = new_store(tmp_path / "s.zarr")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.chunks.tree, "write_block", full)
    with pytest.raises(StoreWriteError, match="the disk is full; free some space"):
        store.write_block(0, **block_arrays(store, 0))


@pytest.mark.parametrize(("size", "expected"), [(8, 256), (32, 256), (128, 256), (256, 64), (512, 16), (4096, 1)])
def test_block_sizes(size, expected):
    assert choose_block_size((size, size, 3)) == expected
