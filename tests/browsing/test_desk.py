"""What the page gets for its questions: pictures to the pixel, sentences for what is wrong, selections that training takes."""

import io
import json

import numpy as np
import pytest
from conftest import block_arrays, filled_store, new_store
from PIL import Image

import dmkd
from dmkd.browsing.desk import Desk
from dmkd.loading.usable import usable_images
from dmkd.stores import open_store
from dmkd.views.sheet import render_views


def desk_of(*paths):
    desk = Desk([str(path) for path in paths])
    for opened in desk._opened:
        opened.table.update()
    return desk


def ask(desk, question, **asked):
    answer = desk.answer(question, {name: str(value) for name, value in asked.items()})
    return json.loads(answer.body)


def picture(desk, question, **asked):
    answer = desk.answer(question, {name: str(value) for name, value in asked.items()})
    assert answer.status == 200, answer.body
    return np.asarray(Image.open(io.BytesIO(answer.body)).convert("RGB")), answer.media_type


@pytest.fixture
def store(tmp_path):
    return filled_store(tmp_path / "s.zarr")


def test_thumbnails_of_small_images_are_their_pixels_wherever_the_store_is(place):
    store = filled_store(place.path)
    sheet, kind = picture(desk_of(place.path), "thumbs", ids="99,0,17,50,51,52,53,54,1", size=32)
    assert kind == "image/png" and sheet.shape == (16, 64, 3)
    for place_, image in enumerate([99, 0, 17, 50, 51, 52, 53, 54, 1]):
        row, column = divmod(place_, 8)
        np.testing.assert_array_equal(sheet[8 * row : 8 * row + 8, 8 * column : 8 * column + 8], store.images[image])


def test_large_images_are_reduced_and_compressed(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=20, image_shape=(96, 192, 3))
    sheet, kind = picture(desk_of(store.path), "thumbs", ids="0,1", size=128)
    assert kind == "image/jpeg" and sheet.shape == (64, 8 * 128, 3)


def test_a_damaged_or_missing_image_is_red_and_the_others_are_there(tmp_path):
    store = filled_store(tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / "images" / "c.1.0.0.0"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    sheet, _ = picture(desk_of(store.path), "thumbs", ids="0,16,5000", size=32)
    np.testing.assert_array_equal(sheet[:, :8], store.images[0])
    assert (sheet[:, 8:24] == (179, 38, 30)).all()
    assert "damaged" in ask(desk_of(store.path), "pixels", id=16)["error"]


def test_views_are_what_the_teacher_saw(store):
    seen, _ = picture(desk_of(store.path), "views", id=7, view_set="views")
    np.testing.assert_array_equal(seen.reshape(2, 8, 8, 3), render_views(store, 7, store.views["views"]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_top_five_of_each_view_are_the_softmax_at_the_temperature(store, temperature):
    facts = ask(desk_of(store.path), "image", id=7, temperature=temperature)
    (labels,) = facts["label_sets"]
    probabilities = store.labels["teacher"].softmax(7, temperature=temperature)
    for top, row in zip(labels["top"], probabilities, strict=True):
        assert [one for one, _ in top] == np.argsort(-row)[:5].tolist()
        np.testing.assert_allclose([p for _, p in top], np.sort(row)[::-1][:5], atol=1e-5)
    assert facts["class_id"] == store.class_ids[7] and len(facts["view_sets"][0]["views"]) == 2


def test_images_without_labels_or_views_are_shown_all_the_same(tmp_path):
    store = new_store(tmp_path / "s.zarr")
    arrays = block_arrays(store, 0)
    store.write_block(0, images=arrays["images"], class_ids=arrays["class_ids"])
    desk = desk_of(store.path)
    facts = ask(desk, "image", id=3)
    assert facts["view_sets"] == facts["label_sets"] == []
    rows = ask(desk, "rows", count=5, judge="teacher")
    assert rows["ids"] == [0, 1, 2, 3, 4] and rows["opinion"] == [[None] * 3] * 5


def test_rows_are_pages_of_the_order(store):
    desk = desk_of(store.path)
    whole = ask(desk, "rows", judge="teacher", sort="p_class", down=1, count=100)
    parts = []
    for start in range(0, 100, 30):
        parts += ask(desk, "rows", judge="teacher", sort="p_class", down=1, start=start, count=30)["ids"]
    assert parts == whole["ids"] and len(set(parts)) == 100
    shown = [opinion[1] for opinion in whole["opinion"]]
    assert shown == sorted(shown, reverse=True)


@pytest.mark.parametrize(
    ("question", "asked", "status", "sentence"),
    [
        ("nonsense", {}, 404, "which there is not"),
        ("image", {"id": "-1"}, 400, "whole number"),
        ("image", {"id": "100"}, 400, "no image 100"),
        ("image", {"id": "0", "temperature": "0"}, 400, "above 0"),
        ("image", {"id": "0", "temperature": "hot"}, 400, "must be a number"),
        ("image", {"store": "7", "id": "0"}, 400, "no store 7"),
        ("views", {"id": "0", "view_set": "../images"}, 400, "no view set"),
        ("thumbs", {"ids": "0", "size": "4000"}, 400, "Pictures have"),
        ("thumbs", {"ids": "0,a", "size": "32"}, 400, "not the numbers"),
        ("rows", {"start": "9" * 30}, 400, "whole number"),
        ("confusion", {}, 400, "no labels"),
        ("pairs", {"judge": "teacher"}, 400, "two teachers"),
    ],
)
def test_what_can_not_be_asked_is_answered_in_a_sentence(store, question, asked, status, sentence):
    answer = desk_of(store.path).answer(question, asked)
    assert answer.status == status and sentence in json.loads(answer.body)["error"]


def test_a_bad_rule_is_an_answer(store):
    answer = desk_of(store.path).answer("query", {"rule": "entropi < 1", "judge": "teacher"})
    assert answer.status == 200 and "no such column" in json.loads(answer.body)["error"]


def test_a_saved_rule_is_what_training_selects(store):
    desk = desk_of(store.path)
    saved = ask(desk, "save", name="sure", rule="entropy < 0.5 and agree", judge="teacher")
    assert (saved["select"], saved["labels"]) == ("@sure", "teacher")
    used = usable_images(open_store(store.path), ["teacher"], select="@sure").ids
    assert len(used) == saved["images"] == ask(desk, "query", rule="@sure", judge="teacher")["count"]
    again = ask(desk, "save", name="surer", rule="@sure and p_class > 0.1", judge="teacher")
    assert (
        open_store(store.path).selections["surer"] == "(entropy < 0.5 and agree) and p_class > 0.1" and again["images"]
    )


def test_picked_images_become_a_column_that_training_selects(store):
    desk = desk_of(store.path)
    saved = ask(desk, "save", name="nice", ids="3,70,5")
    assert saved == {"select": "@nice", "labels": None, "images": 3}
    loader = dmkd.loader(store.path, labels="teacher", select="@nice", batch_size=2)
    assert sorted(int(image) for batch in loader for image in batch.ids) == [3, 5, 70]
    assert "other numbers" in ask(desk, "save", name="nice", ids="4")["error"]
    assert sorted(open_store(store.path).columns["nice"][:].nonzero()[0]) == [3, 5, 70]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"name": "all"}, "every image"),
        ({"name": "none", "rule": "class_id > 50"}, "leaves none"),
        ({"name": "../up", "rule": "class_id > 1"}, "not a valid selection name"),
        ({"name": "", "rule": "class_id > 1"}, "not a valid selection name"),
        ({"name": "p_class", "ids": "1"}, "can't be called"),
        ({"name": "a-b", "ids": "1"}, "no plain word"),
    ],
)
def test_what_can_not_be_saved_leaves_the_store_as_it_was(store, asked, sentence):
    assert sentence in ask(desk_of(store.path), "save", **asked)["error"]
    after = open_store(store.path)
    assert (after.selections, after.columns) == ({}, {})
