"""Sampling begins with noise, so it must begin where the model expects noise."""

import pytest

from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.generators.samplers import sampler_named
from dmkd.runtime.progress import Silent
from dmkd.stores import UsageError

DIT = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
    "clip_sample": False,
}  # fmt: skip
STABLE_DIFFUSION = {
    "_class_name": "PNDMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "steps_offset": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "begins", "sees", "fewer", "more"),
    [(350, 698, 8, 333, 367), (501, 500, 28, 500, 732), (700, 699, 8, 500, 732)],
)
def test_ddim_refuses_steps_that_begin_in_the_middle_and_names_the_nearest_that_do_not(
    steps, begins, sees, fewer, more
):
    ddim = sampler_named("ddim")
    message = f"begin at timestep {begins} of 1000, .* {sees}% of the image .* nearest .* are {fewer} and {more} steps"
    with pytest.raises(UsageError, match=message):
        ddim.check_start(DIT, steps)
    for count in (fewer, more):
        ddim.check_start(DIT, count)


@pytest.mark.parametrize("steps", [2, 3, 4, 7, 20, 30, 50, 100, 150, 250, 333, 500, 1000])
@pytest.mark.parametrize("config", [DIT, STABLE_DIFFUSION])
def test_usual_numbers_of_steps_begin_with_noise(config, steps):
    sampler_named("ddim").check_start(config, steps)


def test_other_samplers_and_spacings_begin_at_the_end():
    sampler_named("ddim").check_start({**DIT, "timestep_spacing": "trailing"}, 350)
    for name in ("ddpm", "dpm++", "unipc"):
        sampler_named(name).check_start(DIT, 350)
        assert sampler_named(name).solver(DIT, name == "ddpm").start(350)[0] > 990


def test_a_store_is_not_begun_with_such_steps(tiny_generator, tmp_path):
    options = ImageOptions(str(tiny_generator), 16, sampler="ddim", steps=350, block_size=8)
    with pytest.raises(UsageError, match="--steps 350: ddim would begin at timestep 698"):
        generate(str(tmp_path / "s.zarr"), options, LabelOptions(("none",)), RunOptions(0, "cpu"), Silent())
    assert not (tmp_path / "s.zarr").exists()
