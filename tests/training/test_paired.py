"""Paired differences and their intervals, with numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmkd.training.paired import Difference, paired_difference, quantile


def test_with_one_draw_each_seed_is_an_observation():
    """Differences 1, 2 and 3 points: mean 2, deviation 1, t of two degrees 4.3027: 2 ± 4.3027 / √3."""
    these, baseline = {(0, 0): 0.51, (0, 1): 0.62, (0, 2): 0.73}, {(0, 0): 0.50, (0, 1): 0.60, (0, 2): 0.70}
    found = paired_difference(these, baseline)
    assert found.observations == 3 and found.mean == pytest.approx(0.02)
    assert found.high - found.mean == pytest.approx(0.01 * 4.3027 / math.sqrt(3))
    assert not found.is_clear, "0.02 - 0.0248 is below zero"


def test_with_several_draws_a_draw_is_an_observation():
    """Many seeds of the same images do not make an interval narrow: the draws' means are 1 and 3 points."""
    baseline = {(draw, seed): 0.5 for draw in (0, 1) for seed in range(10)}
    these = {(draw, seed): 0.51 + 0.02 * draw for draw, seed in baseline}
    found = paired_difference(these, baseline)
    assert found.observations == 2 and found.mean == pytest.approx(0.02)
    assert found.low == pytest.approx(0.02 - 12.7062 * 0.01)


def test_what_is_shared_is_no_part_of_the_difference():
    """Draws that differ by 30 points, and a difference of about 2 points in each."""
    baseline = {(0, 0): 0.3, (1, 0): 0.6, (2, 0): 0.9}
    found = paired_difference({(0, 0): 0.319, (1, 0): 0.62, (2, 0): 0.921}, baseline)
    assert found.is_clear and found.mean == pytest.approx(0.02) and found.high - found.low < 0.006


def test_differences_that_are_alike_by_chance_claim_no_certainty():
    """Two draws of 360 images, each 11 images worse: no reason to think that a third would be, to the image."""
    found = paired_difference({(0, 0): 0.5 - 11 / 360, (1, 0): 0.6 - 11 / 360}, {(0, 0): 0.5, (1, 0): 0.6})
    assert (found.low, found.high, found.observations) == (None, None, 2) and not found.is_clear


def test_only_runs_that_both_have_are_compared():
    assert paired_difference({(0, 0): 0.7, (0, 1): 0.9}, {(0, 0): 0.5}) == Difference(pytest.approx(0.2), None, None, 1)
    assert paired_difference({(0, 1): 0.7}, {(0, 0): 0.5}) is None


@pytest.mark.parametrize(("degrees", "value"), [(1, 12.7062), (30, 2.0423), (31, 2.0395), (60, 2.0003), (1000, 1.9623)])
def test_quantiles_of_t_are_those_of_tables(degrees, value):
    assert quantile(degrees) == pytest.approx(value, abs=1e-4)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_an_interval_lies_around_its_mean_and_turns_with_it(values):
    these, zero = {(0, i): value for i, value in enumerate(values)}, {(0, i): 0.0 for i in range(len(values))}
    found, turned = paired_difference(these, zero), paired_difference(zero, these)
    assert turned.mean == pytest.approx(-found.mean) and (turned.low is None) == (found.low is None)
    if found.low is not None:
        assert found.low <= found.mean <= found.high and turned.low == pytest.approx(-found.high)
    assert found.is_clear == turned.is_clear
