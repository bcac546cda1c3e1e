"""Stores whose images are smaller than the generator makes them."""

import numpy as np
import pytest
from conftest import tree_bytes
from PIL import Image

from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.making.asked import check_images
from dmkd.making.recipe_file import recipe_of
from dmkd.plan import CostOptions, plan
from dmkd.runtime.progress import Silent
from dmkd.stores import MismatchError, UsageError, open_store
from dmkd.verify import verify

HERE = RunOptions(workers=0, device="cpu")


def options(generator, **more):
    return ImageOptions(
        **{"generator": str(generator), "images": 20, "steps": 2, "sampler": "ddim", "block_size": 8, **more}
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_generator):
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    return generate(str(path), options(tiny_generator), LabelOptions(("none",)), HERE, Silent())[0]


@pytest.mark.parametrize("size", [16, 13])
def test_images_are_stored_as_pillow_makes_them_smaller_and_teachers_see_these(
    tmp_path, tiny_generator, tiny_teacher, whole, size
):
    labels = LabelOptions((str(tiny_teacher),), views="rrc:2")
    store, _ = generate(str(tmp_path / "s.zarr"), options(tiny_generator, size=size), labels, HERE, Silent())
    assert store.image_shape == (size, size, 3) and (store.recipe["size"], store.recipe["image_size"]) == (size, 32)
    assert store.identity != whole.identity
    for i in range(20):
        smaller = Image.fromarray(whole.images[i]).resize((size, size), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(store.images[i], np.asarray(smaller))
    report = verify(store.path, rerun_teacher=1.0, regenerate=1.0, device="cpu", display=Silent())
    assert report.sound and report.complete and not report.findings
    label(store.path, LabelOptions((str(tiny_teacher),), name="again"), HERE, Silent())
    first, again = (store_labels.logits(np.arange(20)) for store_labels in open_store(store.path).labels.values())
    np.testing.assert_array_equal(first, again)


def test_it_is_resumed_grown_planned_and_taken_as_a_model(tmp_path, tiny_generator):
    path = tmp_path / "s.zarr"
    none = LabelOptions(("none",))
    whole, _ = generate(str(tmp_path / "w.zarr"), options(tiny_generator, size=16), none, HERE, Silent())
    generate(str(path), options(tiny_generator, size=16, images=12), none, HERE, Silent())
    (path / "images/c.0.0.0.0").unlink()
    generate(str(path), ImageOptions(images=20), none, HERE, Silent())
    assert tree_bytes(path) == tree_bytes(tmp_path / "w.zarr")
    assert recipe_of(whole)["size"] == 16
    planned = plan(str(tmp_path / "n.zarr"), options(tiny_generator, size=16), none, CostOptions(), "cpu")
    assert planned["image_size"] == 16 and planned["recipe"]["size"] == 16
    assert planned["arrays"]["images"]["bytes"] == 3 * (8 * 16 * 16 * 3 + 4)
    with pytest.raises(MismatchError, match="size: the store has 16, you asked for 8"):
        generate(str(path), ImageOptions(size=8), none, HERE, Silent())
    with pytest.raises(MismatchError, match="size: the store has 16, you asked for 32"):
        generate(str(path), ImageOptions(size=32), none, HERE, Silent())


def test_the_generators_own_size_is_none_of_its_own(tmp_path, tiny_generator, whole):
    none = LabelOptions(("none",))
    store, _ = generate(str(tmp_path / "s.zarr"), options(tiny_generator, size=32), none, HERE, Silent())
    assert store.identity == whole.identity and "size" not in store.recipe
    generate(store.path, options(tiny_generator, size=32), none, HERE, Silent())


def test_images_are_not_made_larger(tmp_path, tiny_generator):
    with pytest.raises(
        UsageError, match="--size 33: tiny makes images of 32 pixels, and they can only be made smaller"
    ):
        generate(str(tmp_path / "s.zarr"), options(tiny_generator, size=33), LabelOptions(("none",)), HERE, Silent())
    with pytest.raises(UsageError, match="--size must be at least 1, not 0"):
        check_images(ImageOptions(size=0))
    assert not (tmp_path / "s.zarr").exists()
