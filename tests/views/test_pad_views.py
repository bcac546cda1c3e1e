"""Views of kind pad: the CIFAR papers' RandomCrop of the padded image and flip, stored as boxes, rendered to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomCrop
from torchvision.transforms import functional as tvf

from dmkd.stores.errors import UsageError
from dmkd.views import ViewPolicy, draw_views, parse_policy
from dmkd.views.render import render, render_block
from dmkd.views.resampling import INTERPOLATIONS


def draw(text, num, *, image_size=(32, 32), first=False):
    return draw_views(
        parse_policy(text),
        7,
        np.arange(num),
        canonical=(0.0, 0.0, 1.0, 1.0),
        first=first,
        image_size=image_size,
        output_size=32,
        block_size=num,
        num_in_block=num,
    )


def noise(num, height, width):
    return np.random.default_rng(3).integers(1, 256, (num, height, width, 3), dtype=np.uint8)


def test_a_policy_is_read_and_written():
    policy = parse_policy("pad:8")
    assert policy == ViewPolicy("pad", 8, padding=4) and (str(policy), policy.name) == ("pad:8", "pad8")
    assert str(parse_policy("pad:2+mixup,padding=2,flip=0")) == "pad:2+mixup,flip=0,padding=2"
    assert ViewPolicy.from_json(policy.to_json()) == policy
    assert "padding" not in parse_policy("rrc:8").to_json(), "older view sets keep their identity"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pad", "lack the number of random views"),
        ("pad:8,padding=0", "padding must be 1 to 256 whole pixels, not 0"),
        ("pad:8,padding=1.5", "padding must be 1 to 256 whole pixels, not 1.5"),
        ("pad:8,padding=1e400", "padding must be 1 to 256 whole pixels"),
        ("pad:8,scale=0.5:1", "scale and ratio belong to views of kind rrc"),
        ("rrc:8,padding=4", "padding belongs to views of kind pad"),
        ("center,padding=4", "center take no number, mix or options"),
    ],
)
def test_what_can_not_be_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_policy(text)


def test_images_that_a_view_could_miss_are_refused():
    with pytest.raises(UsageError, match="padded by 8 pixels can miss images of 8x40"):
        draw("pad:1,padding=8", 2, image_size=(8, 40))


def test_offsets_and_flips_are_torchvisions():
    views = draw("pad:25", 200).reshape(-1, 5).astype(np.float64)
    moved = np.rint(views[:, :2] * 32)
    assert (views[:, :2] * 32 == moved).all() and (views[:, 2:4] == 1).all()
    image = torch.zeros(3, 40, 40)
    theirs = np.array([RandomCrop.get_params(image, (32, 32))[:2] for _ in range(5000)]) - 4
    for ours in (moved[:, 0], moved[:, 1]):
        values, counts = np.unique(ours, return_counts=True)
        assert values.tolist() == sorted(set(theirs[:, 0].tolist())) == list(range(-4, 5))
        assert abs(counts / len(ours) - 1 / 9).max() < 0.02
    assert abs(views[:, 4].mean() - 0.5) < 0.03


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(5, 40),
    padding=st.integers(1, 4),
    interpolation=st.sampled_from(list(INTERPOLATIONS)),
    data=st.data(),
)
def test_at_the_images_own_size_it_is_torchvisions_transform(height, padding, interpolation, data):
    images, moves = noise(1, height, height), st.integers(-padding, padding)
    top, left, flip = data.draw(moves), data.draw(moves), data.draw(st.booleans())
    view = np.array([[top / height, left / height, 1, 1, flip]], np.float32)
    ours = render(images, view, size=height, interpolation=interpolation, padding=padding)[0]
    padded = tvf.pad(Image.fromarray(images[0]), [padding])
    cropped = tvf.crop(padded, top + padding, left + padding, height, height)
    theirs = tvf.pil_to_tensor(tvf.hflip(cropped) if flip else cropped)
    assert torch.equal(ours, theirs)


# Not nearest: where a centre falls between two pixels, Pillow's steps decide by how wide the frame is.
@pytest.mark.parametrize("interpolation", [name for name in INTERPOLATIONS if name != "nearest"])
@pytest.mark.parametrize("size", [7, 24, 61])
def test_at_another_size_it_is_pillows_resize_of_that_box_of_the_framed_image(size, interpolation):
    """The frame is wide enough for the filter; along an axis that the box does not leave there is none."""
    images, frame = noise(6, 24, 24), 64
    moves = [(-4, 3), (2, -1), (-4, -4), (4, 4), (0, 3), (-2, 0)]
    views = np.array([[top / 24, left / 24, 1, 1, 0] for top, left in moves], np.float32)
    ours = render(images, views, size=size, interpolation=interpolation, padding=4).permute(0, 2, 3, 1).numpy()
    method = getattr(Image.Resampling, interpolation.upper())
    for pixels, image, (top, left) in zip(ours, images, moves, strict=True):
        down, across = frame * (top != 0), frame * (left != 0)
        framed = Image.fromarray(np.pad(image, ((down, down), (across, across), (0, 0))))
        high = framed.height
        narrowed = framed.resize((size, high), method, box=(left + across, 0, left + across + 24, high))
        theirs = narrowed.resize((size, size), method, box=(0, top + down, size, top + down + 24))
        np.testing.assert_array_equal(pixels, np.asarray(theirs))


def test_a_view_is_the_same_alone_and_among_others():
    """Views within their image are rendered as they are without padded ones beside them."""
    images = noise(8, 24, 24)
    views = np.concatenate([draw("pad:3", 8, image_size=(24, 24)), draw("rrc:3", 8, image_size=(24, 24))], 1)
    together = render_block(images, views, size=40, interpolation="bicubic", padding=4)
    for place in range(6):
        alone = render_block(images, views[:, [place]], size=40, interpolation="bicubic", padding=4 * (place < 3))
        assert torch.equal(alone[:, 0], together[:, place])


def test_boxes_further_out_than_the_padding_are_refused():
    images = noise(1, 32, 32)
    for top, padding, lies_outside in ((-4, 4, False), (-5, 4, True), (5, 4, True), (-1, 0, True), (1, 0, True)):
        view = np.array([[top / 32, 0, 1, 1, 0]], np.float32)
        if lies_outside:
            with pytest.raises(UsageError, match="View 0 lies outside its image"):
                render(images, view, size=32, interpolation="bilinear", padding=padding)
        else:
            render(images, view, size=32, interpolation="bilinear", padding=padding)
