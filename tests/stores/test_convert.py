"""Stores in another format: equal to the bit when they are read, whatever interrupts the copying."""

import json
import multiprocessing
import os
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import CLASS_NAMES, block_arrays, filled_store, new_store, tree_bytes

from dmkd.cli.main import main
from dmkd.stores import DamagedChunkError, UsageError, create_store, open_store, parse_codec
from dmkd.stores.convert import convert
from dmkd.stores.verifying.finding import ERROR
from dmkd.stores.verifying.verifier import Verifier


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def contents(tree, node=""):
    """Everything below a node, as it is read: attributes, constants, blocks."""
    found = {(node, "attributes"): json.dumps(tree.attributes(node), sort_keys=True)}
    for name in tree.children(node):
        below = f"{node}/{name}" if node else name
        try:
            shape = tree.shape(below)
        except KeyError:
            found |= contents(tree, below)
            continue
        found[below, "array"] = shape, str(tree.dtype(below)), json.dumps(tree.attributes(below), sort_keys=True)
        if "/constants/" in below:
            found[below, "constant"] = tree.read_constant(below).tobytes()
            continue
        for block in tree.present_blocks(below):
            found[below, block] = tree.read_block(below, block).tobytes()
    return found


def rich_store(path):
    """All codecs, a last block that is partly used, a missing block, a label set that is not labelled, two runs."""
    store = new_store(path)
    for codec in ("uint8", "topk:3", "klt:0.5"):
        store.add_label_set(
            codec.split(":")[0],
            teacher={"name": "ü"},
            source="t",
            view_set="views",
            codec=parse_codec(codec),
            num_classes=10,
        )
    logits = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    store.fit_label_set("klt", parse_codec("klt:0.5").fit(10, sample=logits))
    for run in range(2):
        with store.log_run(command="test", options={"run": run}) as log:
            worker = log.add_worker({"host": "here"})
            for block in (0, 1, 3, 4, 5, 6):
                arrays = block_arrays(store, block)
                for name in ("uint8", "topk", "klt"):
                    arrays["labels"][name] = arrays["labels"]["teacher"]
                if run == 0 or block > 3:
                    store.write_block(block, **arrays)
                log.add_block(block, worker, 1.0, 0.1)
    store.add_label_set("begun", teacher={}, source="t", view_set="views", codec=parse_codec("klt:1"), num_classes=10)
    return store


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    return rich_store(tmp_path_factory.mktemp("rich") / "s.zarr")


def test_there_and_back_everything_is_equal_to_the_bit(rich, tmp_path):
    there = convert(rich, str(tmp_path / "s.h5"))
    assert contents(there.chunks.tree) == contents(rich.chunks.tree)
    assert there.runs() == rich.runs() and len(there.runs()) == 2
    assert there.attributes["dmkd_format"] == 1
    back = convert(there, str(tmp_path / "back.zarr"))
    assert tree_bytes(tmp_path / "back.zarr") == tree_bytes(Path(rich.path))
    assert contents(back.chunks.tree) == contents(rich.chunks.tree)
    for store in (there, back):
        verifier = Verifier(store)
        findings = [*verifier.attributes(), *(f for b in range(store.num_blocks) for f in verifier.block(b))]
        assert [finding for finding in findings if finding.severity == ERROR] == []
        np.testing.assert_array_equal(store.labels["klt"].logits([3, 99]), rich.labels["klt"].logits([3, 99]))
        assert store.missing_blocks() == [2]


def test_a_copy_of_a_store_without_a_format_number_has_one(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=32)
    metadata = tmp_path / "s.zarr/zarr.json"
    root = json.loads(metadata.read_text())
    del root["attributes"]["dmkd_format"]
    metadata.write_text(json.dumps(root))
    copy = convert(open_store(store.path), str(tmp_path / "s.h5"))
    assert copy.attributes["dmkd_format"] == 1 and copy.identity == store.identity


def test_the_copy_can_be_gone_on_with(rich, tmp_path):
    copy = convert(rich, str(tmp_path / "s.h5"))
    copy.write_block(2, **block_arrays(copy, 2))
    copy.grow(120)
    assert open_store(copy.path).missing_blocks() == [6, 7]


def test_lossless_images_come_back_as_the_same_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    options = {"num_images": 8, "image_shape": (8, 8, 3), "class_names": CLASS_NAMES, "block_size": 4}
    store = create_store(str(tmp_path / "s.zarr"), recipe={"image_codec": "webp"}, image_codec="webp", **options)
    for block in range(2):
        store.write_block(block, images=images[4 * block :][:4], class_ids=np.zeros(4, np.int32))
    there = convert(store, str(tmp_path / "s.h5"))
    np.testing.assert_array_equal(there.images[:], images)
    convert(there, str(tmp_path / "back.zarr"))
    assert tree_bytes(tmp_path / "back.zarr") == tree_bytes(tmp_path / "s.zarr")


def test_jpeg_images_are_refused(tmp_path):
    options = {"num_images": 8, "image_shape": (8, 8, 3), "class_names": CLASS_NAMES}
    create_store(str(tmp_path / "s.zarr"), recipe={}, image_codec="jpeg:95", **options)
    done = dmkd("convert", tmp_path / "s.zarr", tmp_path / "s.h5")
    assert done.exit_code == 2 and "JPEG" in done.stderr and not (tmp_path / "s.h5").exists()


@pytest.mark.parametrize("name", ["s.h5", "t.zarr"])
def test_a_copy_that_is_killed_goes_on_and_ends_the_same(tmp_path, name):
    source = filled_store(tmp_path / "s.zarr", num_images=3000, block_size=100, image_shape=(64, 64, 3))
    target, rng, kills = tmp_path / name, random.Random(0), 0
    while True:
        process = multiprocessing.get_context("fork").Process(target=convert, args=(source, str(target)))
        process.start()
        process.join(rng.uniform(0.02, 0.1 * (kills + 1)))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        kills += 1
    assert kills >= 2 and contents(open_store(target).chunks.tree) == contents(source.chunks.tree)


def test_what_changed_in_the_source_meanwhile_is_copied_again(tmp_path, monkeypatch):
    source = filled_store(tmp_path / "s.zarr")
    monkeypatch.setattr(
        "dmkd.stores.convert.copy_runs", lambda *_: 1 / 0
    )  # all blocks are copied, and it is not finished
    with pytest.raises(ZeroDivisionError):
        convert(source, str(tmp_path / "s.h5"))
    monkeypatch.undo()
    source.write_block(1, **block_arrays(source, 1, seed=99))
    source.chunks.tree.delete_block("images", 3)
    assert contents(convert(source, str(tmp_path / "s.h5")).chunks.tree) == contents(source.chunks.tree)


def test_bad_requests_are_told_and_harm_nothing(tmp_path):
    source = filled_store(tmp_path / "s.zarr", num_images=32)
    other = create_store(
        str(tmp_path / "o.zarr"), recipe={"other": 1}, num_images=4, image_shape=(8, 8, 3), class_names=["a"]
    )
    for target, told in ((source.path, "is the store itself"), (other.path, "already exists; give the copy")):
        with pytest.raises(UsageError, match=told):
            convert(source, target)
    (tmp_path / "thesis.h5").write_text("years of work")
    with pytest.raises(UsageError, match="is not a dmkd store"):
        convert(source, str(tmp_path / "thesis.h5"))
    assert (tmp_path / "thesis.h5").read_text() == "years of work"
    os.truncate(tmp_path / "s.zarr/images/c.1.0.0.0", 100)
    with pytest.raises(DamagedChunkError, match=r"images/c\.1\.0\.0\.0 is damaged"):
        convert(source, str(tmp_path / "s.h5"))
    with pytest.raises(UsageError, match=r"identity: the store has .* Delete .*s\.h5"):
        convert(other, str(tmp_path / "s.h5"))
    done = dmkd("inspect", tmp_path / "s.h5")
    assert done.exit_code == 2 and "interrupted" in done.stderr


def test_the_only_store_here_may_be_an_hdf5_file(tmp_path, monkeypatch):
    filled_store(tmp_path / "s.h5", num_images=32)
    monkeypatch.chdir(tmp_path)
    done = dmkd("inspect", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["complete"]
