"""A store made by an earlier dmkd is opened, verified, resumed and labelled, now and once recipes have a field more.

``data/store-of-format-1.zip`` was made on a CPU by ``dmkd generate --generator digits --images 20 --block-size 8 --teacher
digits-resnet --views rrc:2`` when a recipe had 19 fields.
"""

import dataclasses
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dmkd.cli.main import main
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.making.recipe_file import recipe_of
from dmkd.making.rerun import PIXEL_TOLERANCE
from dmkd.plan import CostOptions, plan
from dmkd.recipes.recipe import Recipe
from dmkd.runtime.progress import Silent
from dmkd.stores import MismatchError, UsageError, open_store
from dmkd.verify import verify
from dmkd.views.policy import ViewPolicy

HERE = RunOptions(workers=0, device="cpu")
LOST = 1  # the block that the interruption left out


@dataclasses.dataclass(frozen=True)
class LaterRecipe(Recipe):
    """A recipe of the future."""

    eta: float = 0.0


@dataclasses.dataclass(frozen=True)
class LaterPolicy(ViewPolicy):
    """A view policy of the future."""

    zoom: float = 1.0


@pytest.fixture(params=["today", "later"])
def fields(request, monkeypatch):
    """Today's code, and code whose recipes and view policies have one field more."""
    if request.param == "later":
        for name, module in list(sys.modules.items()):
            for now, later in ((Recipe, LaterRecipe), (ViewPolicy, LaterPolicy)):
                if name.startswith("dmkd.") and getattr(module, now.__name__, None) is now:
                    monkeypatch.setattr(module, now.__name__, later)
    return request.param


@pytest.fixture(scope="module", params=["as written", "without image_codec"])
def whole(request, tmp_path_factory):
    """The store when it was finished: as it was written, and with a recipe from before pixels could be compressed."""
    folder = tmp_path_factory.mktemp("whole")
    if request.param == "as written":
        with zipfile.ZipFile(Path(__file__).parent.parent / "data/store-of-format-1.zip") as archive:
            archive.extractall(folder)
        return folder / "store-of-format-1.zarr"
    written = Recipe.to_json
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "to_json", lambda self: {k: v for k, v in written(self).items() if k != "image_codec"})
        options = ImageOptions(generator="digits", images=20, block_size=8)
        store, _ = generate(str(folder / "s.zarr"), options, LabelOptions(views="rrc:2"), HERE, Silent())
    assert "image_codec" not in store.recipe
    return folder / "s.zarr"


@pytest.fixture
def path(whole, tmp_path):
    """The store as an interruption left it."""
    path = tmp_path / "s.zarr"
    shutil.copytree(whole, path)
    labels = [f"labels/digits-resnet/{array}" for array in ("checks", "logits", "quality")]
    for node in ("images", "class_ids", "checks", "views/rrc2", *labels):
        for chunk in (path / node).glob(f"c.{LOST}*"):
            chunk.unlink()
    return path


@pytest.fixture
def original(whole):
    """Block 1 as it was made."""
    store = open_store(whole)
    ids = np.array(store.block_ids(LOST))
    return store.images[ids], store.class_ids[ids], store.views["rrc2"][ids], store.labels["digits-resnet"].logits(ids)


def test_the_missing_block_comes_back_and_a_second_teacher_labels_it(original, path, fields):
    before = open_store(path)
    recipe, identity = before.recipe, before.identity
    assert before.missing_blocks() == [LOST] and verify(str(path), display=Silent()).sound

    store, label_sets = generate(str(path), ImageOptions(), LabelOptions(), HERE, Silent())
    assert store.missing_blocks() == [] and label_sets == ["digits-resnet"]
    ids = np.array(store.block_ids(LOST))
    images, class_ids, views, logits = original
    # Equal to the bit where the store was made; other machines round otherwise.
    assert np.abs(store.images[ids].astype(int) - images).max() <= PIXEL_TOLERANCE
    assert np.array_equal(store.class_ids[ids], class_ids) and np.array_equal(store.views["rrc2"][ids], views)
    assert np.abs(store.labels["digits-resnet"].logits(ids) - logits).max() < 0.5

    label(str(path), LabelOptions(("digits-vit",), views="rrc:2"), HERE, Silent())
    store = open_store(path)
    assert set(store.labels) == {"digits-resnet", "digits-vit"}
    assert all(not label_set.missing_blocks() for label_set in store.labels.values())
    assert (store.recipe, store.identity) == (recipe, identity), "what was written stays as it was written"
    report = verify(str(path), regenerate=1.0, device="cpu", display=Silent())
    assert report.sound and report.regenerate["max_difference"] <= PIXEL_TOLERANCE


def test_it_is_planned_for_and_taken_as_a_model(path, fields, tmp_path):
    planned = plan(str(path), ImageOptions(), LabelOptions(), CostOptions(), "cpu")
    assert planned["exists"] and planned["left"]["images"] == 8
    options = recipe_of(open_store(path))
    assert options["image-codec"] == "raw" and options["sampler"] == "ddim" and options["teacher"] == ["digits-resnet"]
    again = [str(a) for a in ("plan", "--store", tmp_path / "n.zarr", "--like", path, "--device", "cpu", "--json")]
    done = CliRunner().invoke(main, again)
    assert done.exit_code == 0 and json.loads(done.stdout)["recipe"] == options, done.output


def test_options_are_compared_with_what_its_fields_stand_for(path, fields):
    generate(str(path), ImageOptions(image_codec="raw", steps=20), LabelOptions(views="rrc:2"), HERE, Silent())
    with pytest.raises(MismatchError, match=r"\(image_codec: the store has raw, you asked for webp\)"):
        generate(str(path), ImageOptions(image_codec="webp"), LabelOptions(), HERE, Silent())


def test_a_field_that_this_version_does_not_know_is_refused_still(path, fields):
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["recipe"]["churn"] = 0.5
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(
        UsageError, match="The store's recipe does not fit this version of dmkd; unknown or missing fields: churn[.]"
    ):
        generate(str(path), ImageOptions(), LabelOptions(), HERE, Silent())
