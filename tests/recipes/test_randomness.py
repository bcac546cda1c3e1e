import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmkd.recipes.randomness import class_order, image_seeds, key64, mix64, uniforms


def test_torch_reads_32_bits_of_a_seed_only():
    # Why image seeds are a bijection on 32 bits. If this ever fails, they may become 64-bit hashes.
    a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1 + 2**32)
    assert torch.equal(torch.randn(4, generator=a), torch.randn(4, generator=b))


@pytest.mark.parametrize("seed", [0, 1, 2**70])
def test_no_two_images_share_a_seed(seed):
    seeds = image_seeds(seed, np.arange(1_280_000))
    assert len(np.unique(seeds)) == len(seeds) and seeds.min() >= 0 and seeds.max() < 2**32


def test_seeds_depend_on_the_recipe_and_on_the_id_alone():
    assert (image_seeds(0, np.arange(100)) != image_seeds(1, np.arange(100))).all()
    np.testing.assert_array_equal(image_seeds(0, np.array([70, 3])), image_seeds(0, np.arange(100))[[70, 3]])


def test_the_numbers_are_the_same_for_ever():
    # Stores made by any version must be reproducible by every later one.
    assert image_seeds(0, np.arange(3)).tolist() == [1076515890, 929725613, 1626680224]
    assert class_order(0, np.arange(10), np.arange(10)).tolist() == [5, 8, 9, 6, 3, 4, 1, 0, 2, 7]
    assert int(mix64(np.array([0], np.uint64))[0]) == 0xE220A8397B1DCDAF  # SplitMix64's first output from state 0


@given(seed=st.integers(0, 2**40), count=st.integers(1, 50), start=st.integers(0, 1000))
def test_every_run_of_c_ids_holds_every_class_once(seed, count, start):
    classes = np.arange(count) * 3
    run = class_order(seed, np.arange(start * count, (start + 1) * count), classes)
    assert sorted(run.tolist()) == classes.tolist()


def test_the_order_of_classes_does_not_depend_on_who_asks():
    everything = class_order(7, np.arange(1000), np.arange(13))
    ids = np.array([999, 0, 5, 5, 500])
    np.testing.assert_array_equal(class_order(7, ids, np.arange(13)), everything[ids])
    assert (class_order(8, np.arange(1000), np.arange(13)) != everything).any()


def test_uniforms_are_uniform_and_independent_of_shape():
    key = key64(3, "test")
    draws = uniforms(key, np.arange(100_000))
    assert draws.min() >= 0 and draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.005 and abs(draws.std() - 12**-0.5) < 0.005
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.02
    grid = uniforms(key, np.arange(10)[:, None], np.arange(7))
    assert grid[3, 4] == uniforms(key, np.array([3]), np.array([4]))[0]
    assert uniforms(key64(3, "other"), np.arange(10)).tolist() != draws[:10].tolist()
