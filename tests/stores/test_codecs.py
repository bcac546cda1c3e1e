"""The contract of a label codec, run on every codec; what each one promises; and the traps of released systems."""

import json

import numpy as np
import pytest
import torch
from codec_contract import CodecContract, fitted, teacher, values_for
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.stores import NotAStoreError, UsageError, parse_codec
from dmkd.stores.codecs import CODECS, codec_from_json
from dmkd.stores.codecs.report import (
    compare,
    kl_divergence,
    log_softmax,
    logit_rmse,
    measure,
    stored_bytes,
    top1_agreement,
    total_variation,
)

ALL = ["float16", "uint8", "features", "klt:0.5", "topk:2"]
TEMPERATURES = (1, 4, 10, 20)


# The contract


class TestEveryCodec(CodecContract):
    @pytest.fixture(params=ALL)
    def name(self, request):
        return request.param


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("klt", "klt:0.5"), ("topk", "topk:50"), ("features", "features:8"), ("features:5", "features:5"), ("klt:1.0", "klt:1"),
        ("klt:1e-2", "klt:0.01"), ("klt:0.123456789", "klt:0.123456789"), ("topk:1000000", "topk:1000000"),
    ],
)  # fmt: skip
def test_a_codec_is_written_as_users_write_it(text, written):
    codec = parse_codec(text)
    assert str(codec) == written and parse_codec(written) == codec == codec_from_json(codec.to_json())


def test_every_codec_is_under_the_contract():
    assert {name.partition(":")[0] for name in ALL} == set(CODECS)


@pytest.mark.parametrize(
    ("name", "bad"), [("float16", 7e4), ("topk:2", -7e4), ("uint8", 2e38), ("klt:0.5", 1e6), ("klt:0.5", 3e38)]
)
def test_overflow_is_refused_and_never_clipped(name, bad):
    values = np.zeros((2, 3, 4), np.float32)
    values[1, 2, 3] = bad
    with pytest.raises(UsageError):
        fitted(name, 4).encode(values)


@pytest.mark.parametrize("name", ["float16", "uint8", "features", "klt:0.5", "topk:1"])
def test_one_class_is_no_special_case(name):
    coder = fitted(name, 1)
    values, logits = values_for(name, 3, 2, 1)
    decoded = coder.decode(coder.encode(values))
    assert total_variation(logits, decoded, 1).max() == 0


@pytest.mark.parametrize("name", ["float16", "uint8", "klt:0.5", "topk:5"])
@settings(max_examples=50, deadline=None)
@given(level=st.floats(-1000, 1000, width=16))
def test_rows_that_are_constant_stay_constant(name, level):
    coder = fitted(name, 10)
    decoded = coder.decode(coder.encode(np.full((2, 1, 10), level, np.float32)))
    assert total_variation(np.zeros_like(decoded), decoded, 1).max() < (0.15 if name.startswith("klt") else 1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zip", "no label codec 'zip'; known: float16, uint8, features, klt, topk"),
        ("float16:3", "takes no parameter"),
        ("klt:x", "klt takes a step in units of logits, as in klt:0.5, not 'x'"),
        ("klt:0", "must be a positive number"),
        ("klt:nan", "must be a positive number"),
        ("topk:", "takes a number of classes"),
        ("topk:0", "at least one class"),
        ("features:9", "2 to 8 bits"),
    ],
)
def test_what_users_mistype_is_told(text, message):
    with pytest.raises(UsageError, match=message):
        parse_codec(text)


def test_codecs_of_other_versions_are_named():
    with pytest.raises(NotAStoreError, match="codec 'future'"):
        codec_from_json({"name": "future"})
    with pytest.raises(NotAStoreError, match="not one that this version reads"):
        codec_from_json({"name": "topk", "k": 5, "packed": True})


# Dense codecs: float16, uint8, features

dense = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(size=(3, 2, 7)).astype(np.float32)
)


@settings(max_examples=50, deadline=None)
@given(values=dense, scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
def test_float16_is_within_half_a_unit_in_the_last_place(values, scale, shift):
    values = (values * scale + shift).astype(np.float32)
    coder = fitted("float16", 7)
    np.testing.assert_allclose(coder.decode(coder.encode(values)), values, rtol=2**-11, atol=2**-25)


@settings(max_examples=50, deadline=None)
@given(values=dense, scale=st.floats(1e-3, 1e6), shift=st.floats(-1e3, 1e3))
def test_uint8_is_within_half_a_step_of_each_view(values, scale, shift):
    values = (values * scale + shift).astype(np.float32)
    coder = fitted("uint8", 7)
    error = np.abs(coder.decode(coder.encode(values)) - values).max(-1)
    span = values.max(-1) - values.min(-1)
    assert (error <= span / 510 * 1.001 + np.abs(values).max() * 2e-7).all()


@pytest.mark.parametrize("num_features", [3, 10, 40])  # fewer than, as many as, more than the 10 classes
def test_features_give_the_logits_of_the_last_layer(num_features):
    codec = parse_codec("features")
    features, weight, logits = teacher(30, 10, num_features)
    bias = np.arange(10, dtype=np.float32)
    constants = codec.fit(10, weight=weight, bias=bias)
    assert set(constants) == set(codec.constants)
    coder = codec.bind(10, constants)
    encoded = coder.encode(features[:, None])
    assert np.abs(coder.decode_features(encoded)[:, 0] - features).max() <= features.max() / 500
    bound = np.abs(weight).sum(1).max() * features.max() / 500
    assert np.abs(coder.decode(encoded)[:, 0] - (logits + bias)).max() <= bound


def test_features_without_a_linear_layer_are_refused():
    for weight in (None, np.zeros((9, 4), np.float32), np.full((10, 4), np.nan, np.float32)):
        with pytest.raises(UsageError, match="last layer"):
            parse_codec("features").fit(10, weight=weight)
    with pytest.raises(UsageError, match="lacks its constants weight, bias"):
        parse_codec("features").bind(10, {})


LARGEST_TV = {  # at T = 1, 4, 10, 20; logits of standard deviation 2 over 1000 classes
    "float16": (1e-3, 3e-4, 1e-4, 1e-4),
    "uint8": (0.012, 0.004, 0.002, 0.001),
    "features": (0.006, 0.002, 0.001, 0.0005),
    "klt:0.5": (0.02, 0.006, 0.003, 0.002),
    "topk:50": (0.4, 0.2, 0.1, 0.06),
}


@pytest.mark.parametrize("name", list(LARGEST_TV))
def test_softmax_is_right_at_every_temperature(name):
    # Half-precision probabilities are off by a total variation of 0.07 at T=2; logits are not.
    coder = fitted(name, 1000)
    values, logits = values_for(name, 32, 2, 1000)
    encoded = coder.encode(values)
    for temperature, bound in zip(TEMPERATURES, LARGEST_TV[name], strict=True):
        distance = total_variation(logits, coder.decode(encoded, temperature), temperature)
        assert distance.mean() < bound, temperature


# klt


def rich_teacher(num_rows, num_classes=100, num_features=40, seed=3):
    rng = np.random.default_rng(seed)
    features = (rng.exponential(size=(num_rows, num_features)) * np.arange(1, num_features + 1) ** -0.5).astype(
        np.float32
    )
    weight = np.random.default_rng(7).normal(size=(num_classes, num_features)).astype(np.float32)
    return features @ weight.T, weight


@pytest.mark.parametrize("step", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("with_head", [True, False])
def test_klt_error_is_the_one_expected(step, with_head):
    codec = parse_codec(f"klt:{step}")
    sample, weight = rich_teacher(1000)
    coder = codec.bind(100, codec.fit(100, sample=sample, weight=weight if with_head else None))
    unseen = rich_teacher(500, seed=4)[0][:, None]
    measured = logit_rmse(unseen, coder.decode(coder.encode(unseen)))
    assert 0.85 < measured / coder.expected_rmse < 1.1
    assert measured <= step * np.sqrt(1 / 12) * 1.05


def test_klt_keeps_no_more_directions_than_there_are():
    sample, weight = rich_teacher(1000)
    for head in (None, weight):
        basis = parse_codec("klt:0.01").fit(100, sample=sample, weight=head)["basis"]
        assert basis.shape == (40, 100)
        np.testing.assert_allclose(basis @ basis.T, np.eye(40), atol=1e-5)
    assert len(parse_codec("klt:8").fit(100, sample=sample)["basis"]) < 40


def test_a_small_sample_without_the_head_is_seen_to_be_too_small():
    sample, weight = rich_teacher(20)
    blind, knowing = (
        parse_codec("klt:0.5").bind(100, parse_codec("klt:0.5").fit(100, sample=sample, weight=head))
        for head in (None, weight)
    )
    unseen = rich_teacher(500, seed=4)[0][:, None]
    errors = [logit_rmse(unseen, coder.decode(coder.encode(unseen))) for coder in (blind, knowing)]
    assert blind.captured < 0.9 and knowing.captured > 0.99
    assert blind.expected_rmse > 0.7 * errors[0]
    assert errors[1] < 0.1 < errors[0]


def test_klt_is_blind_to_the_mean_over_classes_only():
    coder = fitted("klt:0.5", 10)
    logits = values_for("klt:0.5", 4, 2, 10)[1]
    plain, shifted = coder.encode(logits), coder.encode(logits + np.float32(64))
    np.testing.assert_array_equal(plain["coefficients"], shifted["coefficients"])
    assert not np.array_equal(plain["coefficients"], coder.encode(logits * 2)["coefficients"])


@pytest.mark.parametrize("rows", [20, 300])
def test_fitting_twice_gives_the_same_constants(rows):
    sample, weight = rich_teacher(rows)
    for head in (None, weight):
        first, again = (parse_codec("klt:1").fit(100, sample=sample.copy(), weight=head) for _ in range(2))
        assert set(first) == set(parse_codec("klt:1").constants)
        for name in first:
            np.testing.assert_array_equal(first[name], again[name])
        largest = np.take_along_axis(first["basis"], np.abs(first["basis"]).argmax(1)[:, None], 1)
        assert (largest > 0).all()


@pytest.mark.parametrize("odd", ["far outside", "another direction"])
def test_klt_keeps_views_that_leave_its_range_in_half_precision(odd):
    """A basis from the first blocks may miss what comes later: the promised error holds for every single view."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(5, 50)).astype(np.float32)
    sample = rng.normal(size=(400, 5)).astype(np.float32) @ directions
    codec = parse_codec("klt:0.01" if odd == "far outside" else "klt:0.5")
    coder = codec.bind(50, codec.fit(50, sample=sample))
    values = (rng.normal(size=(6, 2, 5)).astype(np.float32) @ directions).astype(np.float32)
    values[4, 1] = directions[0] * 9000 if odd == "far outside" else rng.normal(size=50) * 20
    arrays = coder.encode(values)
    leaves = arrays["coefficients"][..., 0] == 65535
    assert leaves.sum() == 1 and leaves[4, 1]
    assert (arrays["exact"] != 0).any(-1).sum() == 1
    centred = values - values.mean(-1, keepdims=True)
    error = coder.decode(arrays) - centred
    assert np.sqrt(np.square(error[~leaves]).mean(-1)).max() <= coder.error_limit
    np.testing.assert_allclose(coder.decode(arrays)[4, 1], centred[4, 1], rtol=2**-10)
    decoded = LabelDecoder(coder).decode({k: torch.from_numpy(v[:, 1]) for k, v in arrays.items()})
    np.testing.assert_allclose(decoded.numpy(), coder.decode(arrays)[:, 1], rtol=1e-4, atol=1e-4)


def test_klt_hardly_ever_falls_back_on_what_it_was_fitted_on():
    rng = np.random.default_rng(1)
    logits = (rng.laplace(size=(1200, 20)) @ rng.normal(size=(20, 100))).astype(np.float32)
    codec = parse_codec("klt:1")
    coder = codec.bind(100, codec.fit(100, sample=logits[:800]))
    assert (coder.encode(logits[800:, None])["coefficients"][..., 0] == 65535).mean() < 0.01


def test_klt_refuses_samples_that_it_can_not_be_fitted_on():
    nan = np.full((8, 10), np.nan, np.float32)
    for sample in (None, np.zeros((1, 10), np.float32), np.zeros((8, 9), np.float32), nan):
        with pytest.raises(UsageError):
            parse_codec("klt").fit(10, sample=sample)


def test_klt_of_a_sample_without_variance_still_works():
    sample = np.tile(np.arange(10, dtype=np.float32), (4, 1))
    coder = parse_codec("klt").bind(10, parse_codec("klt").fit(10, sample=sample))
    assert total_variation(sample[:1], coder.decode(coder.encode(sample[:, None]))[:1, 0], 1).max() < 0.1


@settings(max_examples=50, deadline=None)
@given(whole=st.integers(-(2**15) + 1, 2**15 - 1))
def test_every_multiple_of_the_step_is_kept(whole):
    coder = fitted("klt:1", 2)
    row = (coder.mean + whole * coder.basis[0]).astype(np.float32)[None, None]
    encoded = coder.encode(row)
    assert encoded["coefficients"][0, 0, 0] == (2 * whole if whole >= 0 else -2 * whole - 1)
    assert encoded["coefficients"][0, 0, 0] != coder.arrays(1)["coefficients"].fill_value


# topk


def test_topk_of_all_classes_is_float16():
    _, logits = values_for("topk", 5, 3, 10)
    coder, exact = fitted("topk:10", 10), fitted("float16", 10)
    encoded = coder.encode(logits)
    for temperature in (0.5, *TEMPERATURES):
        np.testing.assert_array_equal(coder.decode(encoded, temperature), exact.decode(exact.encode(logits)))
    assert np.isneginf(coder.tail_log_mass(encoded, 4)).all()


def test_topk_refuses_more_classes_than_there_are():
    with pytest.raises(UsageError, match="topk:50 keeps more classes than the 10"):
        parse_codec("topk:50").bind(10, {})


@settings(max_examples=50, deadline=None)
@given(logits=dense, k=st.integers(1, 7))
def test_topk_keeps_the_largest_in_order(logits, k):
    coder = fitted(f"topk:{k}", 7)
    ids, kept = coder.sparse(coder.encode(logits))
    np.testing.assert_array_equal(ids, np.argsort(-logits, axis=-1, kind="stable")[..., :k])
    np.testing.assert_allclose(kept, np.take_along_axis(logits, ids, -1), rtol=2**-11, atol=1e-7)


def test_ties_go_to_the_lower_class_id_within_what_is_kept():
    logits = np.array([[[1, 5, 5, 0, 5]]], np.float32)
    assert fitted("topk:3", 5).encode(logits)["ids"].tolist() == [[[1, 2, 4]]]
    assert fitted("topk:2", 5).encode(np.zeros_like(logits))["ids"].size == 2


@pytest.mark.parametrize("temperature", [1, 4, 10, 20])
def test_the_tail_has_its_mass_at_every_temperature(temperature):
    _, logits = values_for("topk", 64, 1, 1000)
    coder = fitted("topk:50", 1000)
    encoded = coder.encode(logits)
    tail = np.sort(logits.astype(np.float64), -1)[..., :-50]
    exact = np.log(np.exp(tail / temperature).sum(-1))
    error = np.abs(coder.tail_log_mass(encoded, temperature) - exact).max()
    assert error < (1e-5 if temperature == 1 else 0.05)
    # ... and the dense row shares it out without changing it.
    dense = np.exp(log_softmax(coder.decode(encoded, temperature), temperature))
    kept = np.take_along_axis(dense, encoded["ids"].astype(np.int64), -1).sum(-1)
    top = np.log(np.exp(encoded["logits"].astype(np.float64) / temperature).sum(-1))
    np.testing.assert_allclose(1 - kept, 1 / (1 + np.exp(top - exact)), atol=1e-2)


@settings(max_examples=50, deadline=None)
@given(logits=dense, k=st.integers(1, 6), temperature=st.floats(0.05, 50))
def test_the_tail_weighs_no_less_than_its_mean_at_any_temperature(logits, k, temperature):
    coder = fitted(f"topk:{k}", 7)
    encoded = coder.encode(logits * 5)
    mass = coder.tail_log_mass(encoded, temperature)
    least = np.log(7 - k) + encoded["tail"][..., 1] / temperature
    assert np.isfinite(mass).all() and (mass >= least - 1e-4 * (1 + np.abs(least))).all()


@pytest.mark.parametrize("temperature", [0.5, 1, 1.5, 2, 4, 10, 20])
def test_no_class_of_a_left_skewed_tail_outranks_one_that_was_kept(temperature):
    logits = -np.random.default_rng(0).gamma(2, 10, (64, 1, 1000)).astype(np.float32)  # most near 0, some far below
    coder = fitted("topk:10", 1000)
    encoded = coder.encode(logits)
    each = temperature * (coder.tail_log_mass(encoded, temperature) - np.log(990))
    assert (each <= encoded["logits"][..., -1] + 1e-3).all()
    kept = encoded["ids"].astype(np.int64)
    weights = [
        1 - np.take_along_axis(np.exp(log_softmax(rows, temperature)), kept, -1).sum(-1)
        for rows in (logits, coder.decode(encoded, temperature))
    ]
    if temperature >= 1:  # below, the mean of the tail says next to nothing of its largest
        assert np.abs(weights[0] - weights[1]).max() < 0.2


# Traps, each seen in a released system


@pytest.mark.parametrize("num_classes", [21_841, 70_000])
def test_class_ids_above_2048_are_exact(num_classes):  # FKD: ids kept in float16
    wanted = np.array([2049, 4097, num_classes - 1, num_classes - 2])
    logits = np.zeros((1, 1, num_classes), np.float32)
    logits[0, 0, wanted] = [9, 8, 7, 6]
    encoded = fitted("topk:4", num_classes).encode(logits)
    assert encoded["ids"][0, 0].tolist() == wanted.tolist()
    assert encoded["ids"].dtype == (np.uint16 if num_classes <= 65_536 else np.uint32)


def test_a_confident_teacher_leaves_no_negative_tail():  # FKD, TinyViT: float16 probabilities sum to more than one
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 1, 1000)).astype(np.float32)
    logits[..., 0] += 20
    half = np.exp(log_softmax(logits, 1)).astype(np.float16)
    residual = 1 - np.sort(half, -1)[..., -10:].astype(np.float64).sum(-1)
    assert (residual < 0).any()  # the trap is real ...
    coder = fitted("topk:10", 1000)
    mass = coder.tail_log_mass(coder.encode(logits), 1.0)
    exact = np.log(np.sort(np.exp(logits.astype(np.float64)), -1)[..., :-10].sum(-1))
    np.testing.assert_allclose(mass, exact, atol=1e-4)  # ... and not ours


@pytest.mark.parametrize("name", ["float16", "uint8", "topk:10"])
def test_what_is_decoded_are_logits_and_no_probabilities(name):  # ml-dr: softmax of probabilities, 0.999 becomes 0.23
    logits = np.zeros((1, 1, 1000), np.float32)
    logits[0, 0, 3] = 14
    coder = fitted(name, 1000)
    p = np.exp(log_softmax(coder.decode(coder.encode(logits)), 1))
    assert p[0, 0, 3] == pytest.approx(np.exp(log_softmax(logits, 1))[0, 0, 3], rel=1e-3) and p[0, 0, 3] > 0.99


def test_probabilities_are_normalised_over_all_classes():  # MaxText: the teacher over K, the student over C
    logits = values_for("topk", 8, 1, 1000)[1]
    coder = fitted("topk:10", 1000)
    encoded = coder.encode(logits)
    kept = np.exp(log_softmax(coder.decode(encoded), 1))[np.arange(8)[:, None], 0, encoded["ids"][:, 0].astype(int)]
    exact = np.exp(log_softmax(logits, 1))[np.arange(8)[:, None], 0, encoded["ids"][:, 0].astype(int)]
    np.testing.assert_allclose(kept, exact, rtol=5e-3)
    assert kept.sum(-1).max() < 0.99  # over the k kept they would sum to one


def test_the_tail_is_not_one_ghost_class_at_other_temperatures():  # DistillKit: leftover mass ** (1 / T)
    logits = values_for("topk", 64, 1, 1000)[1]
    coder = fitted("topk:10", 1000)
    encoded = coder.encode(logits)
    log_p = log_softmax(logits, 1)
    left_out = np.sort(log_p, -1)[..., :-10]
    exact = np.log(np.exp(left_out / 4).sum(-1))
    ghost = np.log(np.exp(left_out).sum(-1)) / 4
    assert np.abs(ghost - exact).min() > 3  # off by a factor of 20 and more
    normaliser = logits.astype(np.float64).max(-1) - log_p.max(-1)
    assert np.abs(coder.tail_log_mass(encoded, 4.0) - normaliser / 4 - exact).max() < 0.05


# The report


def test_distances_are_those_written_out_by_hand():
    exact, decoded = np.log(np.float32([[0.5, 0.25, 0.25]])), np.log(np.float32([[0.25, 0.5, 0.25]]))
    assert total_variation(exact, decoded, 1) == pytest.approx([0.25], abs=1e-6)
    assert kl_divergence(exact, decoded, 1) == pytest.approx([0.5 * np.log(2) - 0.25 * np.log(2)], abs=1e-6)
    assert total_variation(2 * exact, 2 * decoded, 2) == pytest.approx([0.25], abs=1e-6)
    assert top1_agreement(exact, decoded) == 0 and top1_agreement(exact, exact) == 1
    assert logit_rmse(exact, exact + 3) == pytest.approx(0, abs=1e-6)


def test_bytes_are_those_of_the_chunks():
    coder = fitted("float16", 10)
    encoded = coder.encode(values_for("float16", 8, 2, 10)[1])
    assert stored_bytes(coder.arrays(2), encoded) == 8 * 2 * 10 * 2 + 4  # crc32c


def test_coefficients_compress_to_less_than_their_array():
    sample, weight = rich_teacher(1000)
    coder = parse_codec("klt:1").bind(100, parse_codec("klt:1").fit(100, sample=sample, weight=weight))
    unseen = rich_teacher(512, seed=4)[0].reshape(64, 8, 100)
    result = measure(coder, unseen, unseen)
    assert result["bytes_per_view"] < 0.25 * result["bytes_per_view_raw"]
    assert result["tv"]["20"] < result["tv"]["4"] < result["tv"]["1"]


def test_a_comparison_leaves_out_what_can_not_serve():
    features, weight, logits = teacher(40, 10)
    names = ("float16", "features", "klt:1", "topk:50")
    codecs = {name: parse_codec(name) for name in names}
    assert set(compare(codecs, logits[:20, None], logits[20:])) == {"float16", "klt:1"}
    with_head = compare(codecs, logits[:20, None], logits[20:], features=features[:20, None], weight=weight)
    assert set(with_head) == {"float16", "features", "klt:1"} and with_head["features"]["constants_bytes"] == 4 * 10 * 7
    json.dumps(with_head)
