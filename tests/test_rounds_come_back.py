"""What a round made comes back to the bit, however often: after damage, in copies, and in a store that went on meanwhile."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_teacher, tree_bytes

from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.recipes.rounds import RoundOptions
from dmkd.runtime.progress import Silent
from dmkd.stores import open_store
from dmkd.stores.convert import convert
from dmkd.stores.pack_copy import pack_copy
from dmkd.stores.tags import read_tag, verify_tag, write_tag
from dmkd.stores.verifying.finding import ERROR
from dmkd.verify import verify

HERE = RunOptions(workers=0, device="cpu")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """That tells no names of its classes, as timm's folders need not."""
    folder = make_teacher(tmp_path_factory.mktemp("student") / "first", seed=7)
    config = json.loads((folder / "config.json").read_text())
    del config["label_names"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_generator, tiny_teacher, student):
    """Blocks of 16; 20 images by the recipe, 20 that follow a student, 8 that follow none."""
    path = tmp_path_factory.mktemp("finished") / "s.zarr"
    options = ImageOptions(generator=str(tiny_generator), images=20, sampler="ddim", steps=2, block_size=16)
    generate(str(path), options, LabelOptions((str(tiny_teacher),), "rrc:2"), HERE, Silent())
    go_on(path, 40, follow=str(student), candidates=3, candidate_steps=1, class_shares=0.5)
    go_on(path, 48)
    return path


@pytest.fixture
def path(finished, tmp_path):
    """A copy that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "s.zarr"))


def go_on(path, images=None, **options):
    """Add a round up to so many images; without a number, make what is missing."""
    wanted = None if images is None else RoundOptions(**options)
    return generate(str(path), ImageOptions(images=images), LabelOptions(), HERE, Silent(), round_options=wanted)[0]


def errors(report):
    return [finding for finding in report.findings if finding.severity == ERROR]


def test_a_block_that_mixes_rounds_is_repaired_and_comes_back_the_same(path):
    before = tree_bytes(path)
    store = open_store(str(path))
    assert store.columns["round"][16:32].tolist() == [0] * 4 + [1] * 12
    score = path / "columns/score/c.1.0"
    score.write_bytes(score.read_bytes()[:-1] + b"x")
    (path / "columns/round/c.2.0").unlink()
    assert {finding.where for finding in errors(verify(str(path), display=Silent()))} == {
        "columns/score, block 1",
        "columns/round, block 2",
    }
    report = verify(str(path), display=Silent(), mend=True)
    assert report.repair.images and open_store(str(path)).missing_blocks() == [1, 2]
    go_on(path)
    assert tree_bytes(path) == before


def test_every_round_can_be_made_again(path):
    report = verify(str(path), display=Silent(), regenerate=1.0)
    assert errors(report) == [] and report.regenerate["share_differing"] == 0


def test_copies_of_every_kind_go_on_like_the_store(path, tmp_path, student):
    store = open_store(str(path))
    copies = [convert(store, str(tmp_path / "c.h5")), pack_copy(store, str(tmp_path / "p.zarr"))]
    options = {"follow": str(student), "score": "entropy", "strength": 0.1}
    made = go_on(path, 56, **options)
    assert len(made.rounds) == 3
    for copy in copies:
        same = go_on(copy.path, 56, **options)
        assert same.lineage == made.lineage and errors(verify(copy.path, display=Silent())) == []
        for mine, theirs in ((same.images, made.images), (same.columns["score"], made.columns["score"])):
            np.testing.assert_array_equal(mine[:], theirs[:])


def test_a_tag_holds_while_the_last_block_is_made_anew_in_a_further_round(path, student):
    write_tag(open_store(str(path)), "v1")
    store = go_on(path, 60, follow=str(student))
    tag = read_tag(store, "v1")
    assert not [finding for finding in verify_tag(store, tag) if finding.severity == ERROR]
    assert tag.manifest["rounds"].keys() == {"1", "2"}
