"""What training from a bucket moves, by numbers worked out by hand."""

import pytest

from dmkd.recipes.traffic import training_traffic
from dmkd.stores import UsageError

MB = 10**6
ARRAYS = {
    "images": {"bytes": 1000 * MB},  # 100 blocks of 10 MB
    "class_ids": {"bytes": 100_000},  # of 1 kB
    "checks": {"bytes": 200_000},
    "views/rrc": {"bytes": 400_000},
    "views/other": {"bytes": 10**12},
    "labels/t/logits": {"bytes": 60 * MB},  # of 600 kB
    "labels/t/checks": {"bytes": 200_000},
    "labels/t/quality": {"bytes": 10**12},
    "labels/u/logits": {"bytes": 10**12},
}


def traffic(arrays=ARRAYS, **options):
    options = {"num_blocks": 100, "image_bytes": 1000 * MB, "image_codec": "raw", "epochs": 10} | options
    return training_traffic(arrays, **{"label_set": "t", "view_set": "rrc"} | options)


def test_images_are_read_in_each_epoch_and_with_a_cache_once():
    found = traffic()
    beside = 60 * MB + 900_000
    assert found["bytes"] == {"without_cache": 10_000 * MB + beside, "with_cache": 1000 * MB + beside}
    assert found["requests"]["loose"] == {"without_cache": 1000 + 500, "with_cache": 100 + 500}
    # Of small chunks a mebibyte comes at once: four arrays by one request each, and 600 kB one by one.
    assert found["requests"]["packed"] == {"without_cache": 1000 + 100 + 4, "with_cache": 100 + 100 + 4}
    assert found["small"]["bytes"]["with_cache"] < found["bytes"]["with_cache"] / 3
    assert "dollars" not in found


def test_labels_that_do_not_fit_in_memory_are_read_in_each_epoch():
    found = traffic({**ARRAYS, "labels/t/logits": {"bytes": 5000 * MB}})
    assert found["bytes"]["without_cache"] == 10 * (1000 * MB + 5000 * MB + 900_000)


def test_a_price_is_of_what_leaves_the_bucket():
    found = traffic(dollars_per_gb=0.5)
    assert found["dollars"]["with_cache"] == pytest.approx(0.5 * found["bytes"]["with_cache"] / 1e9)
    assert found["small"]["dollars"]["without_cache"] < found["dollars"]["without_cache"]
    for price in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--dollars-per-gb"):
            traffic(dollars_per_gb=price)


def test_images_that_are_small_already_can_not_be_made_smaller():
    assert "small" not in traffic(image_codec="jpeg:90")
    assert "small" not in traffic({**ARRAYS, "images": {"bytes": 10}})


def test_without_labels_only_images_are_read():
    found = traffic(label_set=None, view_set=None)
    assert found["bytes"]["with_cache"] == 1000 * MB + 300_000
