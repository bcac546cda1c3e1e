"""What a notebook sees of a store: its card, tables, probabilities, pictures, and the xarray tree."""

import builtins
import html
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import block_arrays, filled_store, new_store

import dmkd
from dmkd.stores import DamagedChunkError, MissingBlockError, Store, UsageError, create_store, open_store, parse_codec
from dmkd.stores.chunks import Chunks
from dmkd.stores.showing.html_card import html_card

PATIENT = 60.0  # seconds: what a card shows does not depend on how busy the machine is


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(filled_store(tmp_path_factory.mktemp("api") / "s.zarr").path)


@pytest.fixture
def without(monkeypatch):
    """Makes a module impossible to import."""
    real = builtins.__import__

    def hide(hidden):
        def imported(name, *rest):
            if name.split(".")[0] == hidden:
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", imported)

    return hide


def test_the_card_shows_what_the_store_is(place):
    filled_store(place.path)
    card = html_card(dmkd.open_store(place.path), PATIENT)
    assert place.path in card and "100 of 8×8, complete" in card and ">teacher<" in card
    assert card.count("data:image/png;base64,") >= 5 and card.count("<div") == card.count("</div>")
    assert "http" not in card and "<script" not in card


def test_the_card_escapes_names(tmp_path):
    path = str(tmp_path / "<b>s & co.zarr")
    store = create_store(
        path, recipe={"generator": "<i>x"}, num_images=4, image_shape=(300, 200, 3), class_names=["<u>a", "b&"]
    )
    for block in range(store.num_blocks):
        ids = np.array(store.block_ids(block))
        pixels = np.zeros((len(ids), 300, 200, 3), np.uint8)
        store.write_block(block, images=pixels, class_ids=(ids % 2).astype(np.int32))
    card = html_card(store, PATIENT)
    assert not re.search(r"<[biu]>", card)
    assert html.escape(path) in card and "&lt;u&gt;a" in card and "image/jpeg" in card and "no labels yet" in card


def test_the_card_of_an_empty_and_of_a_broken_store_is_no_error(tmp_path):
    store = new_store(tmp_path / "s.zarr")
    card = html_card(store, PATIENT)
    assert "7 of 7 blocks missing" in card and "none yet" in card
    filled = filled_store(tmp_path / "t.zarr")
    chunk = tmp_path / "t.zarr/images/c.0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert "is damaged" in html_card(open_store(filled.path), PATIENT)
    (tmp_path / "t.zarr/images/zarr.json").write_text("{")
    assert filled.path in html_card(Store(filled.path), PATIENT)
    assert str(tmp_path / "nowhere") in html_card(Store(str(tmp_path / "nowhere")), PATIENT)


def test_the_card_waits_for_nobody(store, monkeypatch):
    monkeypatch.setattr(Store, "missing_blocks", lambda self: time.sleep(5))
    start = time.monotonic()
    card = open_store(store.path)._repr_html_()
    assert time.monotonic() - start < 2 and "dmkd inspect" in card and "100 of 8×8" in card


def test_softmax_is_that_of_the_logits_at_the_temperature(store):
    label_set = store.labels["teacher"]
    for temperature in (0.5, 1.0, 10.0):
        logits = label_set.logits([5, 2]).astype(np.float64) / temperature
        expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        found = label_set.softmax([5, 2], temperature=temperature)
        assert found.dtype == np.float32 and found.shape == (2, 2, 10)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_array_equal(label_set.softmax(2, 1, temperature), found[1, 1])
    with pytest.raises(UsageError, match="above 0"):
        label_set.softmax(2, temperature=0)


@pytest.mark.parametrize("installed", [True, False])
def test_the_quality_table_is_what_is_stored(tmp_path, without, installed):
    if installed:
        pytest.importorskip("pandas")
    else:
        without("pandas")
    store = new_store(tmp_path / "s.zarr")
    for block in (0, 2):
        store.write_block(block, **block_arrays(store, block))
    label_set = open_store(store.path).labels["teacher"]
    there = [*range(16), *range(32, 48)]
    for ids, table in ((there, label_set.quality_table()), ([33, 2], label_set.quality_table([33, 2]))):
        quality, class_ids = label_set.quality[ids], store.class_ids[ids]
        assert (table.index.tolist() if installed else table["image"].tolist()) == ids
        np.testing.assert_array_equal(table["class_id"], class_ids)
        for name, column in zip(("top1", "p_class", "entropy"), quality.T, strict=True):
            np.testing.assert_array_equal(table[name], column)
        np.testing.assert_array_equal(table["agrees"], quality[:, 0] == class_ids)
    with pytest.raises(MissingBlockError):
        label_set.quality_table([20])
    chunk = tmp_path / "s.zarr/labels/teacher/quality/c.2.0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedChunkError):
        label_set.quality_table()


def test_show_draws_the_images_and_takes_every_kind_of_ids(store):
    one = store.show(3)
    assert np.array_equal(np.asarray(store.show([3])), np.asarray(one))
    mask = np.zeros(100, bool)
    mask[:5] = True
    assert np.array_equal(np.asarray(store.show(mask, columns=5)), np.asarray(store.show(slice(0, 5), columns=5)))
    for ids, told in (([], "no images"), (range(99_999), "too many"), ([100], "there is no image 100")):
        with pytest.raises(UsageError, match=told):
            store.show(ids)
    with pytest.raises(UsageError, match="no label set 'x'; it has teacher"):
        store.show([1], labels="x")


@pytest.mark.parametrize("codec", ["float16", "klt:0.5", "topk:3"])
def test_the_xarray_tree_is_the_store(tmp_path, codec):
    pytest.importorskip("xarray")
    store = filled_store(tmp_path / "s.zarr")
    rng = np.random.default_rng(0)
    facts = {"teacher": {"architecture": "k"}, "source": "k", "view_set": "views", "num_classes": 10}
    store.add_label_set("k", codec=parse_codec(codec), **facts)
    if not store.labels["k"].fitted:
        store.fit_label_set("k", parse_codec(codec).fit(10, sample=rng.normal(size=(200, 10)).astype(np.float32)))
    for block in range(7):
        count = len(store.block_ids(block))
        logits = rng.normal(size=(count, 2, 10)).astype(np.float32)
        store.write_block(block, labels={"k": (logits, np.ones((count, 3), np.float32))})
    tree = open_store(store.path).to_xarray()
    assert tree["images"].dims == ("image", "y", "x", "channel") and tree.attrs["identity"] == store.identity
    images = store.images[:]
    for key in (3, slice(5, 40, 7), [9, 9, 2], np.arange(100) % 3 == 0):
        np.testing.assert_array_equal(tree["images"][key], images[key])
        np.testing.assert_array_equal(tree["class_ids"][key], store.class_ids[:][key])
    np.testing.assert_array_equal(tree["images"][[4, 50], 2, 1:7:2, [2, 0]], images[[4, 50]][:, 2, 1:7:2][:, :, [2, 0]])
    np.testing.assert_array_equal(tree["images"][-1, ::-1], images[-1, ::-1])
    np.testing.assert_array_equal(tree["images"].sel(channel="green")[7], images[7, :, :, 1])
    views = tree["views/views/views"]
    assert views.dims == ("image", "view", "component") and views.sel(component="height").values.min() == 1
    logits = tree["labels/k/logits"]
    assert logits.dims == ("image", "view", "class")
    np.testing.assert_array_equal(logits[[8, 1], 1], store.labels["k"].logits([8, 1], 1))
    quality = tree["labels/teacher/quality"].sel(opinion="entropy")
    np.testing.assert_array_equal(quality, store.labels["teacher"].quality[:][:, 2])


def test_the_xarray_tree_reads_only_what_is_asked_for_and_knows_what_is_missing(tmp_path, monkeypatch):
    pytest.importorskip("xarray")
    store = new_store(tmp_path / "s.zarr")
    store.write_block(1, **block_arrays(store, 1))
    read = []
    real = Chunks.decoded
    monkeypatch.setattr(Chunks, "decoded", lambda self, node, block: read.append(node) or real(self, node, block))
    tree = open_store(store.path).to_xarray()
    repr(tree), tree._repr_html_()
    assert not read
    np.testing.assert_array_equal(tree["images"][20], store.images[20])
    with pytest.raises(MissingBlockError):
        tree["images"][0].values  # noqa: B018
    chunk = tmp_path / "s.zarr/images/c.1.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedChunkError):
        open_store(store.path).to_xarray()["images"][20].values  # noqa: B018


def test_without_xarray_one_sentence_says_what_to_install(store, without):
    without("xarray")
    with pytest.raises(UsageError, match=r"pip install 'dmkd\[notebook\]'"):
        store.to_xarray()


def test_reading_a_store_imports_none_of_what_looking_needs(store):
    code = (
        f"import sys, dmkd; s = dmkd.open_store({store.path!r}); s.images[3]; s.labels['teacher'].softmax(3); "
        "print({'torch', 'PIL', 'pandas', 'xarray'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
