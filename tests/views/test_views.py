"""Views are drawn once, from (seed, image id, number of the view) alone, as torchvision draws its crops."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from dmkd.stores.errors import UsageError
from dmkd.views import ViewPolicy, canonical_box, draw_views, parse_policy

CANONICAL = (0.0, 0.125, 1.0, 0.75)


def draw(policy, ids, *, seed=5, first=False, image_size=(32, 32), output_size=32, block_size=64, num_in_block=64):
    return draw_views(
        parse_policy(policy),
        seed,
        np.asarray(ids),
        canonical=CANONICAL,
        first=first,
        image_size=image_size,
        output_size=output_size,
        block_size=block_size,
        num_in_block=num_in_block,
    )


policies = st.one_of(
    st.just(ViewPolicy()),
    st.builds(
        lambda num, low, high, a, b, flip, mixing: ViewPolicy(
            "rrc", num, tuple(sorted((low, high))), tuple(sorted((a, b))), flip, *mixing
        ),
        st.integers(1, 4096),
        st.floats(1e-6, 1),
        st.floats(1e-6, 1),
        st.floats(1e-3, 1e3),
        st.floats(1e-3, 1e3),
        st.floats(0, 1),
        st.one_of(st.just((None, None)), st.tuples(st.sampled_from(["cutmix", "mixup"]), st.floats(0.01, 100))),
    ),
)


@given(policies)
def test_a_policy_survives_its_text_and_its_json(policy):
    assert parse_policy(str(policy)) == policy
    assert ViewPolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert not set(policy.name) & set(":,/ +")


@pytest.mark.parametrize(
    ("text", "canonical_text", "name"),
    [
        ("center", "center", "center"),
        ("rrc:8", "rrc:8", "rrc8"),
        ("rrc:8,ratio=3/4:4/3, flip=0.50", "rrc:8", "rrc8"),
        ("rrc:8,scale=0.6:1,ratio=0.9:1.1,flip=0", "rrc:8,scale=0.6:1,ratio=0.9:1.1,flip=0", "rrc8"),
        ("rrc:50+cutmix", "rrc:50+cutmix", "rrc50-cutmix"),
        ("rrc:8+mixup,alpha=0.2", "rrc:8+mixup", "rrc8-mixup"),
        ("rrc:8+cutmix,alpha=0.5", "rrc:8+cutmix,alpha=0.5", "rrc8-cutmix"),
    ],
)
def test_policies_are_written_without_their_defaults(text, canonical_text, name):
    assert str(parse_policy(text)) == canonical_text
    assert parse_policy(text).name == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "can't be read"),
        ("rrc", "lack the number"),
        ("crop:8", "'crop'"),
        ("rrc:0", "1 to 4096, not 0"),
        ("rrc:5000", "not 5000"),
        ("rrc:-3", "can't be read"),
        ("center:3", "center take no number"),
        ("center,flip=0", "center take no number"),
        ("rrc:8+cutout", "'cutout'"),
        ("rrc:8,scale=0:1", "not 0:1"),
        ("rrc:8,scale=0.5:2", "not 0.5:2"),
        ("rrc:8,scale=1:0.5", "not 1:0.5"),
        ("rrc:8,scale=0.5", "low:high"),
        ("rrc:8,scale=a:b", "low:high"),
        ("rrc:8,ratio=0:1", "not 0:1"),
        ("rrc:8,ratio=1/0:1", "low:high"),
        ("rrc:8,ratio=1:1e999", "not 1:inf"),
        ("rrc:8,flip=1.5", "not 1.5"),
        ("rrc:8,flip=", "one number"),
        ("rrc:8,flip=0,flip=1", "each given once"),
        ("rrc:8,colour=1", "'colour=1'"),
        ("rrc:8,alpha=1", "belongs to mixed views"),
        ("rrc:8+mixup,alpha=0", "not 0"),
    ],
)
def test_a_wrong_policy_is_answered_with_what_is_wrong_and_an_example(text, said):
    with pytest.raises(UsageError) as error:
        parse_policy(text)
    assert said in str(error.value)
    assert "rrc:8" in str(error.value)


def test_a_policy_of_a_later_version_is_refused():
    with pytest.raises(UsageError, match="colour"):
        ViewPolicy.from_json({"kind": "center", "colour": 0.4})


def test_the_first_view_set_begins_with_the_canonical_view():
    for policy, mixed in (("rrc:3", []), ("rrc:3+cutmix", [7, 0, 0, 0, 0]), ("rrc:3+mixup", [7, 1])):
        views = draw(policy, [64 + 7], first=True)
        assert views.shape == (1, 4, 5 + len(mixed)) and views.dtype == np.float32
        assert views[0, 0].tolist() == [*CANONICAL, 0, *mixed]
        np.testing.assert_array_equal(views[:, 1:], draw(policy, [64 + 7], first=False))
    assert draw("center", [3, 4], first=False)[:, 0, :4].tolist() == [list(CANONICAL)] * 2


@pytest.mark.parametrize("mix", ["", "+cutmix", "+mixup"])
def test_views_depend_on_seed_id_and_number_alone(mix):
    ids = np.arange(128, 192)
    views = draw(f"rrc:6{mix}", ids)
    order = np.random.default_rng(0).permutation(64)[:17]
    np.testing.assert_array_equal(draw(f"rrc:6{mix}", ids[order]), views[order])
    np.testing.assert_array_equal(draw(f"rrc:9{mix}", ids)[:, :6], views)  # more views: the first ones stay
    assert (draw(f"rrc:6{mix}", ids, seed=6)[..., :2] != views[..., :2]).mean() > 0.5
    assert len(np.unique(views.reshape(-1, views.shape[-1]), axis=0)) > 0.95 * 64 * 6


def test_views_stay_what_they_were_in_earlier_versions():
    views = draw("rrc:2", [0, 1_000_000], image_size=(256, 256), block_size=2**20, num_in_block=2**20)
    pixels = np.rint(views[..., :4] * 256).astype(int)
    assert pixels.reshape(4, 4).tolist() == [
        [9, 14, 224, 210],
        [73, 11, 173, 188],
        [47, 24, 198, 232],
        [7, 26, 244, 227],
    ]
    assert views[..., 4].ravel().tolist() == [0, 1, 0, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.integers(1, 512),
    st.floats(0.001, 1),
    st.floats(0.05, 20),
    st.floats(0.01, 20),
)
def test_boxes_are_whole_pixels_within_the_image_that_fractions_give_back(image_size, size, scale, ratio, alpha):
    policy = ViewPolicy("rrc", 5, (scale, 1.0), tuple(sorted((ratio, 1.0))), 0.5, "cutmix", alpha)
    views = draw(str(policy), np.arange(20), image_size=image_size, output_size=size, block_size=20, num_in_block=20)
    for columns, sizes in ((slice(0, 4), image_size), (slice(6, 10), (size, size))):
        fractions = views[..., columns].astype(np.float64)
        pixels = np.rint(fractions * (sizes * 2))
        np.testing.assert_array_equal((pixels / (sizes * 2)).astype(np.float32), fractions)
        top, left, height, width = np.moveaxis(pixels, -1, 0)
        assert (top >= 0).all() and (left >= 0).all()
        assert (top + height <= sizes[0]).all() and (left + width <= sizes[1]).all()
        if columns.start == 0:
            assert (height >= 1).all() and (width >= 1).all()


@pytest.mark.parametrize(
    ("image_size", "options"), [((256, 256), ""), ((32, 48), ""), ((64, 64), ",scale=0.6:1,ratio=0.9:1.1")]
)
def test_boxes_are_distributed_as_torchvisions(image_size, options):
    policy, num = parse_policy(f"rrc:10{options}"), 2000
    views = draw(str(policy), np.arange(num), image_size=image_size, block_size=num, num_in_block=num).reshape(-1, 5)
    torch.manual_seed(0)
    image = torch.empty(3, *image_size)
    theirs = np.array([RandomResizedCrop.get_params(image, policy.scale, policy.ratio) for _ in range(10 * num)])
    ours = np.rint(views[:, :4].astype(np.float64) * np.tile(image_size, 2))
    for measure in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0] + box[:, 2] / 2,
        lambda box: box[:, 1] + box[:, 3] / 2,
    ):
        a, b = measure(ours).round(6), measure(theirs).round(6)
        error = np.sqrt((a.var() + b.var()) / (10 * num))
        assert abs(a.mean() - b.mean()) < 4.5 * error
        assert abs(a.std() / b.std() - 1) < 0.03
        # Kolmogorov-Smirnov distance; its 0.1 % point is 1.95 sqrt(2 / n).
        grid = np.sort(np.concatenate([a, b]))
        distance = abs(
            np.searchsorted(np.sort(a), grid, "right") / len(a) - np.searchsorted(np.sort(b), grid, "right") / len(b)
        ).max()
        assert distance < 1.95 * np.sqrt(2 / (10 * num))
    assert abs(views[:, 4].mean() - 0.5) < 0.02


def test_crops_that_never_fit_fall_back_to_the_largest_central_one():
    views = draw("rrc:4,scale=1:1,ratio=1:1,flip=0", [0], image_size=(30, 50))
    assert np.rint(views[0, :, :4] * [30, 50, 30, 50]).tolist() == [[0, 10, 30, 30]] * 4


def test_flip_is_a_probability():
    assert draw("rrc:20,flip=0", np.arange(64))[..., 4].max() == 0
    assert draw("rrc:20,flip=1", np.arange(64))[..., 4].min() == 1
    assert abs(draw("rrc:200,flip=0.1", np.arange(64))[..., 4].mean() - 0.1) < 0.015


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_partners_are_the_other_images_of_the_block_evenly(mix):
    partner = draw(f"rrc:500+{mix}", np.arange(128, 138), num_in_block=10)[..., 5]
    assert (partner != np.arange(10)[:, None]).all()
    counts = np.stack([np.bincount(row.astype(int), minlength=10) for row in partner])
    assert counts.sum(1).tolist() == [500] * 10
    others = counts[~np.eye(10, dtype=bool)]
    assert abs(others - 500 / 9).max() < 5 * np.sqrt(500 / 9)
    two = draw(f"rrc:8+{mix}", [64, 65], num_in_block=2)[..., 5]
    assert two.tolist() == [[1] * 8, [0] * 8]


def test_the_only_image_of_a_block_is_not_mixed():
    assert (draw("rrc:8+cutmix", [64], num_in_block=1)[..., 5:] == 0).all()
    assert (draw("rrc:8+mixup", [64], num_in_block=1)[..., 5:] == [0, 1]).all()


def test_an_image_outside_its_block_is_refused():
    with pytest.raises(UsageError, match="Image 70"):
        draw("rrc:8+mixup", [64, 70], num_in_block=6)


def test_cutmix_pastes_what_the_paper_pastes():
    views = draw("rrc:400+cutmix", np.arange(64), output_size=224)
    area = (views[..., 8] * views[..., 9]).ravel().astype(np.float64)
    rng = np.random.default_rng(0)
    share, centre = rng.random(200_000), rng.integers(0, 224, (2, 200_000))
    half = (0.5 * np.sqrt(1 - share) * 224).astype(int)
    expected = np.prod(np.minimum(centre + half, 224) - np.maximum(centre - half, 0), axis=0) / 224**2
    assert abs(area.mean() - expected.mean()) < 0.006
    np.testing.assert_allclose(
        np.quantile(area, np.arange(0.1, 1, 0.1)), np.quantile(expected, np.arange(0.1, 1, 0.1)), atol=0.02
    )


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.8, 1.0, 3.0, 40.0])
def test_mixup_weights_are_beta_distributed_in_steps_of_1_in_256(alpha):
    weight = draw(f"rrc:800+mixup,alpha={alpha}", np.arange(64))[..., 6].ravel().astype(np.float64)
    assert (weight * 256 == np.rint(weight * 256)).all() and weight.min() >= 0 and weight.max() <= 1
    expected = np.random.default_rng(0).beta(alpha, alpha, 200_000)
    assert abs(weight.mean() - 0.5) < 0.01
    assert abs(weight.std() / expected.std() - 1) < 0.02
    for edge in (0.5 / 256, 0.1, 0.3, 0.5, 0.7, 0.9):
        step = (np.floor(edge * 256) + 0.5) / 256
        assert abs((weight < step).mean() - (expected < step).mean()) < 0.01


def test_canonical_boxes_written_by_hand():
    assert canonical_box((256, 256), 224, 0.875) == (16 / 256, 16 / 256, 224 / 256, 224 / 256)
    assert canonical_box((32, 32), 32, 1.0) == (0, 0, 1, 1)
    assert canonical_box((300, 200), 224, 0.875) == (80 / 384, 16 / 256, 224 / 384, 224 / 256)
    assert canonical_box((300, 200), 224, 1.0, "squash") == (0, 0, 1, 1)
    assert canonical_box((256, 256), 224, None) == canonical_box((256, 256), 224, 0.875, None)
    assert canonical_box((256, 256), 224, 0.95)[0] == 6 / 235  # 5.5 rounds to the even pixel


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(((256, 256), 224, 1.2), "pad"), (((256, 200), 224, 0.9, "border"), "border"), (((8, 8), 8, 1, "x"), "'x'")],
)
def test_evaluation_transforms_that_no_box_shows_are_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        canonical_box(*arguments)
