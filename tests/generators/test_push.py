"""Pushing images up a score while they are sampled: what moves, what must not, and by how much."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.generators import dit
from dmkd.generators.load import load_generator
from dmkd.generators.samplers import SAMPLERS, sampler_named
from dmkd.generators.samplers.solver import as_prediction, predicted_noise, predicted_x0
from dmkd.generators.sampling import Push

SEEDS, CLASS_IDS = [3, 1, 4, 15], [0, 5, 9, 2]
EVERYWHERE = (0, 999)


@dataclass
class Linear:
    """A score that is linear in the pixels, of each image with weights of its own."""

    strength: float = 0.3
    window: tuple[int, int] = EVERYWHERE
    asked: list[slice] = field(default_factory=list)

    def score(self, pixels, images):
        assert pixels.dtype == torch.float32 and bool(((pixels >= 0) & (pixels <= 1)).all())
        self.asked.append(images)
        return (pixels * self.weights[images]).sum((1, 2, 3))

    @property
    def weights(self):
        return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).cumsum(2) / 100


class Flat(Linear):
    """A score that nothing changes."""

    def score(self, pixels, images):
        return (pixels * 0).sum((1, 2, 3))


@pytest.fixture(scope="module")
def generator(tiny_generator):
    return load_generator(str(tiny_generator), dtype="float32", device="cpu")


def latents(generator, steer=None, *, sampler="ddim", steps=6, seeds=SEEDS, class_ids=CLASS_IDS, guidance=1.0):
    guided_channels = sampler_named(sampler).guided_channels(4)
    return generator.latents(
        class_ids,
        seeds,
        sampler=sampler,
        steps=steps,
        guidance=guidance,
        guided_channels=guided_channels,
        steer=steer,
    )


def scores(generator, steer, **options):
    """Of the images that are made with it: float32 (n,)."""
    with torch.no_grad():
        return steer.score(generator.decode(latents(generator, steer, **options)), slice(0, 4))


@pytest.fixture(params=["epsilon", "v_prediction", "sample"])
def predicting(request, generator, monkeypatch):
    """The generator, as one that predicts this."""
    monkeypatch.setitem(generator.scheduler_config, "prediction_type", request.param)
    return generator


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_harder_push_gives_a_higher_score(generator, sampler):
    found = torch.stack([scores(generator, Linear(strength), sampler=sampler) for strength in (0.0, 0.1, 0.2, 0.4)])
    assert (found.diff(dim=0) > 0).all(), found


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_whatever_is_predicted_the_last_steps_push_gives_a_higher_score(predicting, sampler):
    """After it the model has no say."""
    timesteps = sampler_named(sampler).solver(predicting.scheduler_config, predicting.info.learned_sigma).start(6)
    last = (timesteps[-1], timesteps[-1])
    gained = scores(predicting, Linear(0.05, last), sampler=sampler) - scores(
        predicting, Linear(0.0, last), sampler=sampler
    )
    assert (gained > 0).all(), gained


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_outside_the_window_nothing_changes(generator, sampler):
    steer = Linear(5.0, (997, 998))
    plain = latents(generator, sampler=sampler)
    assert torch.equal(latents(generator, steer, sampler=sampler), plain)
    assert not steer.asked, "and nothing is differentiated"
    assert not torch.equal(latents(generator, Linear(0.1, (0, 200)), sampler=sampler), plain)


def test_both_ends_of_the_window_are_in_it(generator):
    timesteps = sampler_named("ddim").solver(generator.scheduler_config, True).start(6)
    steer = Linear(0.1, (timesteps[4], timesteps[2]))
    latents(generator, steer)
    assert len(steer.asked) == 3


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_push_of_no_strength_is_none(predicting, sampler):
    pushed, plain = latents(predicting, Linear(0.0), sampler=sampler), latents(predicting, sampler=sampler)
    if predicting.scheduler_config["prediction_type"] == "epsilon":
        torch.testing.assert_close(pushed, plain, rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(pushed, plain, rtol=1e-2, atol=1e-2)


def test_where_there_is_no_gradient_nothing_is_pushed(generator):
    torch.testing.assert_close(latents(generator, Flat(5.0)), latents(generator), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_an_image_is_pushed_as_if_it_were_alone(generator, sampler):
    """In a sub-batch of the same size, whichever the other images are."""
    seeds, class_ids = [3, 7, 4, 8], [0, 1, 9, 1]
    here = latents(generator, Linear(), sampler=sampler)
    there = latents(generator, Linear(), sampler=sampler, seeds=seeds, class_ids=class_ids)
    assert torch.equal(here[[0, 2]], there[[0, 2]]) and not torch.equal(here[[1, 3]], there[[1, 3]])


def test_the_push_comes_after_guidance_and_variances_are_left_alone(generator, monkeypatch):
    seen = []

    class Spy(Push):
        def applied(self, timestep, output, latents):
            pushed = super().applied(timestep, output, latents)
            seen.append((output, pushed))
            return pushed

    monkeypatch.setattr(dit, "Push", Spy)
    latents(generator, Linear(0.5), sampler="ddpm", steps=4, guidance=3.0)
    assert len(seen) == 4
    for output, pushed in seen:
        assert output.shape == (4, 4, 8, 8), "each image once, without its variances"
        sizes = (pushed - output).flatten(1).norm(dim=1) / output.flatten(1).norm(dim=1)
        torch.testing.assert_close(sizes, torch.full((4,), 0.5), rtol=1e-3, atol=0)


def test_few_images_at_a_time_are_differentiated_and_it_makes_no_difference(generator, monkeypatch):
    whole, steer = latents(generator, Linear()), Linear()
    monkeypatch.setattr(dit, "_DIFFERENTIATED_PIXELS", 3 * 32 * 32)
    torch.testing.assert_close(latents(generator, steer), whole, rtol=1e-3, atol=1e-3)
    assert steer.asked[:2] == [slice(0, 3), slice(3, 6)]


def test_pushing_leaves_no_gradient_in_the_models(generator):
    latents(generator, Linear())
    parameters = [*generator.transformer.parameters(), *generator.vae.parameters()]
    assert not any(one.requires_grad or one.grad is not None for one in parameters)


@settings(deadline=None)
@given(
    prediction_type=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_a_noise_is_written_as_the_prediction_that_implies_it(prediction_type, share, seed):
    rng = np.random.default_rng(seed)
    noise, x0 = (torch.from_numpy(rng.normal(size=(2, 4, 3, 3))) for _ in range(2))
    alpha, sigma = share**0.5, (1 - share) ** 0.5
    noisy = alpha * x0 + sigma * noise
    written = as_prediction(prediction_type, noise, noisy, alpha, sigma)
    torch.testing.assert_close(predicted_noise(prediction_type, written, noisy, alpha, sigma), noise)
    torch.testing.assert_close(predicted_x0(prediction_type, written, noisy, alpha, sigma), x0)
    expected = {"epsilon": noise, "sample": x0, "v_prediction": alpha * noise - sigma * x0}[prediction_type]
    torch.testing.assert_close(written, expected)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_push_is_a_share_of_the_noise_along_the_gradient(prediction_type):
    gradient_at = []

    def gradient(x0):
        gradient_at.append(x0)
        return torch.full_like(x0, 7.0) * torch.arange(1, 3)[:, None, None, None]

    rng = np.random.default_rng(0)
    noise, x0 = (torch.from_numpy(rng.normal(size=(2, 4, 3, 3))) for _ in range(2))
    noisy = 0.6 * x0 + 0.8 * noise
    output = as_prediction(prediction_type, noise, noisy, 0.6, 0.8)
    push = Push(Linear(0.25, (10, 20)), gradient, [0.36] * 30, prediction_type)
    pushed = predicted_noise(prediction_type, push.applied(20, output, noisy), noisy, 0.6, 0.8)
    along = torch.full((4, 3, 3), 1 / 6, dtype=torch.float64)  # of length 1
    for one, was in zip(pushed, noise, strict=True):
        torch.testing.assert_close(one, was - 0.25 * was.norm() * along)
    torch.testing.assert_close(gradient_at[0], x0)
    assert push.applied(21, output, noisy) is output and push.applied(9, output, noisy) is output
