"""``dmkd columns`` and ``dmkd select``: from a file of scores to a student of the images that they choose."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import filled_store

from dmkd.cli.main import main
from dmkd.loading.usable import usable_images
from dmkd.stores import open_store
from dmkd.stores.showing.picks import pick_by_column
from dmkd.training.training_recipe import resolve_training

SCORES = np.arange(100) / 100


def dmkd(*words):
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, [str(word) for word in words])


@pytest.fixture
def store(tmp_path):
    made = filled_store(tmp_path / "s.zarr")
    np.save(tmp_path / "scores.npy", SCORES)
    return made.path


def test_scores_from_a_file_are_kept_listed_and_removed(store, tmp_path):
    added = dmkd("columns", "--store", store, "--add", f"clip={tmp_path}/scores.npy", "--description", "how alike")
    assert added.exit_code == 0 and "how alike" in added.output, added.output
    np.savetxt(tmp_path / "scores.txt", SCORES * 2)
    assert dmkd("columns", "--store", store, "--add", f"twice={tmp_path}/scores.txt").exit_code == 0
    found = json.loads(dmkd("columns", "--store", store, "--json").stdout)
    assert found["clip"]["largest"] == 0.99 and found["twice"]["largest"] == pytest.approx(1.98)
    assert "clip" in dmkd("inspect", store).output
    assert dmkd("columns", "--store", store, "--remove", "twice").exit_code == 0
    assert list(open_store(store).columns) == ["clip"]


def test_a_selection_is_tried_saved_and_used_under_its_name(store, tmp_path):
    dmkd("columns", "--store", store, "--add", f"clip={tmp_path}/scores.npy")
    tried = json.loads(dmkd("select", "rank(clip) <= 2", "--store", store, "--save", "best", "--json").stdout)
    counts = np.bincount(open_store(store).class_ids[:], minlength=10)
    assert tried["images"] == np.minimum(counts, 2).sum() and tried["of_each_class"] == np.minimum(counts, 2).tolist()
    again = json.loads(dmkd("select", "@best and clip >= 0.5", "--store", store, "--save", "half", "--json").stdout)
    opened = open_store(store)
    assert opened.selections == {"best": "rank(clip) <= 2", "half": "(rank(clip) <= 2) and clip >= 0.5"}
    ids = usable_images(opened, ["teacher"], select="@half").ids
    assert len(ids) == again["images"] and (SCORES[ids] >= 0.5).all()
    _, recipe = resolve_training(opened, {"labels": "teacher", "select": "@best", "student": "test_resnet"})
    assert recipe.select == "(rank(clip) <= 2)", "a recipe says what was meant, whatever is saved later"
    done = dmkd("export", store, "--select", "@best", "--format", "imagefolder", "--to", tmp_path / "best")
    assert done.exit_code == 0 and len(list((tmp_path / "best").rglob("*.png"))) == tried["images"], done.output


def test_images_are_shown_from_the_smallest_number_to_the_largest(store, tmp_path):
    dmkd("columns", "--store", store, "--add", f"clip={tmp_path}/scores.npy")
    ids, among = pick_by_column(open_store(store), open_store(store).columns["clip"], 5)
    assert among == 100 and ids[0] == 0 and ids[-1] == 99 and (np.diff(SCORES[ids]) > 0).all()
    done = dmkd("view", store, "--by", "clip", "--count", 5, "--out", tmp_path / "sheet.png")
    assert done.exit_code == 0 and (tmp_path / "sheet.png").exists(), done.output
    done = dmkd("view", store, "--by", "clips")
    assert done.exit_code == 2 and "--by clips: choose class, round, entropy, agreed, disagreed, clip." in done.output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["columns", "--add", "clip"], 2, "--add 'clip': write NAME=FILE"),
        (["columns", "--add", "clip=nowhere.npy"], 2, "nowhere.npy can't be read"),
        (["columns", "--add", "clip={folder}/words.txt"], 2, "holds something other than a number for each image"),
        (["columns", "--add", "clip={folder}/short.npy"], 2, "a number for each of its 100 images"),
        (["columns", "--add", "a={folder}/scores.npy", "--remove", "b"], 2, "two things to do"),
        (["columns", "--remove", "clip"], 2, "has no column 'clip'; it has none"),
        (["columns", "--replace"], 2, "give --add NAME=FILE too"),
        (["select", "clip > 0"], 2, "there is no such column"),
        (["select", "@best"], 2, "names @best, and the store has saved none"),
        (["select", "class_id > 99"], 2, "leaves none of the 100 images"),
        (["select", "agree", "--labels", "other"], 2, "has no label set 'other'; it has teacher"),
        (["select", "agree", "--save", "a b"], 2, "not a valid selection name"),
    ],
)
def test_bad_input_is_one_sentence(store, tmp_path, words, code, said):
    np.save(tmp_path / "short.npy", SCORES[:5])
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    done = dmkd(*(word.format(folder=tmp_path) for word in words), "--store", store)
    assert done.exit_code == code and said in done.output and "Traceback" not in done.output, done.output
