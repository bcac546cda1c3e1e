"""Tags: the same for every copy of a store, told what differs, and there as a whole or not at all."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import CLASS_NAMES, TEACHER, block_arrays, filled_store, new_store

from dmkd.cli.main import main
from dmkd.stores import (
    DamagedChunkError,
    DamagedMetadataError,
    MissingBlockError,
    StoreError,
    StoreWriteError,
    UsageError,
    create_store,
    open_store,
    parse_codec,
)
from dmkd.stores.convert import convert
from dmkd.stores.identity import fingerprint
from dmkd.stores.pack_copy import pack_copy
from dmkd.stores.packing import pack
from dmkd.stores.tagged_store import open_tagged
from dmkd.stores.tags import read_tag, read_tags, verify_tag, write_tag
from dmkd.stores.verifying.finding import ERROR, NOTE


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def told(store, tag):
    """What differs, as ``where: sentence``; notes apart."""
    findings = verify_tag(open_store(store.path), tag)
    assert {finding.severity for finding in findings} <= {ERROR, NOTE}
    return [f"{finding.where}: {finding.sentence}" for finding in findings if finding.severity == ERROR]


def by_id(store, block):
    """Rows that are a function of the image's id, as those of a generator and a teacher are."""
    rows = [block_arrays(store, 0, seed=int(i)) for i in store.block_ids(block)]

    def stacked(pick):
        return np.stack([pick(row)[0] for row in rows])

    return {
        "images": stacked(lambda row: row["images"]),
        "class_ids": stacked(lambda row: row["class_ids"]),
        "views": {"views": stacked(lambda row: row["views"]["views"])},
        "labels": {"teacher": tuple(stacked(lambda row, i=i: row["labels"]["teacher"][i]) for i in range(2))},
    }


def fill(store):
    for block in store.missing_blocks():
        store.write_block(block, **by_id(store, block))
    return store


def add_klt(store, step=0.5):
    """Another label set, whose codec has constants."""
    codec = parse_codec(f"klt:{step}")
    store.add_label_set("klt", teacher=TEACHER, source="t", view_set="views", codec=codec, num_classes=10)
    sample = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    store.fit_label_set("klt", codec.fit(10, sample=sample))
    for block in range(store.num_blocks):
        store.write_block(block, labels={"klt": block_arrays(store, block)["labels"]["teacher"]})


def test_a_tag_is_the_same_wherever_the_store_is(place):
    store = filled_store(place.path)
    store.add_column("score", np.arange(100.0))
    tag = write_tag(store, "v1")
    assert read_tags(open_store(store.path)) == {"v1": tag} and len(tag.sha256) == 64
    assert tag.images_made == tag.num_images == 100 and tag.arrays["images"]["blocks"] == 7
    # What it is made of is fixed: another number here is another format of tags.
    assert tag.sha256 == "ff450dcd627b835c829ae8c571fb6a5b0a950a1d202582422996276c860b4f66"
    assert told(store, tag) == []


@pytest.mark.parametrize("codec", ["raw", "webp"])
def test_a_copy_has_the_tag_and_is_as_tagged(tmp_path, codec):
    store = filled_store(tmp_path / "s.zarr", image_codec=codec)
    add_klt(store)
    tag = write_tag(store, "v1")
    for name in ("s.h5", "t.zarr"):
        copy = convert(store, str(tmp_path / name))
        assert read_tag(copy, "v1") == tag and told(copy, tag) == []
        assert write_tag(copy, "again").sha256 == tag.sha256


def test_packing_keeps_tags_and_what_they_say(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    add_klt(store)
    tag = write_tag(store, "v1")
    copy = pack_copy(store, str(tmp_path / "t.zarr"))
    pack(store)
    for packed in (open_store(store.path), copy):
        assert read_tag(packed, "v1") == tag and told(packed, tag) == []
        assert write_tag(packed, "again").sha256 == tag.sha256
        assert (open_tagged(packed.path, "v1").images[:] == store.images[:]).all()
    store.write_block(2, **block_arrays(store, 2, seed=5))  # loose, beside the shards
    assert "images, block 2: The values are not those that were tagged." in told(store, tag)


def test_how_rows_are_written_does_not_matter(tmp_path):
    tags = []
    for codec in ("raw", "webp"):
        options = {"num_images": 32, "image_shape": (8, 8, 3), "class_names": CLASS_NAMES, "block_size": 16}
        store = create_store(str(tmp_path / f"{codec}.zarr"), recipe={}, image_codec=codec, **options)
        for block in range(2):
            arrays = block_arrays(new_store(tmp_path / f"{codec}{block}.zarr"), block)
            store.write_block(block, images=arrays["images"], class_ids=arrays["class_ids"])
        tags.append(write_tag(store, "v1").sha256)
    assert tags[0] == tags[1]


def test_tagging_again_says_unchanged_or_refuses(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    first = write_tag(store, "v1")
    assert write_tag(store, "v1") == first and write_tag(store, "other").sha256 == first.sha256
    store.write_block(2, **block_arrays(store, 2, seed=77))
    with pytest.raises(UsageError, match=r"another tag v1.*--replace.*verify .*--tag v1"):
        write_tag(store, "v1")
    assert read_tags(store)["v1"] == first
    second = write_tag(store, "v1", replace=True)
    assert read_tags(store)["v1"] == second != first and told(store, second) == []


def test_what_an_unfinished_store_has_is_tagged_and_what_comes_later_is_not_covered(tmp_path):
    store = new_store(tmp_path / "s.zarr", num_images=40)
    with pytest.raises(UsageError, match="nothing to tag"):
        write_tag(store, "v0")
    store.write_block(0, **by_id(store, 0))
    arrays = by_id(store, 2)
    store.write_block(2, images=arrays["images"], class_ids=arrays["class_ids"], views=arrays["views"])
    tag = write_tag(store, "v1")
    assert tag.images_made == 24 and tag.arrays["labels/teacher/logits"]["blocks"] == 1
    assert tag.arrays["views/views"]["blocks"] == 2
    fill(store)
    store.grow(90)
    fill(store)
    store.write_block(2, labels=by_id(store, 2)["labels"])
    add_klt(store)
    assert told(store, tag) == []
    notes = [finding.sentence for finding in verify_tag(store, tag)]
    assert notes == [
        "Label set klt was added after the tag was made.",
        "4 blocks of images were made after the tag was.",
    ]


def rewrite(node, block):
    """Other rows, and a chunk that is sound."""

    def change(store):
        tree = store.chunks.tree
        tree.write_block(node, block, tree.read_block(node, block)[::-1].copy())

    return change


def delete(node, block):
    return lambda store: store.chunks.tree.delete_block(node, block)


def describe(node, **attributes):
    return lambda store: store.chunks.tree.set_attributes(attributes, node)


def other_basis(store):
    tree, node = store.chunks.tree, "labels/klt/constants/mean"
    tree.write_constant(node, tree.read_constant(node) + 1)


NODES = ["images", "class_ids", "checks", "views/views", "columns/score"]
NODES += [f"labels/teacher/{part}" for part in ("quality", "checks", "logits")]
CHANGES = [
    *((rewrite(node, 1), [f"{node}, block 1: The values are not those that were tagged."]) for node in NODES),
    *((delete(node, 6), [f"{node}, block 6: The block was tagged and is missing."]) for node in NODES),
    (other_basis, ["labels/klt/constants/mean: The constant is not the one that was tagged."]),
    (describe("", class_names=CLASS_NAMES[::-1]), ["store: The names of the classes are not those that were tagged."]),
    (
        describe("", recipe={"seed": 7}),
        ["store: The identity is not that of the recipe: the attributes were changed after the store was made."],
    ),
    (
        describe("views/views", size=9),
        ["views/views: The identity is not that of the store and the views' description."],
    ),
    (
        describe("labels/teacher", teacher={"name": "u"}),
        ["labels/teacher: The identity is not that of the store, the views, the teacher and the codec."],
    ),
    (
        lambda store: store.add_column("score", np.ones(100), replace=True),
        [
            "columns/score: Column score is another than was tagged.",
            *(f"columns/score, block {block}: The values are not those that were tagged." for block in range(7)),
        ],
    ),
]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """A store with constants and a column, and its tag v1."""
    store = filled_store(tmp_path_factory.mktemp("tagged") / "s.zarr")
    store.add_column("score", np.arange(100.0))
    add_klt(store)
    return store, write_tag(store, "v1")


@pytest.mark.parametrize(("change", "sentences"), CHANGES)
def test_whatever_differs_is_told(tmp_path, tagged, change, sentences):
    original, tag = tagged
    store = open_store(shutil.copytree(original.path, tmp_path / "s.zarr"))
    change(store)
    assert told(store, tag) == sentences
    done = dmkd("verify", store.path, "--tag", "v1")
    assert done.exit_code == 1 and "DIFFERS from tag v1" in done.stdout and sentences[0].split(":")[0] in done.stdout


def test_a_chunk_that_can_not_be_read_differs(tmp_path):
    store = filled_store(tmp_path / "s.zarr", image_codec="webp")
    tag = write_tag(store, "v1")
    file = tmp_path / "s.zarr/images/c.3.0.0.0"
    file.write_bytes(file.read_bytes()[:-9])
    (sentence,) = told(store, tag)
    assert sentence.startswith("images, block 3: The block can't be read")


def test_what_is_damaged_is_not_tagged(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    chunk = (tmp_path / "s.zarr/labels/teacher/logits/c.1.0.0").read_bytes()
    (tmp_path / "s.zarr/labels/teacher/logits/c.2.0.0").write_bytes(chunk)
    with pytest.raises(DamagedChunkError, match=r"teacher/logits/c\.2"):
        write_tag(open_store(store.path), "v1")
    store.chunks.tree.set_attributes({"recipe": {}})
    with pytest.raises(StoreError, match="was not tagged .store: The identity"):
        write_tag(open_store(store.path), "v1")
    assert read_tags(store) == {}


@pytest.mark.parametrize("replaced", [False, True])
def test_a_tag_whose_making_was_interrupted_is_not_there(tmp_path, monkeypatch, replaced):
    store = filled_store(tmp_path / "s.zarr")
    tree = store.chunks.tree
    if replaced:
        write_tag(store, "v1")
        store.write_block(0, **block_arrays(store, 0, seed=9))

    def fail(attributes, node=""):
        if attributes.get("manifest"):
            raise OSError(28, "No space left on device")
        type(tree).set_attributes(tree, attributes, node)

    with monkeypatch.context() as patch:
        patch.setattr(tree, "set_attributes", fail)
        with pytest.raises(StoreWriteError, match=r"tag v1 of .*disk is full"):
            write_tag(store, "v1", replace=replaced)
    assert read_tags(store) == {}
    assert "Tags" not in dmkd("inspect", store.path).stdout
    assert told(store, write_tag(store, "v1")) == []


def test_a_tag_that_was_edited_is_found(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    tag = write_tag(store, "v1")
    store.chunks.tree.set_attributes({"manifest": {**tag.manifest, "num_images": 7}}, "tags/v1")
    with pytest.raises(DamagedMetadataError, match=r"another sha256.*--replace"):
        read_tag(store, "v1")
    write_tag(store, "v1", replace=True)
    digests = store.chunks.tree.read_constant("tags/v1/digests").copy()
    digests[0, 0] = 0
    store.chunks.tree.write_constant("tags/v1/digests", digests)
    with pytest.raises(DamagedChunkError, match="digests of tag v1"):
        verify_tag(store, read_tag(store, "v1"))
    done = dmkd("verify", store.path)
    assert done.exit_code == 0 and "1 warning" in done.stdout and "The digests of tag v1" in done.stdout


@pytest.mark.breaks_metadata
def test_a_tag_of_a_later_kind_is_refused(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    manifest = {**write_tag(store, "v1").manifest, "version": 2}
    later = {"manifest": manifest, "sha256": fingerprint(manifest), "signature": "of the future"}
    store.chunks.tree.set_attributes(later, "tags/v1")
    done = dmkd("verify", store.path, "--tag", "v1")
    assert done.exit_code == 1 and "Tag v1" in done.stderr and "newer dmkd" in done.stderr
    assert dmkd("inspect", store.path).exit_code == 0


def grown(path):
    """A store with a tag of its first 40 images, the last block in part, that went on to 90 with another label set and column."""
    store = fill(new_store(path, num_images=40, image_shape=(32, 32, 3)))
    tag = write_tag(store, "v1")
    images, logits = store.images[:], store.labels["teacher"].logits(slice(None))
    store.grow(90)
    add_klt(fill(store))
    store.add_column("late", np.arange(90.0))
    return store, tag, images, logits


def test_a_tagged_store_is_what_was_tagged(place):
    store, tag, images, logits = grown(place.path)
    for held in (open_tagged(store.path, "v1"), pickle.loads(pickle.dumps(open_tagged(store.path, "v1")))):
        assert (held.num_images, held.num_blocks, held.images.shape) == (40, 3, (40, 32, 32, 3))
        assert held.held_to == {"name": "v1", "sha256": tag.sha256}
        np.testing.assert_array_equal(held.images[:], images)
        np.testing.assert_array_equal(held.labels["teacher"].logits(slice(None)), logits)
        np.testing.assert_array_equal(held.views["views"].rows.block(2), held.views["views"][32:40])
        assert (list(held.labels), list(held.views), list(held.columns)) == (["teacher"], ["views"], [])
        with pytest.raises(UsageError, match="ids 0 to 39"):
            held.images[40]
    with pytest.raises(UsageError, match="does not cover label set 'klt', which came later; it covers teacher"):
        open_tagged(store.path, "v1", ["klt"])


def test_blocks_that_were_made_after_the_tag_are_missing_in_it(tmp_path):
    store = new_store(tmp_path / "s.zarr", num_images=40)
    store.write_block(1, **by_id(store, 1))
    write_tag(store, "v1")
    fill(store)
    held = open_tagged(store.path, "v1")
    assert held.missing_blocks() == held.labels["teacher"].missing_blocks() == [0, 2]
    assert not held.labels["teacher"].has_block(0) and held.labels["teacher"].labelled_blocks() == [1]
    with pytest.raises(MissingBlockError):
        held.images[0]


@pytest.mark.parametrize(
    "node", ["class_ids", "checks", "views/views", "labels/teacher/quality", "labels/teacher/checks"]
)
def test_a_tagged_store_is_not_opened_where_what_proves_the_rest_differs(tmp_path, node):
    store = filled_store(tmp_path / "s.zarr")
    write_tag(store, "v1")
    rewrite(node, 4)(store)
    with pytest.raises(StoreError, match=rf"not what was tagged v1 \({node}, block 4: .*verify .*--tag v1"):
        open_tagged(store.path, "v1")


def test_images_and_logits_of_a_tagged_store_are_proved_when_they_are_read(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    write_tag(store, "v1")
    # Sound by itself, with checks and all, but not what was tagged: the checks differ.
    store.write_block(3, **block_arrays(store, 3, seed=33))
    with pytest.raises(StoreError, match="not what was tagged"):
        open_tagged(store.path, "v1")
    store.write_block(3, **block_arrays(store, 3))
    rewrite("images", 3)(store)
    with pytest.raises(DamagedChunkError, match="images"):
        open_tagged(store.path, "v1").images[50]


def test_a_loader_reads_what_the_tag_covers(tmp_path):
    import dmkd as package

    store, _, images, _ = grown(tmp_path / "s.zarr")
    seen = {}
    for batch in package.loader(store.path, tag="v1", batch_size=16, device="cpu"):
        seen |= dict(zip(batch.ids.tolist(), batch.images.numpy(), strict=True))
    assert sorted(seen) == list(range(40)) and all((seen[i] == images[i]).all() for i in range(40))


def test_a_student_of_a_tag_cites_it_and_sees_nothing_else(tmp_path):
    store, tag, _, _ = grown(tmp_path / "s.zarr")
    command = ["train-student", "--store", store.path, "--student", "test_resnet", "--epochs", "1", "--lr", "0.01"]
    command += ["--batch-size", "16", "--device", "cpu", "--json"]
    done = dmkd(*command, "--tag", "v1", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["tag"] == {"name": "v1", "sha256": tag.sha256} and summary["store"]["images"] == 40
    done = dmkd(*command, "--labels", "klt", "--tag", "v1", "--out", tmp_path / "other")
    assert done.exit_code == 2 and "does not cover label set 'klt'" in done.stderr
    done = dmkd(*command, "--tag", "v2", "--out", tmp_path / "other")
    assert done.exit_code == 2 and "has no tag 'v2'; it has v1" in done.stderr
    # Another tag under the same name is another run.
    write_tag(open_store(store.path), "v1", replace=True)
    done = dmkd(*command, "--labels", "teacher", "--tag", "v1", "--out", tmp_path / "run")
    assert done.exit_code == 2 and "tag.sha256" in done.stderr
    done = dmkd(*command, "--labels", "teacher", "--out", tmp_path / "untagged")
    assert done.exit_code == 0 and "tag" not in json.loads(done.stdout)


def test_a_tag_is_of_each_of_several_stores(tmp_path):
    import dmkd as package

    first, one, _, _ = grown(tmp_path / "a.zarr")
    second, other, _, _ = grown(tmp_path / "b.zarr")
    command = [
        "train-student",
        "--store",
        first.path,
        "--store",
        second.path,
        "--student",
        "test_resnet",
        "--lr",
        "0.01",
    ]
    command += ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--json", "--out", tmp_path / "run"]
    done = dmkd(*command, "--labels", "a.zarr:teacher,b.zarr:klt", "--tag", "v1")
    assert done.exit_code == 2 and "Tag v1 of" in done.stderr and "does not cover label set 'klt'" in done.stderr
    done = dmkd(*command, "--tag", "v1")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["tag"]["sha256"] == one.sha256 and summary["stores"]["2"]["tag"]["sha256"] == other.sha256
    assert [store["images"] for store in summary["stores"].values()] == [40, 40]
    loader = package.loader([first.path, second.path], tag="v1", batch_size=16, device="cpu")
    assert loader.num_images == 80


def test_the_commands(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    assert dmkd("tag", store.path).stdout == f"{store.path} has no tags.\n"
    done = dmkd("tag", store.path, "v1")
    sha256 = read_tag(store, "v1").sha256
    assert done.exit_code == 0 and sha256 in done.stdout and "unchanged" not in done.stdout
    assert "unchanged" in dmkd("tag", store.path, "v1").stdout
    assert json.loads(dmkd("tag", store.path, "--json").stdout)["v1"]["sha256"] == sha256
    assert f"{sha256[:16]}…" in dmkd("inspect", store.path).stdout
    assert json.loads(dmkd("inspect", store.path, "--json").stdout)["tags"]["v1"]["images"] == 100
    assert f"| tag v1 | sha256 `{sha256}` |" in dmkd("card", store.path).stdout
    done = dmkd("verify", store.path, "--tag", "v1")
    assert done.exit_code == 0 and "as it was tagged" in done.stdout and sha256 in done.stdout
    done = dmkd("verify", store.path, "--tag", "v1", "--json")
    assert json.loads(done.stdout)["tag"] == {"name": "v1", "sha256": sha256}
    assert dmkd("verify", store.path, "--tag", "v1", "--repair").exit_code == 2
    done = dmkd("tag", store.path, "a/b")
    assert done.exit_code == 2 and "not a valid tag name" in done.stderr


def test_a_card_that_is_there_cites_the_tag(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    assert dmkd("card", store.path).exit_code == 0
    assert dmkd("tag", store.path, "v1").exit_code == 0
    assert read_tag(store, "v1").sha256 in open_store(store.path).card["readme"]


def test_a_tag_changes_nothing_else(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    before = {file: file.read_bytes() for file in Path(store.path).rglob("*") if file.is_file()}
    write_tag(store, "v1")
    assert {file: file.read_bytes() for file in before} == before
