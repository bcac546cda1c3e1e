"""Which images there are to learn from: one answer for whoever asks."""

import numpy as np
import pytest
from conftest import block_arrays, new_store

from dmkd.loading import Loader
from dmkd.loading.usable import usable_images
from dmkd.stores import MissingBlockError, UsageError


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Blocks 0, 2, 3 and 5 of seven are made, of these 0, 2 and 5 are labelled."""
    store = new_store(tmp_path_factory.mktemp("usable") / "half.zarr")
    for block in (0, 2, 3, 5):
        arrays = block_arrays(store, block)
        store.write_block(block, **(arrays if block != 3 else {k: v for k, v in arrays.items() if k != "labels"}))
    return store


@pytest.mark.parametrize("select", [None, "entropy < 0.5", "image_id >= 40 and not agree"])
def test_the_images_are_those_that_the_loader_reads(half, select):
    usable = usable_images(half, ["teacher"], select=select)
    loader = Loader(half, labels={"teacher": 1.0}, batch_size=7, select=select)
    assert usable.ids.tolist() == sorted(np.concatenate([batch.ids for batch in loader.epoch(0)]).tolist())
    assert 0 < len(usable.ids) == loader.num_images and usable.blocks.tolist() == [0, 2, 5]


def test_without_labels_the_blocks_need_none(half):
    usable = usable_images(half, view_set="views")
    assert usable.blocks.tolist() == [0, 2, 3, 5] and len(usable.ids) == 64 and not usable.label_sets


def test_what_leaves_no_image_is_refused(half, tmp_path):
    with pytest.raises(UsageError, match="leaves none of the 48 images"):
        usable_images(half, ["teacher"], select="entropy < -1")
    with pytest.raises(UsageError, match="needs a teacher's opinion"):
        usable_images(half, view_set="views", select="entropy < 1")
    with pytest.raises(MissingBlockError, match="no finished block"):
        usable_images(new_store(tmp_path / "empty.zarr"), ["teacher"])
