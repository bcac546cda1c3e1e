"""Which generator is meant by a name."""

import shutil

from dmkd import digits
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.generators.defaults import DM_KD_DEFAULTS
from dmkd.generators.sources import parse_source, source_defaults
from dmkd.runtime.progress import Silent

HERE = RunOptions(workers=0, device="cpu")


def test_a_source_is_the_bundled_one_a_folder_or_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "pipe").mkdir()
    monkeypatch.chdir(tmp_path)
    bundled, folder, hub = parse_source("digits"), parse_source("pipe"), parse_source("someone/DiT@main")
    assert (bundled.text, bundled.weights, bundled.name) == ("digits", str(digits.PIPELINE), "digits")
    assert (folder.text, folder.weights, folder.name) == (str(tmp_path / "pipe"), str(tmp_path / "pipe"), None)
    assert (hub.text, hub.weights, hub.name) == ("someone/DiT@main", "someone/DiT@main", None)
    assert bundled.defaults["teacher"] == "digits-resnet" and folder.defaults == hub.defaults == DM_KD_DEFAULTS
    assert parse_source(bundled.text) == bundled and parse_source(folder.text) == folder, "as a store records it"
    assert source_defaults(None) == DM_KD_DEFAULTS and source_defaults("digits") == bundled.defaults


def test_a_folder_that_is_called_digits_is_not_the_bundled_generator(tiny_generator, tmp_path):
    shutil.copytree(tiny_generator, tmp_path / "digits")
    options = ImageOptions(str(tmp_path / "digits"), 16, block_size=8, steps=2, sampler="ddim")
    store, _ = generate(str(tmp_path / "s.zarr"), options, LabelOptions(("none",)), HERE, Silent())
    assert store.source == str(tmp_path / "digits")
    pixels = store.images[:]
    (tmp_path / "s.zarr/images/c.1.0.0.0").unlink()
    store, _ = generate(store.path, ImageOptions(), LabelOptions(), HERE, Silent())
    assert (store.images[:] == pixels).all()
