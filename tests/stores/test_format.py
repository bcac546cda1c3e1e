"""The format's specification, its schema and its test vectors: a reader that was written from the page alone, beside the code."""

import hashlib
import json
import zipfile
from pathlib import Path

import format_reader as reader
import numpy as np
import pytest
import store_schema
from conftest import CLASS_NAMES, block_arrays, filled_store
from format_vectors import VECTORS, values_of, vectors
from stores_with_rounds import STUDENT, store_with_rounds

from dmkd.stores import create_store, open_store, parse_codec
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.stores.packing import pack
from dmkd.stores.tags import write_tag

ROOT = Path(__file__).resolve().parent.parent.parent
WRITTEN = json.loads(VECTORS.read_text())
CODECS = ("float16", "uint8", "features", "klt:0.5", "topk:3")
ENCODED = ("image_codecs",)  # encoders may write other bytes for the same pixels


def store_of_all_codecs(path):
    """100 images in blocks of 16, of which block 2 is missing, with labels in every codec and a column."""
    store = filled_store(path)
    rng = np.random.default_rng(5)
    weight, sample = rng.normal(size=(10, 4)).astype(np.float32), rng.normal(size=(500, 10)).astype(np.float32)
    for text in CODECS:
        codec, name = parse_codec(text), text.split(":")[0]
        store.add_label_set(name, teacher={}, source="t", view_set="views", codec=codec, num_classes=10)
        if codec.needs:
            store.fit_label_set(
                name, codec.fit(10, sample=sample, weight=weight if codec.input == "features" else None)
            )
        for block in range(store.num_blocks):
            values, quality = block_arrays(store, block)["labels"]["teacher"]
            if codec.input == "features":
                values = np.ascontiguousarray(values[..., :4])
            store.write_block(block, labels={name: (values, quality)})
    store.add_column("score", rng.normal(size=100))
    for node in ("images", "labels/klt/coefficients"):
        store.chunks.tree.delete_block(node, 2)
    return store


def check_read_alike(store):
    """Whether the other reader reads what dmkd reads, to the last bit of the images."""
    other = reader.Store(Path(store.path))
    assert (other.num_images, other.block_size) == (store.num_images, store.block_size)
    missing = [block for block in range(store.num_blocks) if other.chunk("images", block) is None]
    assert missing == store.missing_blocks()
    for block in sorted(set(range(store.num_blocks)).difference(missing)):
        ids = np.array(store.block_ids(block))
        images, class_ids = other.images(block)
        np.testing.assert_array_equal(images, store.images[ids])
        np.testing.assert_array_equal(class_ids, store.class_ids[ids])
        for name, label_set in store.labels.items():
            assert other.labelled(name, block) == label_set.has_block(block)
            for temperature in (0.5, 1, 4) if label_set.has_block(block) else ():
                found = other.labels(name, block, temperature)
                np.testing.assert_allclose(found, label_set.logits(ids, temperature=temperature), rtol=1e-5, atol=1e-6)
        for column in store.columns.values():
            assert (other.chunk(column.node, block) is not None) == column.has_block(block)
            if not column.has_block(block):
                continue
            numbers, checks = other.rows(column.node, block).T
            np.testing.assert_array_equal(numbers, column[ids])
            of_images = other.rows("checks", block)[:, 1]
            found = map(reader.column_check, [column.identity] * len(ids), ids, of_images, numbers)
            assert list(found) == checks.tolist()


def test_a_reader_written_from_the_specification_reads_a_store(tmp_path):
    check_read_alike(store_of_all_codecs(tmp_path / "s.zarr"))


def test_it_reads_a_packed_store_with_loose_blocks(tmp_path):
    store = store_of_all_codecs(tmp_path / "s.zarr")
    pack(store)
    check_read_alike(open_store(store.path))
    store.write_block(1, **block_arrays(store, 1, seed=9))
    store.chunks.tree.delete_block("images", 4)
    check_read_alike(open_store(store.path))


def test_it_reads_a_store_with_rounds_and_follows_their_chain(tmp_path):
    store = store_with_rounds(tmp_path / "s.zarr")
    check_read_alike(store)
    other = reader.Store(Path(store.path))
    before = other.attributes["identity"]
    for number in (1, 2):
        attributes = other.node(f"rounds/{number}")["attributes"]
        text = json.dumps(
            {k: v for k, v in attributes.items() if k != "identity"}, sort_keys=True, separators=(",", ":")
        )
        assert attributes["before"] == before
        before = attributes["identity"]
        assert hashlib.sha256(text.encode()).hexdigest() == before
    assert before == store.lineage
    assert other.constant("rounds/1/student").tobytes() == STUDENT


@pytest.mark.parametrize("codec", ["webp", "jpeg:90"])
def test_it_reads_compressed_images(tmp_path, codec):
    options = {"num_images": 6, "image_shape": (8, 8, 3), "class_names": CLASS_NAMES, "block_size": 4}
    store = create_store(str(tmp_path / "s.zarr"), recipe={}, image_codec=codec, **options)
    for block in range(2):
        count = len(store.block_ids(block))
        images = np.random.default_rng(block).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
        store.write_block(block, images=images, class_ids=np.zeros(count, np.int32))
    check_read_alike(store)


def test_it_reads_a_store_of_an_earlier_dmkd(tmp_path):
    with zipfile.ZipFile(ROOT / "tests/data/store-of-format-1.zip") as archive:
        archive.extractall(tmp_path)
    path = tmp_path / "store-of-format-1.zarr"
    check_read_alike(open_store(path))
    assert list(store_schema.problems_of(str(path))) == []


def test_a_damaged_chunk_is_an_error_to_it(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    chunk = tmp_path / "s.zarr/images/c.1.0.0.0"
    chunk.write_bytes((tmp_path / "s.zarr/images/c.2.0.0.0").read_bytes())
    with pytest.raises(AssertionError):
        reader.Store(Path(store.path)).images(1)


def test_a_tag_can_be_recomputed_from_what_it_reads(tmp_path):
    store = store_of_all_codecs(tmp_path / "s.zarr")
    tag = write_tag(store, "v1")
    other = reader.Store(Path(store.path))
    digests = other.constant("tags/v1/digests")
    for place, (node, facts) in enumerate(sorted(tag.arrays.items())):
        rows = [other.rows(node, block) for block in range(7)]
        # Without images or without the marker a block is not there.
        rows[2] = None
        found = b"".join(bytes(32) if one is None else hashlib.sha256(reader.row_bytes(one)).digest() for one in rows)
        assert found == digests[place].tobytes() and hashlib.sha256(found).hexdigest() == facts["sha256"]
    for node, facts in tag.manifest["constants"].items():
        assert hashlib.sha256(reader.row_bytes(other.constant(node))).hexdigest() == facts["sha256"]
    text = json.dumps(tag.manifest, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == tag.sha256


# Vectors


def test_the_vectors_are_those_of_the_code():
    """If they differ, bytes in stores have changed: then the format has."""
    now = json.loads(json.dumps(vectors()))
    for key in WRITTEN.keys() | now.keys() - set(ENCODED):
        if key == "label_codecs":
            for written, one in zip(WRITTEN[key], now[key], strict=True):
                for temperature, logits in written.pop("logits").items():
                    np.testing.assert_allclose(one["logits"][temperature], logits, rtol=1e-6, atol=1e-7)
                del one["logits"]
        if key not in ENCODED:
            assert now[key] == WRITTEN[key], key


@pytest.mark.parametrize("vector", WRITTEN["label_codecs"], ids=lambda vector: vector["codec"]["name"])
def test_the_reader_decodes_the_vectors_logits(vector):
    arrays = {name: values_of(one) for name, one in vector["arrays"].items()}
    constants = {name: values_of(one) for name, one in vector["constants"].items()}
    for temperature, expected in WRITTEN_LOGITS[vector["codec"]["name"]].items():
        found = reader.logits(vector["codec"], vector["num_classes"], constants, arrays, float(temperature))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


WRITTEN_LOGITS = {vector["codec"]["name"]: dict(vector["logits"]) for vector in WRITTEN["label_codecs"]}


@pytest.mark.parametrize("vector", WRITTEN["image_codecs"], ids=lambda vector: vector["image_codec"])
def test_the_vectors_chunks_of_images_are_read(vector):
    import base64

    chunk, images = base64.b64decode(vector["chunk"]), values_of(vector["images"])
    serializer = parse_image_codec(vector["image_codec"]).serializer()
    np.testing.assert_array_equal(serializer.decode_images(memoryview(chunk), images.shape), images)
    np.testing.assert_array_equal(reader.decoded_images(chunk, serializer.name, list(images.shape)), images)


@pytest.mark.parametrize("vector", WRITTEN["views"], ids=lambda vector: vector["interpolation"])
def test_the_reader_renders_the_vectors_views(vector):
    images, views = values_of(vector["images"]), values_of(vector["views"])[:, 0]
    pixels = reader.render(images, views, vector["components"], vector["size"], vector["interpolation"])
    np.testing.assert_array_equal(pixels, values_of(vector["pixels"]))


def test_the_reader_gives_the_vectors_checks():
    rows = WRITTEN["rows"]
    classes, images, checks, views = (values_of(rows[key]) for key in ("class_ids", "images", "checks", "views"))
    labels = {key: values_of(rows["label_set"][key]) for key in ("quality", "checks")}
    logits, column = values_of(rows["label_set"]["arrays"]["logits"]), rows["column"]
    for row, i in enumerate(rows["ids"]):
        assert reader.image_checks(i, classes[row], images[row]) == checks[row].tolist()
        assert (views[row, :, -1] == i % 2**24).all()
        about = (rows["label_set"]["identity"], i, checks[row, 1])
        assert (
            reader.label_checks(*about, views[row], labels["quality"][row], [logits[row]])
            == labels["checks"][row].tolist()
        )
        about = (column["identity"], i, checks[row, 1])
        assert reader.column_check(*about, column["numbers"][row]) == column["checks"][row]
    assert reader.verified(bytes.fromhex(WRITTEN["chunk"]["file"])) == np.array([3, 1, -1, -1], "<i4").tobytes()


# The schema


def test_the_schema_is_one():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(store_schema.schema())


def rich_store(path):
    """One node of every kind."""
    store = store_with_rounds(path)
    store.add_column("clip_score", np.arange(100.0))
    store.save_selection("few", "image_id < 7")
    store.write_card("# s", "cc0")
    write_tag(store, "v1")
    with store.log_run(command="test", options={}, versions={"numpy": "2"}, driver={"host": "h", "pid": 1}) as log:
        log.add_block(0, log.add_worker({"host": "h"}), 1.0, 0.1)
    return store


@pytest.mark.parametrize("name", ["s.zarr", "s.h5"])
def test_every_kind_of_node_has_its_schema(tmp_path, monkeypatch, name):
    seen = []
    monkeypatch.setattr(store_schema, "_problems", lambda where, kind, attributes: seen.append(kind) or [])
    list(store_schema.problems_of(rich_store(tmp_path / name).path))
    sets = ["view_set", "label_set", "column", "column", "column", "round", "round", "tag"]
    assert seen == ["root", *sets, "selections", "card", "run", "run_part"]


@pytest.mark.breaks_metadata
@pytest.mark.parametrize(
    ("node", "attributes", "told"),
    [
        ("", {"colour": "red"}, "'colour' was unexpected"),
        ("", {"created": "yesterday"}, "created: 'yesterday' does not match"),
        ("views/views", {"components": ["row", "left", "height", "width", "flip"]}, "components/0: 'top' was expected"),
        ("labels/teacher", {"codec": {"name": "gzip"}}, "codec: "),
        ("columns/clip_score", {"identity": "0"}, "identity: "),
        ("rounds/1", {"candidates": 1}, "candidates: 1 is less than the minimum of 2"),
        ("rounds/2", {"mood": "good"}, "'mood' was unexpected"),
        ("selections", {"few": 7}, "few: 7 is not of type 'string'"),
        ("card", {"licence": None}, "licence: None is not of type 'string'"),
        ("tags/v1", {"sha256": None}, "sha256: None is not of type 'string'"),
    ],
)
def test_what_is_not_of_the_format_is_told(tmp_path, node, attributes, told):
    store = rich_store(tmp_path / "s.zarr")
    assert list(store_schema.problems_below(tmp_path)) == []
    store.chunks.tree.set_attributes(attributes, node)
    (problem,) = store_schema.problems_below(tmp_path)
    assert told in problem and problem.startswith(f"{store.path}/{node}".rstrip("/"))
