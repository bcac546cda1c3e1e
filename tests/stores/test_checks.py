"""Rows are bound to their place: whatever chunk is damaged, moved or foreign, verify finds it and no reader takes it."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from conftest import TEACHER, block_arrays, filled_store, new_store, tree_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from corruptions import arrays_of, corrupt, found_by_verify, kinds, make_store, read_as_good, run

from dmkd.runtime.progress import Silent
from dmkd.stores import DamagedChunkError, UsageError, open_store, parse_codec
from dmkd.stores.checks import bind_views, image_checks, label_checks, views_bound
from dmkd.stores.chunks import KeptChunks, by_block
from dmkd.stores.verifying.finding import ERROR
from dmkd.verify import verify


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return Path(make_store(tmp_path_factory.mktemp("sound") / "s.zarr").path)


@pytest.fixture
def path(tmp_path):
    """Seven blocks of 16 images, the last one partly used."""
    filled_store(tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def errors(path):
    report = verify(str(path), display=Silent())
    return {finding.where: finding.sentence for finding in report.findings if finding.severity == ERROR}


# Corruptions


@pytest.mark.parametrize("kind", kinds)
def test_every_corruption_is_found_and_none_is_read_as_good(kind, sound):
    """34 of each of six kinds, 204 in all, every array in turn."""
    before = tree_bytes(sound)
    results = run(sound, 34, kinds.index(kind), [kind])
    assert [str(corruption) for corruption, found, _ in results if not found] == []
    assert {str(corruption): read for corruption, _, read in results if read} == {}
    assert {corruption.node for corruption, _, _ in results} == set(arrays_of(sound)) and len(results) == 34
    assert tree_bytes(sound) == before


def test_the_corruption_counts_can_tell_good_from_bad(sound):
    """On a sound store nothing is found and all is read: what the test above rests on."""
    corruption = corrupt(sound, np.random.default_rng(0), "swapped", "images")
    corruption.undo()
    assert not found_by_verify(sound, corruption)
    assert len(read_as_good(sound, corruption)) == 4, "two ways to read images, of two blocks"


@pytest.mark.parametrize("kind", ["swapped", "zeros with a right checksum"])
def test_what_is_repaired_is_made_again_to_the_bit(kind, tmp_path):
    store = make_store(tmp_path / "s.zarr")
    before = tree_bytes(tmp_path / "s.zarr")
    other = tmp_path / "other.zarr"
    for node in arrays_of(store.path):
        shutil.copytree(store.path, other)
        corruption = corrupt(other, np.random.default_rng(1), kind, node)
        report = verify(str(other), mend=True, display=Silent())
        assert report.repaired and not report.sound, str(corruption)
        left = tree_bytes(other)
        assert left.items() <= before.items(), f"{corruption}: all that is wrong was deleted"
        damaged = open_store(other)
        missing = set(damaged.missing_blocks()).union(*(s.missing_blocks() for s in damaged.labels.values()))
        assert missing >= set(corruption.blocks), f"{corruption}: what was deleted counts as missing"
        assert verify(str(other), display=Silent()).sound
        shutil.rmtree(other)


# Foreign chunks: the same shapes and ids, other contents


def another_store(path, source):
    """A store like ``source``, of other images, other views and other labels."""
    store = new_store(path)
    for block in range(store.num_blocks):
        arrays = block_arrays(store, block, seed=100 + block)
        arrays["views"]["views"][:, :, 2:4] = 0.5
        store.write_block(block, **arrays)
    assert set(tree_bytes(path)) == set(tree_bytes(source))
    return path


IMAGE_CHUNKS = ["images/c.1.0.0.0", "class_ids/c.1", "checks/c.1.0"]
LABELS = "labels/teacher"
LABEL_CHUNKS = [f"{LABELS}/{name}" for name in ("checks/c.1.0", "quality/c.1.0", "logits/c.1.0.0")]


@pytest.mark.parametrize(
    ("chunks", "blamed", "unreadable"),
    [
        (IMAGE_CHUNKS[:1], "images", {"images"}),
        (IMAGE_CHUNKS[1:2], "class_ids", {"images", "class_ids"}),
        (IMAGE_CHUNKS[2:], "class_ids", {"images", "class_ids", "logits", "quality"}),
        (IMAGE_CHUNKS[1:], "images", {"images", "logits", "quality"}),
        (IMAGE_CHUNKS, f"{LABELS}/checks", {"logits", "quality"}),
        (["views/views/c.1.0.0"], f"{LABELS}/logits", {"logits"}),
        (LABEL_CHUNKS[:1], f"{LABELS}/checks", {"logits", "quality"}),
        (LABEL_CHUNKS[1:2], f"{LABELS}/quality", {"quality"}),
        (LABEL_CHUNKS[2:], f"{LABELS}/logits", {"logits"}),
        (LABEL_CHUNKS, f"{LABELS}/checks", {"logits", "quality"}),
        (["views/views/c.1.0.0", *LABEL_CHUNKS], f"{LABELS}/checks", {"logits", "quality"}),
    ],
)
def test_chunks_of_another_store_are_found(chunks, blamed, unreadable, path, tmp_path):
    another = another_store(tmp_path / "another.zarr", path)
    for chunk in chunks:
        shutil.copy(another / chunk, path / chunk)
    found = errors(path).keys()
    assert f"{blamed}, block 1" in found and all(where.endswith("block 1") for where in found)
    store = open_store(path)
    readers = {
        "images": lambda ids: store.images[ids],
        "class_ids": lambda ids: store.class_ids[ids],
        "logits": lambda ids: store.labels["teacher"].logits(ids),
        "quality": lambda ids: store.labels["teacher"].quality[ids],
    }
    refused = set()
    for name, read in readers.items():
        read([3, 40])
        try:
            read([3, 20, 40])
        except DamagedChunkError:
            refused.add(name)
    assert refused == unreadable
    report = verify(str(path), mend=True, display=Silent())
    assert report.repaired == (blamed not in ("images", "class_ids")), "these images were made by no generator"
    if report.repaired:
        assert open_store(path).labels["teacher"].missing_blocks() == [1] and errors(path) == {}


@pytest.mark.parametrize(
    "arrays", [["images", "class_ids", "checks"], ["labels"], ["views", "labels"], ["views"], [""]]
)
def test_whole_blocks_that_changed_places_are_found(arrays, path):
    """Images with their class ids and checks, labels with theirs, or all of it: only the ids tell."""
    for array in arrays:
        for first in sorted((path / array).rglob("c.1*")):
            second = first.with_name(first.name.replace("c.1", "c.2"))
            content = first.read_bytes(), second.read_bytes()
            first.write_bytes(content[1])
            second.write_bytes(content[0])
    assert {where.split(", ")[1] for where in errors(path)} == {"block 1", "block 2"}
    store = open_store(path)
    labels = store.labels["teacher"]
    readers = {
        "images": [lambda ids: store.images[ids], lambda ids: store.class_ids[ids]],
        "labels": [labels.logits, lambda ids: labels.quality[ids]],
        "views": [lambda ids: store.views["views"][ids]],
    }
    for name in readers if arrays == [""] else readers.keys() & set(arrays):
        for read in readers[name]:
            assert len(read([3, 50])) == 2
            for image in (20, 40):
                with pytest.raises(DamagedChunkError):
                    read([image])


def test_views_that_other_labels_fit_are_not_deleted(path, tmp_path):
    """Labels and views do not fit together: which is wrong can be told only where a second label set uses the views."""
    another = another_store(tmp_path / "another.zarr", path)
    chunk, views = "labels/teacher/logits/c.1.0.0", "views/views/c.1.0.0"
    alone, both = tmp_path / "alone.zarr", tmp_path / "both.zarr"
    shutil.copytree(path, alone)
    shutil.copytree(path, both)
    store = open_store(both)
    options = {"teacher": TEACHER, "source": "t", "view_set": "views", "num_classes": 10}
    store.add_label_set("second", codec=parse_codec("uint8"), **options)
    store.write_block(1, labels={"second": block_arrays(store, 1)["labels"]["teacher"]})
    for target in (alone, both):
        shutil.copy(another / chunk, target / chunk)
        assert verify(str(target), mend=True, display=Silent()).repaired and not (target / chunk).exists()
    assert not (alone / views).exists() and (both / views).exists()
    assert 1 not in open_store(both).labels["second"].missing_blocks()
    shutil.copy(another / views, both / views)
    assert verify(str(both), mend=True, display=Silent()).repaired and not (both / views).exists()
    assert 1 in open_store(both).labels["second"].missing_blocks()


# What is written anew


def test_labels_of_images_that_were_made_anew_count_as_missing(path):
    store = open_store(path)
    arrays, others = block_arrays(store, 1), block_arrays(store, 1)
    others["images"] = others["images"][::-1].copy()
    store.write_block(1, images=arrays["images"], class_ids=arrays["class_ids"])
    assert store.labels["teacher"].missing_blocks() == [], "the same pixels came back"
    store.write_block(1, images=others["images"], class_ids=others["class_ids"])
    assert store.labels["teacher"].missing_blocks() == [1] and store.missing_blocks() == []
    assert errors(path) == {}
    store.write_block(1, labels=others["labels"])
    assert store.labels["teacher"].missing_blocks() == [] and errors(path) == {}
    np.testing.assert_array_equal(store.images.block(1), others["images"])
    np.testing.assert_allclose(store.labels["teacher"].logits([16])[0], arrays["labels"]["teacher"][0][0], rtol=2**-11)


@pytest.mark.parametrize("damaged", ["checks/c.1.0", "labels/teacher/quality/c.1.0", "labels/teacher/checks/c.1.0"])
@pytest.mark.parametrize("same", [True, False])
def test_labels_are_kept_only_if_they_can_be_proved_to_be_of_the_new_images(damaged, same, path):
    store, arrays = open_store(path), block_arrays(open_store(path), 1)
    (path / damaged).write_bytes(b"broken")
    if not same:
        arrays["images"] = 255 - arrays["images"]
    store.write_block(1, images=arrays["images"], class_ids=arrays["class_ids"])
    kept = same and damaged == "checks/c.1.0"
    assert store.labels["teacher"].missing_blocks() == ([] if kept else [1])
    if kept:
        assert errors(path) == {}


def test_labels_of_views_that_were_drawn_anew_count_as_missing(path):
    store, views = open_store(path), block_arrays(open_store(path), 1)["views"]
    store.write_block(1, views=views)
    assert store.labels["teacher"].missing_blocks() == []
    views["views"][:, :, 2] = 0.5
    store.write_block(1, views=views)
    assert store.labels["teacher"].missing_blocks() == [1]
    np.testing.assert_array_equal(store.views["views"].rows.block(1), views["views"])


@pytest.mark.parametrize("without", ["nothing", "labels", "images"])
def test_whenever_a_writer_stops_a_block_is_old_or_missing_or_new(without, path, tmp_path, monkeypatch):
    """A block is written over with other contents and stopped after each step, deletions included."""
    from dmkd.stores.trees.zarr_tree import ZarrTree

    new = block_arrays(open_store(path), 1, seed=101)
    new["views"]["views"][:, :, 2:4] = 0.5
    if without == "labels":
        del new["labels"]
    if without == "images":
        del new["images"], new["class_ids"]
    steps = 0
    while True:
        target = tmp_path / f"stopped{steps}.zarr"
        shutil.copytree(path, target)
        store, left = open_store(target), [steps]

        def stoppable(real, left=left):
            def step(*arguments):
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                return real(*arguments)

            return step

        with monkeypatch.context() as patch:
            for name in ("write_block", "delete_block"):
                patch.setattr(ZarrTree, name, stoppable(getattr(ZarrTree, name)))
            try:
                store.write_block(1, **new)
                finished = True
            except KeyboardInterrupt:
                finished = False
        if not finished and steps == 0:
            assert tree_bytes(target) == tree_bytes(path)
        found, after = errors(target), open_store(target)
        assert found == {}, f"stopped after {steps} steps"
        if 1 not in after.missing_blocks():
            after.images.block(1)
        if 1 not in after.missing_blocks() and 1 not in after.labels["teacher"].missing_blocks():
            assert finished or steps == 0, "half a block never counts as made"
        store.write_block(1, **{**block_arrays(store, 1, seed=101), **new, "views": new["views"]})
        assert errors(target) == {} and after.missing_blocks() == []
        if finished:
            break
        steps += 1
    assert steps >= (5 if without == "images" else 6)


def test_a_block_that_is_written_twice_alike_never_goes_missing(path, monkeypatch):
    from dmkd.stores.trees.zarr_tree import ZarrTree

    monkeypatch.setattr(ZarrTree, "delete_block", lambda *_: pytest.fail("a sound block was deleted"))
    before, store = tree_bytes(path), open_store(path)
    store.write_block(1, **block_arrays(store, 1))
    assert tree_bytes(path) == before


def test_images_and_class_ids_go_together(tmp_path):
    store = new_store(tmp_path / "s.zarr")
    arrays = block_arrays(store, 0)
    for name in ("images", "class_ids"):
        with pytest.raises(UsageError, match="written together"):
            store.write_block(0, **{name: arrays[name]})
    assert tree_bytes(tmp_path / "s.zarr") == {}


# Readers


def test_a_reader_that_kept_old_checks_reads_a_block_that_was_made_anew(path):
    reader, writer = open_store(path), open_store(path)
    reader.images[[16]], reader.labels["teacher"].logits([16])
    arrays = block_arrays(writer, 1, seed=101)
    arrays["views"]["views"][:, :, 2] = 0.5
    writer.write_block(1, **arrays)
    np.testing.assert_array_equal(reader.images[[16]][0], arrays["images"][0])
    np.testing.assert_allclose(reader.labels["teacher"].logits([16])[0], arrays["labels"]["teacher"][0][0], rtol=2**-11)


def test_a_chunk_that_vanishes_after_it_was_listed_is_no_fill_value(path):
    store = open_store(path)
    store.images[[0]], store.labels["teacher"].logits([0])
    for name in ("images/c.1.0.0.0", "labels/teacher/logits/c.1.0.0", "views/views/c.1.0.0"):
        (path / name).unlink()
    for read in (store.images, store.views["views"].rows):
        read[[0]]
        with pytest.raises(DamagedChunkError):
            read[[16]]
    with pytest.raises(DamagedChunkError):
        store.labels["teacher"].logits([16])


def test_the_error_names_the_chunk_and_the_image(path):
    shutil.copy(path / "images/c.2.0.0.0", path / "images/c.1.0.0.0")
    with pytest.raises(DamagedChunkError, match=r"images/c\.1\.0\.0\.0 does not hold what was written for image 17"):
        open_store(path).images[[5, 17]]
    shutil.copy(path / "views/views/c.2.0.0", path / "views/views/c.1.0.0")
    with pytest.raises(DamagedChunkError, match=r"views/views/c\.1\.0\.0 does not hold .* image 18"):
        open_store(path).views["views"][[18]]


def test_only_the_rows_asked_for_are_proved(path):
    images = zarr.open(str(path), mode="r+")["images"]
    images[20, 0, 0, 0] ^= 1
    store = open_store(path)
    assert store.images[[19, 21]].shape == (2, 8, 8, 3)
    with pytest.raises(DamagedChunkError, match="image 20"):
        store.images[[19, 20, 21]]


def test_no_ids_are_no_rows(path):
    store = open_store(path)
    assert store.images[[]].shape == (0, 8, 8, 3) and store.class_ids[[]].shape == (0,)
    assert store.views["views"][[]].shape == (0, 2, 5) and store.labels["teacher"].logits([]).shape == (0, 2, 10)


def test_a_second_process_can_prove_rows_by_the_checks_alone(path):
    code = (
        "import sys, numpy as np; from dmkd.stores import open_store; from dmkd.stores.checks import image_checks\n"
        "s = open_store(sys.argv[1]); ids = np.arange(16, 32)\n"
        "rows = np.memmap(sys.argv[1] + '/images/c.1.0.0.0', np.uint8, 'r', 0, (16, 8, 8, 3))\n"
        "print((image_checks(ids, s.class_ids[ids], rows) == s.checks[ids]).all(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


# The functions


def crc(*parts):
    return google_crc32c.value(b"".join(parts))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(1, 5))
def test_checks_are_the_crc32c_of_what_the_format_says(data, n):
    def draw(dtype, shape):
        return data.draw(of_numpy.arrays(dtype, shape))

    ids = np.arange(n) + data.draw(st.integers(0, 2**40))
    class_ids, images = draw(np.int32, n), draw(np.uint8, (n, 2, 3, 3))
    views, quality = draw(np.float32, (n, 2, 6)), draw(np.float32, (n, 3))
    arrays = {"b": draw(">f4", (n, 2, 2)), "a": draw(np.uint8, (2, n, 3)).transpose(1, 0, 2)}
    identity = data.draw(st.text("0123456789abcdef", max_size=64))
    found = image_checks(ids, class_ids, images)
    of_labels = label_checks(identity, ids, found, views, quality, arrays)
    assert found.dtype == of_labels.dtype == np.uint32 and found.shape == of_labels.shape == (n, 2)
    for row in range(n):
        head = int(ids[row]).to_bytes(8, "little")
        both = head + int(class_ids[row]).to_bytes(4, "little", signed=True)
        assert found[row].tolist() == [crc(both), crc(both, images[row].tobytes())]
        head = identity.encode() + head + int(found[row, 1]).to_bytes(4, "little")
        encoded = [arrays["b"][row].astype("<f4").tobytes(), arrays["a"][row].tobytes()]
        assert of_labels[row].tolist() == [crc(head, quality[row].tobytes()), crc(head, views[row].tobytes(), *encoded)]


@given(first=st.integers(0, 2**30), shift=st.integers(1, 2**24 - 1))
def test_views_are_bound_to_their_image(first, shift):
    ids = np.arange(first, first + 3)
    stored = bind_views(ids, np.zeros((3, 2, 5), np.float32))
    assert stored.shape == (3, 2, 6) and stored.dtype == np.float32
    assert views_bound(ids, stored).all() and not views_bound(ids + shift, stored).any()


@given(st.lists(st.integers(0, 99), max_size=30), st.integers(1, 20))
def test_ids_are_parted_by_block(ids, block_size):
    ids = np.array(ids, np.int64)
    parts = list(by_block(ids, block_size))
    assert [block for block, _ in parts] == sorted(set((ids // block_size).tolist()))
    assert sorted(np.concatenate([places for _, places in parts] or [[]])) == list(range(len(ids)))
    assert all((ids[places] // block_size == block).all() for block, places in parts)


def test_kept_chunks_are_bounded():
    kept = KeptChunks(max_bytes=100)
    for block in range(30):
        kept.put("a", block, np.zeros(10, np.uint8))
        assert kept.bytes <= 100
        assert kept.get("a", 0) is not None or block > 9, "used again and again, it stays"
    assert kept.bytes == 100 and kept.get("a", 0) is not None and kept.get("a", 1) is None
    kept.forget([0, 29])
    assert kept.bytes == 80 and kept.get("a", 0) is None
    kept.put("a", 5, np.zeros(200, np.uint8))
    assert kept.bytes <= 100


def test_one_store_can_be_read_by_several_threads(path):
    store, failures = open_store(path), []
    store.chunks.kept.max_bytes = 500  # so that chunks come and go
    expected = store.images[:]

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(30):
            ids = rng.integers(0, 100, 5)
            if not np.array_equal(store.images[ids], expected[ids]):
                failures.append(ids)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
