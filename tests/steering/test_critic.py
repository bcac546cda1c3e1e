"""A teacher and a student side by side: what gradients go through, and what images are given."""

import numpy as np
import pytest
import torch

from dmkd.classifiers.classifier import Classifier
from dmkd.steering.critic import AT_ONCE, Climb, Critic
from dmkd.steering.scores import Score, parse_score
from dmkd.stores import DmkdError, UsageError


def classifier(seed=0, size=8, **options):
    """A small, smooth one of three classes."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(6 * size * size, 4)
    )
    fed = {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    return Classifier(
        name=f"c{seed}",
        source="",
        architecture="",
        model=model.eval().requires_grad_(False),
        class_names=None,
        input_size=size,
        fixed_input_size=False,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        sha256=str(seed),
        **{**fed, "num_classes": 3, "outputs": (3, 0, 2), **options},
    )


def noise(count=5, height=8, width=8, seed=0):
    """Uneven images with edges: uint8 (n, H, W, 3)."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8))


def as_pixels(images):
    return images.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "hamming", "box", "nearest"])
@pytest.mark.parametrize(
    ("size", "shape", "crop_pct", "crop_mode"),
    [
        (8, (8, 8), 1.0, "center"),
        (8, (8, 8), 0.875, "center"),
        (8, (20, 20), 1.0, "center"),
        (12, (20, 20), 0.6, "center"),
        (21, (10, 10), 0.9, "center"),
        (9, (16, 24), 0.9, "center"),
        (9, (24, 16), 0.9, "squash"),
        (9, (16, 16), 0.95, "border"),
    ],
)
def test_what_gradients_flow_through_is_the_evaluation_view(size, shape, crop_pct, crop_mode, interpolation):
    """But for the rounding to grey levels after each of two passes."""
    as_seen = classifier(size=size, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode, outputs=None)
    as_seen.model, as_seen.mean, as_seen.std = torch.nn.Flatten(), (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)
    images = noise(4, *shape)
    smooth, rounded = as_seen.differentiable_logits(as_pixels(images)), as_seen.evaluation_logits(images)
    assert smooth.shape == (4, 3 * size * size) and smooth.dtype == torch.float32
    assert float((smooth - rounded).abs().max()) < 1.25 and float(rounded.std()) > 20


def test_pixels_that_need_no_resampling_are_taken_as_they_are():
    one, images = classifier(), noise()
    with torch.no_grad():
        torch.testing.assert_close(
            one.differentiable_logits(as_pixels(images)), one.evaluation_logits(images), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("score", ["kl:4", "kl:1", "entropy", "learnability"])
@pytest.mark.parametrize(("shape", "crop_pct"), [((8, 8), 1.0), ((13, 13), 0.7)])
def test_the_gradient_is_that_of_the_score(score, shape, crop_pct):
    critic = Critic(classifier(0, crop_pct=crop_pct), classifier(1, crop_pct=crop_pct), parse_score(score))
    climb = Climb(critic, torch.tensor([0, 1, 2, 0, 1]), 0.1, (50, 800))
    pixels = 0.3 + 0.4 * as_pixels(noise(3, *shape))
    images = slice(1, 4)
    leaf = pixels.clone().requires_grad_()
    scores = climb.score(leaf, images)
    assert scores.shape == (3,)
    gradient = torch.autograd.grad(scores.sum(), leaf)[0]
    assert (gradient.flatten(1).norm(dim=1) > 0).all(), "it reaches every image"
    for seed in range(4):
        direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
        direction = direction / direction.norm() + gradient / gradient.norm()
        with torch.no_grad():
            there, back = (climb.score(pixels + step * direction, images).double().sum() for step in (0.02, -0.02))
        torch.testing.assert_close((there - back) / 0.04, (gradient * direction).sum().double(), rtol=2e-2, atol=1e-4)


def test_each_image_is_compared_with_the_class_that_it_was_asked_for():
    critic = Critic(classifier(0), classifier(1), parse_score("learnability"))
    pixels = as_pixels(noise(3))
    several = Climb(critic, torch.tensor([0, 1, 2, 2, 1]), 0.1, (0, 999)).score(pixels, slice(2, 5))
    for place, class_id in enumerate([2, 2, 1]):
        alone = Climb(critic, torch.tensor([class_id]), 0.1, (0, 999)).score(pixels[place : place + 1], slice(0, 1))
        torch.testing.assert_close(alone[0], several[place])


def test_a_look_gives_scores_and_whether_the_teacher_sees_the_class():
    teacher, student = classifier(0), classifier(1)
    critic = Critic(teacher, student, parse_score("kl:2"))
    images = noise(AT_ONCE + 7)
    class_ids = torch.arange(len(images)) % 3
    scores, agreed = critic.look(images, class_ids)
    said, heard = teacher.evaluation_logits(images), student.evaluation_logits(images)
    torch.testing.assert_close(scores, critic.score(said, heard, class_ids))
    assert scores.dtype == torch.float32 and not scores.requires_grad
    assert torch.equal(agreed, said.argmax(1) == class_ids) and 0 < int(agreed.sum()) < len(images)


def test_a_score_that_is_not_finite_ends_a_look():
    student = classifier(1)
    student.model[3].bias.data[0] = float("nan")
    with pytest.raises(DmkdError, match="^Score kl:4 of an image is nan: use another --score.$"):
        Critic(classifier(0), student, parse_score(None)).look(noise(), torch.zeros(5, dtype=torch.int64))


def test_a_score_without_a_gradient_can_not_be_climbed():
    counted = Score("own:count", lambda teacher, student, class_ids: (teacher.argmax(1) != class_ids).float())
    climb = Climb(Critic(classifier(0), classifier(1), counted), torch.zeros(5, dtype=torch.int64), 0.1, (0, 999))
    with pytest.raises(
        UsageError, match="^Score own:count has no gradient, so images can't be pushed up it: leave --str"
    ):
        climb.score(as_pixels(noise()).requires_grad_(), slice(0, 5))
