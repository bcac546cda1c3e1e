"""Rendering: Pillow's pixels to the bit, whatever the batch, the order, the threads and the settings."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tvf

from dmkd.stores.errors import UsageError
from dmkd.views import ViewPolicy, canonical_box, draw_views, parse_policy, resampling
from dmkd.views.render import normalise, render, render_block
from dmkd.views.resampling import INTERPOLATIONS, filter_weights


def noise(num, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), dtype=np.uint8)


def natural(num, height, width, seed=0):
    """Images with a natural spectrum (amplitude 1/f) and a hard edge, uint8 (num, H, W, 3)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random((num, 3, height, width)))
    waves = np.fft.ifft2(phases / frequency).real
    waves = waves / waves.std((2, 3), keepdims=True)
    waves[:, :, height // 3 : height // 2, width // 4 : width // 2] += 3
    return np.clip(127 + 50 * waves, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def draw(policy, num, image_size, size, *, seed=3, first=False):
    return draw_views(
        parse_policy(policy),
        seed,
        np.arange(num),
        canonical=(0.0, 0.0, 1.0, 1.0),
        first=first,
        image_size=image_size,
        output_size=size,
        block_size=num,
        num_in_block=num,
    )


def canonical_pixels(images, size, interpolation, crop_pct, crop_mode="center"):
    box = canonical_box(images.shape[1:3], size, crop_pct, crop_mode)
    views = np.tile(np.array([*box, 0], np.float32), (len(images), 1))
    return render(images, views, size=size, interpolation=interpolation)


def timm_pixels(images, size, interpolation, crop_pct, crop_mode="center"):
    transform = create_transform(
        (3, size, size), interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode, normalize=False
    )
    return torch.stack([transform(Image.fromarray(image)) for image in images])


@pytest.mark.parametrize("make", [natural, noise])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("image_size", "size", "crop_pct"),
    [
        ((256, 256), 224, 0.875),
        ((256, 256), 224, 0.9),
        ((256, 256), 224, 0.95),
        ((256, 256), 224, 1.0),
        ((64, 64), 48, 0.875),
        ((64, 64), 48, 1.0),
        ((32, 32), 48, 1.0),
        ((200, 333), 224, 0.875),
        ((301, 190), 96, 0.95),
    ],
)
def test_the_canonical_view_is_timms_evaluation_transform(make, interpolation, image_size, size, crop_pct):
    images = make(4, *image_size)
    ours = canonical_pixels(images, size, interpolation, crop_pct)
    assert ours.shape == (4, 3, size, size) and ours.dtype == torch.uint8
    assert torch.equal(ours, timm_pixels(images, size, interpolation, crop_pct))


@pytest.mark.parametrize("interpolation", list(INTERPOLATIONS))
def test_images_shown_whole_at_their_own_size_are_copied(interpolation):
    images = noise(3, 32, 32)
    ours = canonical_pixels(images, 32, interpolation, 1.0)
    np.testing.assert_array_equal(ours.permute(0, 2, 3, 1).numpy(), images)
    images = noise(2, 256, 256)  # 256 -> 224 at crop_pct 0.875 cuts and does not resample
    np.testing.assert_array_equal(
        canonical_pixels(images, 224, interpolation, 0.875).permute(0, 2, 3, 1).numpy(), images[:, 16:240, 16:240]
    )


def test_squash_shows_the_whole_of_an_oblong_image():
    images = natural(3, 80, 120)  # not a tall one: Pillow 13 takes height first there
    for crop_pct in (1.0, 0.9):
        ours = canonical_pixels(images, 64, "bicubic", crop_pct, "squash")
        assert torch.equal(ours, timm_pixels(images, 64, "bicubic", crop_pct, "squash"))


@pytest.mark.parametrize("interpolation", list(INTERPOLATIONS))
@pytest.mark.parametrize(("image_size", "size"), [((40, 56), 7), ((56, 40), 24), ((40, 40), 61)])
def test_any_box_is_pillows_resize_of_that_box_width_first(interpolation, image_size, size):
    images, (rows, columns) = noise(12, *image_size), image_size
    views = draw("rrc:1,flip=0", 12, image_size, size)[:, 0]
    ours = render(images, views, size=size, interpolation=interpolation).permute(0, 2, 3, 1).numpy()
    for pixels, image, (top, left, height, width, _) in zip(ours, images, views.astype(np.float64), strict=True):
        low, high = np.rint([left * columns, (left + width) * columns]).tolist()
        upper, lower = np.rint([top * rows, (top + height) * rows]).tolist()
        method = getattr(Image.Resampling, interpolation.upper())
        narrowed = Image.fromarray(image).resize((size, rows), method, box=(low, 0, high, rows))
        theirs = narrowed.resize((size, size), method, box=(0, upper, size, lower))
        np.testing.assert_array_equal(pixels, np.asarray(theirs))


@pytest.mark.parametrize(("interpolation", "margin", "least_psnr"), [("bilinear", 1, 40), ("bicubic", 2, 40)])
def test_random_crops_are_torchvisions_away_from_their_edges(interpolation, margin, least_psnr):
    """torchvision cuts the crop out first, so its filter stops at the crop's edge where ours reads on.

    Lowest of 24 crops measured against its PIL path: 42.5 dB (bilinear), 43.5 dB (bicubic); mean 55.9 and 57.2.
    """
    images, size = natural(24, 256, 256), 224
    views = draw("rrc:1", 24, (256, 256), size)[:, 0]
    ours = render(images, views, size=size, interpolation=interpolation)
    for pixels, image, view in zip(ours, images, views.astype(np.float64), strict=True):
        top, left, height, width = np.rint(view[:4] * 256).astype(int).tolist()
        cropped = tvf.resized_crop(
            Image.fromarray(image), top, left, height, width, [size, size], InterpolationMode(interpolation)
        )
        cropped = tvf.pil_to_tensor(tvf.hflip(cropped) if view[4] else cropped)
        difference = (pixels.int() - cropped.int()).abs()
        psnr = 10 * torch.log10(255**2 / difference.double().square().mean())
        assert psnr > least_psnr
        if height > width:
            continue  # Pillow 13 takes height first
        reach = [int(np.ceil((margin * max(scale, 1) + 0.5) / scale)) + 1 for scale in (height / size, width / size)]
        assert difference[:, reach[0] : size - reach[0], reach[1] : size - reach[1]].max() <= 1


@pytest.mark.parametrize("num_threads", [1, 2])
def test_ten_thousand_views_are_the_same_bits_in_any_batch_order_and_number_of_threads(num_threads):
    images = torch.from_numpy(noise(50, 32, 32))
    views = draw("rrc:200", 50, (32, 32), 32).reshape(-1, 5)
    rows = np.repeat(np.arange(50), 200)

    def rendered(order):
        return render(images, views[order], rows=rows[order], size=32, interpolation="lanczos")

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = rendered(np.arange(len(views)))
        torch.set_num_threads(num_threads)
        order = np.random.default_rng(0).permutation(len(views))
        assert torch.equal(rendered(order), whole[torch.from_numpy(order)])
        for batch in (1, 7, 333):
            parts = [rendered(np.arange(start, start + batch)) for start in range(0, 10 * batch, batch)]
            assert torch.equal(torch.cat(parts), whole[: 10 * batch])
    finally:
        torch.set_num_threads(threads)


def test_settings_for_reduced_precision_change_nothing():
    images = torch.from_numpy(noise(16, 64, 64))
    views = draw("rrc:4", 16, (64, 64), 48)
    whole = render_block(images, views, size=48, interpolation="bicubic")
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            assert torch.equal(render_block(images, views, size=48, interpolation="bicubic"), whole)
    finally:
        torch.set_float32_matmul_precision(precision)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(render_block(images, views, size=48, interpolation="bicubic"), whole)
    finally:
        torch.set_default_dtype(torch.float32)


# Only a GPU can show that it renders the same bits; the suite must also pass where there is none.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_renders_the_same_bits():
    images = torch.from_numpy(noise(32, 64, 64))
    for policy, size in (("rrc:20", 48), ("rrc:20+cutmix", 64), ("rrc:20+mixup", 80)):
        views, components = draw(policy, 32, (64, 64), size), parse_policy(policy).components
        for interpolation in INTERPOLATIONS:
            options = {"size": size, "interpolation": interpolation, "components": components}
            ours = render_block(images.cuda(), views, **options)
            assert torch.equal(ours.cpu(), render_block(images, views, **options))
            mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            assert torch.equal(normalise(ours[:, 0], mean, std).cpu(), normalise(ours[:, 0].cpu(), mean, std))


@pytest.mark.parametrize("interpolation", list(INTERPOLATIONS))
def test_sums_of_weighted_pixels_are_exact_in_float32(interpolation):
    rng = np.random.default_rng(0)
    for length, size in ((32, 32), (256, 224), (256, 32), (24, 200), (1000, 7)):
        extent = length * rng.uniform(0.02, 1, 200)
        offset = (length - extent) * rng.random(200)
        first, weights = filter_weights(offset, extent / size, length, size, interpolation)
        assert torch.equal(weights, weights.round())
        assert (weights.sum(-1) - 2**22).abs().max() <= weights.shape[-1] / 2
        coarse = (weights / 2**7).round()
        assert coarse.abs().sum(-1).max() * 255 + 2**14 + 2**17 < 2**24  # the 1/2 for rounding and the rest included
        assert (weights - coarse * 2**7).abs().sum(-1).max() * 255 < 2**24
        assert first.min() >= 0 and first.max() < length
        beyond = first[..., None] + torch.arange(weights.shape[-1]) >= length
        assert (weights[beyond] == 0).all()


@pytest.mark.parametrize("interpolation", [name for name in INTERPOLATIONS if name != "nearest"])
def test_what_a_gpu_takes_for_the_number_of_weights_is_enough_and_changes_no_weight(interpolation, monkeypatch):
    """A GPU is not asked how many there are; what bounds them is tried here on the CPU."""
    real, asked = resampling._num_taps, []

    def unasked(counts, widest, length):
        asked.append((int(counts.max()), real(counts.to("meta"), widest, length)))
        return asked[-1][1]

    rng = np.random.default_rng(0)
    for length, size in itertools.product((1, 3, 24, 32, 100, 256), (1, 7, 32, 61, 224)):
        whole = rng.integers(1, length + 1, 30)  # of source pixels: their ends lie where rounding matters
        first = np.floor((length - whole + 1) * rng.random(30))
        extent = length * rng.uniform(0.02, 1, 30)
        boxes = (np.concatenate([first, (length - extent) * rng.random(30)]), np.concatenate([whole, extent]) / size)
        expected_first, expected = filter_weights(*boxes, length, size, interpolation)
        with monkeypatch.context() as patch:
            patch.setattr(resampling, "_num_taps", unasked)
            found_first, found = filter_weights(*boxes, length, size, interpolation)
        here = expected.shape[-1]
        assert torch.equal(found_first, expected_first) and torch.equal(found[..., :here], expected)
        assert (found[..., here:] == 0).all()
    assert all(there <= bound for there, bound in asked) and any(there < bound for there, bound in asked)


def test_shrinking_too_much_is_refused():
    with pytest.raises(UsageError, match="can't be shrunk"):
        render(np.zeros((1, 4, 3000, 3), np.uint8), np.array([[0, 0, 1, 1, 0]]), size=4, interpolation="bicubic")


@pytest.mark.parametrize("interpolation", list(INTERPOLATIONS))
def test_a_plain_image_stays_plain(interpolation):
    views = draw("rrc:5", 3, (40, 40), 33)
    colours = np.array([[0, 127, 255], [1, 254, 128], [77, 3, 250]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (3, 40, 40, 3)).copy()
    pixels = render_block(images, views, size=33, interpolation=interpolation)
    assert (pixels == torch.from_numpy(colours)[:, None, :, None, None]).all()


def test_a_flipped_view_is_the_mirror_image():
    images, views = noise(9, 40, 56), draw("rrc:1,flip=0", 9, (40, 56), 30)[:, 0]
    flipped = views.copy()
    flipped[::2, 4] = 1
    plain, mirrored = (render(images, boxes, size=30, interpolation="bicubic") for boxes in (views, flipped))
    assert torch.equal(mirrored[::2].flip(-1), plain[::2])
    assert torch.equal(mirrored[1::2], plain[1::2])


def mixed_by_hand(policy, images, views, size):
    """A mixed block by numpy, view by view, from the same crops unmixed."""
    crops = render_block(images, views[..., :5], size=size, interpolation="bicubic").numpy()
    mixed = crops.copy()
    for row, number in np.ndindex(*views.shape[:2]):
        mix = views[row, number, 5:].astype(np.float64)
        partner = crops[int(mix[0]), number]
        if policy.mix == "cutmix":
            top, left, height, width = np.rint(mix[1:] * size).astype(int)
            here = np.s_[:, top : top + height, left : left + width]
            mixed[row, number][here] = partner[here]
        else:
            share = round(float(mix[1]) * 256)
            own = crops[row, number].astype(int)
            mixed[row, number] = (own * share + partner.astype(int) * (256 - share) + 128) // 256
    return torch.from_numpy(mixed)


@pytest.mark.parametrize("text", ["rrc:6+cutmix", "rrc:6+mixup", "rrc:6+mixup,alpha=1", "rrc:6+cutmix,alpha=0.3"])
def test_mixed_views_are_the_partners_crops_pasted_or_blended(text):
    policy, images = parse_policy(text), noise(14, 40, 40)
    views = draw(text, 14, (40, 40), 33, first=True)
    options = {"size": 33, "interpolation": "bicubic", "components": policy.components}
    block = render_block(images, views, **options)
    assert torch.equal(block, mixed_by_hand(policy, images, views, 33))
    crops = render_block(images, views[..., :5], size=33, interpolation="bicubic")
    assert torch.equal(block[:, 0], crops[:, 0])  # the canonical view is not mixed
    assert (block[:, 1:] != crops[:, 1:]).float().mean() > 0.1

    # The trainer has one view each of some images, followed by their partners, in any order.
    rng = np.random.default_rng(1)
    chosen, number = rng.permutation(14)[:5], rng.integers(0, 7, 5)
    partners = views[chosen, number, 5].astype(int)
    rows, numbers = np.concatenate([chosen, partners]), np.concatenate([number, number])
    batch = render(images[rows], views[rows, numbers], partners=np.arange(5, 10), **options)
    assert torch.equal(batch, block[chosen, number])


def test_normalised_pixels_are_torchvisions():
    pixels = torch.from_numpy(noise(2, 16, 16)).permute(0, 3, 1, 2)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = tvf.normalize(pixels.to(torch.float32) / 255, mean, std)
    assert torch.equal(normalise(pixels, mean, std), theirs)
    assert torch.equal(normalise(pixels, mean, std, torch.bfloat16), theirs.to(torch.bfloat16))


def test_read_only_arrays_and_no_views_are_welcome(recwarn):
    images, views = noise(2, 16, 16), draw("rrc:1", 2, (16, 16), 8)[:, 0]
    images.setflags(write=False)
    views.setflags(write=False)
    assert render(images, views, size=8, interpolation="bilinear").shape == (2, 3, 8, 8)
    assert render(images, views[:0], size=8, interpolation="bilinear").shape == (0, 3, 8, 8)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interpolation": "cubic"}, "'cubic' is unknown; there are nearest, box, bilinear"),
        ({"images": np.zeros((2, 3, 16, 16), np.uint8)}, "uint8"),
        ({"images": np.zeros((2, 16, 16, 3), np.float32)}, "float32"),
        ({"rows": np.array([0, 2])}, "beyond the 2 that are given"),
        ({"views": np.zeros((2, 5), np.float32)}, "View 0 lies outside"),
        ({"views": np.full((2, 5), np.nan, np.float32)}, "View 0 lies outside"),
        ({"views": np.array([[0, 0, 1, 1, 0], [0.5, 0, 0.6, 1, 0]], np.float32)}, "View 1 lies outside"),
        ({"views": np.array([[0, 0, 1, 1]] * 2, np.float32)}, "components"),
        (
            {
                "views": np.array([[0, 0, 1, 1, 0, 1, 1]] * 2),
                "components": ViewPolicy("rrc", 1, mix="mixup").components,
            },
            "partners",
        ),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(change, said):
    views = np.array([[0, 0, 1, 1, 0]] * 2, np.float32)
    arguments = {"images": noise(2, 16, 16), "views": views, "size": 8, "interpolation": "bilinear"} | change
    with pytest.raises(UsageError, match=said):
        render(arguments.pop("images"), arguments.pop("views"), **arguments)


def test_a_partner_outside_the_block_is_refused():
    views = np.array([[[0, 0, 1, 1, 0, 5, 0.5]]], np.float32)
    components = ViewPolicy("rrc", 1, mix="mixup").components
    with pytest.raises(UsageError, match="Partners"):
        render_block(noise(1, 16, 16), views, size=8, interpolation="bilinear", components=components)
