"""What a codec is fitted on: a few views each of many images, the same ones every time."""

import numpy as np
import pytest

from dmkd.classifiers.load import load_classifier
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.making import fitting
from dmkd.making.fitting import blocks_to_fit_on, sample_logits, views_to_fit_on
from dmkd.runtime.progress import Silent

HERE = RunOptions(workers=0, device="cpu")


@pytest.mark.parametrize(("num_views", "images", "count"), [(51, 1000, 4), (51, 100, 21), (51, 10, 51), (3, 1000, 3)])
def test_few_views_of_many_images_or_more_of_fewer(num_views, images, count):
    seen = np.concatenate([views_to_fit_on(num_views, images, block) for block in range(num_views)])
    assert len(views_to_fit_on(num_views, images, 5)) == count
    assert np.bincount(seen, minlength=num_views).tolist() == [count] * num_views, "every view takes its turn"


def test_the_images_that_must_be_there_first_hold_enough_views():
    assert blocks_to_fit_on(51, 64) == 8 and blocks_to_fit_on(9, 256) == 2 and blocks_to_fit_on(1, 64) == 32


def test_the_sample_is_of_many_images_and_of_their_stored_views(tiny_generator, tiny_teacher, tmp_path, monkeypatch):
    options = ImageOptions(generator=str(tiny_generator), images=64, sampler="ddim", steps=2, block_size=16)
    labels = LabelOptions((str(tiny_teacher),), "rrc:9+cutmix")
    store, _ = generate(str(tmp_path / "s.zarr"), options, labels, HERE, Silent())
    monkeypatch.setattr(fitting, "SAMPLE_VIEWS", 160)
    label_set = store.labels["tiny-resnet"]
    sample = sample_logits(store, label_set, load_classifier(str(tiny_teacher)), "cpu")
    # 64 images x 4 are more than 160: 16 images a block, three blocks, cut off in the third.
    which = [views_to_fit_on(10, 64, block) for block in range(3)]
    expected = [label_set.logits(np.arange(16 * block, 16 * block + 16))[:, views] for block, views in enumerate(which)]
    np.testing.assert_allclose(sample, np.concatenate(expected).reshape(-1, 10)[:160], atol=5e-3)
