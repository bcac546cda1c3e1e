"""dmkd.generators.sampling against independent implementations, and its promises about noise and guidance."""

import numpy as np
import pytest
import torch

from dmkd.generators.samplers import SAMPLERS, check_steps, sampler_named
from dmkd.generators.samplers.ddpm import ddpm_timesteps
from dmkd.generators.sampling import check_guided_channels, denoise, draw_noise, image_generators
from dmkd.stores.errors import UsageError

SHAPE = (4, 6, 6)
DIT_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": False,
}
BETAS = np.linspace(1e-4, 0.02, 1000)
ALPHAS_CUMPROD = np.cumprod(1 - BETAS)


class ToyDiT(torch.nn.Module):
    """A smooth stand-in for a trained DiT: latents stay of order one; class, timestep and place in the latent count."""

    def __init__(self, learned_sigma: bool = True) -> None:
        super().__init__()
        self.learned_sigma = learned_sigma
        self.calls: list[tuple[int, torch.dtype, list[int]]] = []  # rows, dtype of the input, class ids

    def forward(self, x, timestep, class_labels, return_dict):
        self.calls.append((len(x), x.dtype, class_labels.tolist()))
        tables = torch.tensor(np.sqrt(1 - ALPHAS_CUMPROD), dtype=torch.float32)
        y = class_labels.float()[:, None, None, None]
        channel = torch.arange(4)[None, :, None, None]
        eps = x * tables[timestep][:, None, None, None] + 0.2 * torch.sin(2 * x + 0.3 * y + channel)
        variance = torch.cos(3 * x + y)  # in [-1, 1] as DiT's, and beyond the class's
        return (torch.cat([eps, variance], 1) if self.learned_sigma else eps,)


def spaced_diffusion(model, x, noises, class_ids, *, steps, guidance, null_class, learned_sigma):
    """DiT's p_sample_loop with forward_with_cfg in float64, written from the formulas (Nichol & Dhariwal 2021).

    ``noises``: (steps, n, C, h, w), one a step in the order of sampling.
    """
    stride, visited, position = 999 / (steps - 1), [], 0.0
    for _ in range(steps):
        visited.append(round(position))
        position += stride
    kept = ALPHAS_CUMPROD[visited]
    betas = 1 - kept / np.append(1.0, kept[:-1])
    alphas_bar = np.cumprod(1 - betas)
    before = np.append(1.0, alphas_bar[:-1])
    posterior_variance = betas * (1 - before) / (1 - alphas_bar)
    posterior_log_variance_clipped = np.log(np.append(posterior_variance[1], posterior_variance[1:]))
    coefficient_x0 = betas * np.sqrt(before) / (1 - alphas_bar)
    coefficient_xt = (1 - before) * np.sqrt(1 - betas) / (1 - alphas_bar)

    n, x = len(x), x.astype(np.float64)
    labels = torch.tensor([*class_ids, *[null_class] * n])
    for noise, i in zip(noises, reversed(range(steps)), strict=True):
        both = torch.tensor(np.concatenate([x, x]), dtype=torch.float32)
        output = model(both, torch.full((2 * n,), visited[i]), labels, False)[0].double().numpy()
        guided, rest = output[:, :3], output[:, 3:]
        eps = np.concatenate([guided[n:] + guidance * (guided[:n] - guided[n:]), rest[:n]], 1)
        if learned_sigma:
            eps, variance = eps[:, :4], eps[:, 4:]
            fraction = (variance + 1) / 2
            log_variance = fraction * np.log(betas[i]) + (1 - fraction) * posterior_log_variance_clipped[i]
        else:
            log_variance = np.log(np.append(posterior_variance[1], betas[1:]))[i]
        x0 = np.sqrt(1 / alphas_bar[i]) * x - np.sqrt(1 / alphas_bar[i] - 1) * eps
        x = coefficient_x0[i] * x0 + coefficient_xt[i] * x + (i > 0) * np.exp(0.5 * log_variance) * noise
    return x


def make_solver(sampler, scheduler_config, learned_sigma):
    return sampler_named(sampler).solver(scheduler_config, learned_sigma)


def default_guided_channels(sampler, latent_channels=4):
    return sampler_named(sampler).guided_channels(latent_channels)


def check_sampling(sampler, steps, num_train_timesteps):
    check_steps(sampler, steps, sampler_named(sampler).steps(num_train_timesteps))


def run(
    model, seeds, class_ids, *, sampler, steps=10, guidance=2.0, guided_channels=None, dtype=torch.float32, **config
):
    generators = image_generators(seeds)
    return denoise(
        model,
        make_solver(sampler, {**DIT_SCHEDULER, **config}, model.learned_sigma),
        draw_noise(generators, SHAPE),
        torch.tensor(class_ids),
        generators,
        steps=steps,
        guidance=guidance,
        guided_channels=guided_channels or default_guided_channels(sampler),
        null_class=7,
        dtype=dtype,
    )


@pytest.mark.parametrize("learned_sigma", [True, False])
@pytest.mark.parametrize("steps", [2, 21, 100, 250])
def test_ddpm_is_dits_spaced_diffusion(steps, learned_sigma):
    model, seeds, class_ids = ToyDiT(learned_sigma), [3, 4], [1, 5]
    noises = [[torch.randn(1, *SHAPE, generator=g) for _ in range(steps)] for g in image_generators(seeds)]
    start, *later = torch.stack([torch.cat(images) for images in noises], 1).numpy()
    later.append(np.full_like(start, 1e6))  # the last step adds none
    expected = spaced_diffusion(
        model, start, later, class_ids, steps=steps, guidance=2.0, null_class=7, learned_sigma=learned_sigma
    )
    latents = run(model, seeds, class_ids, sampler="ddpm", steps=steps)
    scale = np.abs(expected).max()
    assert 1 < scale < 100
    # diffusers' own float32 tables are off by 5e-6 to 1e-5 of the scale.
    assert np.abs(latents.numpy() - expected).max() < 2e-6 * scale


def test_ddpm_visits_both_ends_and_dits_side_of_a_tie():
    assert ddpm_timesteps(1000, 4) == [999, 666, 333, 0]
    assert ddpm_timesteps(1000, 1000) == list(range(999, -1, -1))
    # Half-way between two timesteps DiT's running sum and a rounded linspace may part.
    assert ddpm_timesteps(1000, 21) != np.linspace(999, 0, 21).round().astype(int).tolist()
    for steps in (100, 150, 200, 250):  # what DM-KD used
        assert ddpm_timesteps(1000, steps) == np.linspace(999, 0, steps).round().astype(int).tolist()


@pytest.mark.parametrize(
    ("sampler", "solver"), [("dpm++", "DPMSolverMultistepScheduler"), ("unipc", "UniPCMultistepScheduler")]
)
def test_multistep_solvers_are_diffusers_as_their_documentation_sets_them_up_for_dit(sampler, solver):
    import diffusers

    model, seeds, class_ids = ToyDiT(), [8, 9], [0, 3]
    scheduler = getattr(diffusers, solver).from_config({k: v for k, v in DIT_SCHEDULER.items() if k[0] != "_"})
    scheduler.set_timesteps(12)
    x = draw_noise(image_generators(seeds), SHAPE)
    if sampler == "unipc":  # our own: diffusers in float64 is nearer to it than diffusers in float32 is (2e-6)
        scheduler.sigmas, x = scheduler.sigmas.double(), x.double()
    for t in scheduler.timesteps:
        conditional = model(x.float(), t.expand(2), torch.tensor(class_ids), False)[0][:, :4]
        unconditional = model(x.float(), t.expand(2), torch.tensor([7, 7]), False)[0][:, :4]
        eps = unconditional + 2.0 * (conditional - unconditional)
        x = scheduler.step(eps.to(x.dtype), t, x).prev_sample
    torch.testing.assert_close(run(model, seeds, class_ids, sampler=sampler, steps=12), x.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_unipc_is_diffusers_in_float64_for_every_prediction_type(steps, prediction_type):
    from diffusers import UniPCMultistepScheduler

    # With outputs that don't depend on the latents a step is linear, and no model blows rounding errors up.
    outputs = torch.randn(steps, 2, *SHAPE, generator=torch.Generator().manual_seed(1))
    solver = make_solver("unipc", {**DIT_SCHEDULER, "prediction_type": prediction_type}, True)
    reference = UniPCMultistepScheduler(beta_start=1e-4, beta_end=0.02, prediction_type=prediction_type)
    reference.set_timesteps(steps)
    reference.sigmas = reference.sigmas.double()
    x = draw_noise(image_generators([1, 2]), SHAPE)
    expected = x.double()
    assert solver.start(steps) == reference.timesteps.tolist()
    for step, t in enumerate(reference.timesteps):
        x = solver.step(step, outputs[step], x)
        expected = reference.step(outputs[step].double(), t, expected).prev_sample
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), expected, rtol=1e-6, atol=2e-6 * expected.abs().max().item())


def test_dpmpp_does_not_take_the_spacing_of_a_saved_ddim_scheduler():
    plain = run(ToyDiT(), [1], [2], sampler="dpm++")
    assert torch.equal(run(ToyDiT(), [1], [2], sampler="dpm++", timestep_spacing="leading"), plain)
    # DDIM does: it is the pipeline's own.
    ddim = run(ToyDiT(), [1], [2], sampler="ddim")
    assert not torch.equal(run(ToyDiT(), [1], [2], sampler="ddim", timestep_spacing="trailing"), ddim)


def test_ddim_does_not_clip_latents_when_the_pipelines_scheduler_never_did():
    config = {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 2}
    assert not make_solver("ddim", config, True).scheduler.config.clip_sample
    assert make_solver("ddim", {"_class_name": "DDIMScheduler", "clip_sample": True}, True).scheduler.config.clip_sample


@pytest.mark.parametrize("steps", [1, 10, 999])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_number_of_steps_that_passes_the_check_gives_finite_latents(sampler, steps):
    try:
        check_sampling(sampler, steps, 1000)
    except UsageError:
        assert (sampler, steps) == ("ddpm", 1)
        return
    assert torch.isfinite(run(ToyDiT(), [1], [2], sampler=sampler, steps=steps)).all()


class RecordingSolver:
    """Keeps what it is given for a step and leaves the latents alone."""

    num_train_timesteps = 1000

    def __init__(self, learned_variance=False):
        self.learned_variance = learned_variance
        self.outputs = []

    def start(self, steps):
        return [500]

    def draws_noise(self, step):
        return False

    def step(self, step, output, latents, noise):
        self.outputs.append(output)
        return latents


class ConstantDiT(torch.nn.Module):
    """Output channel c of class y is 10 * c + y: what is mixed into what can be read off."""

    def forward(self, x, timestep, class_labels, return_dict):
        y = class_labels.float()[:, None, None, None]
        return ((10 * torch.arange(8.0)[None, :, None, None] + y).expand(len(x), 8, *x.shape[2:]),)


def constant_output(guided_channels, guidance, learned_variance=False):
    solver = RecordingSolver(learned_variance)
    generators = image_generators([0])
    options = {"steps": 1, "guidance": guidance, "guided_channels": guided_channels, "null_class": 9}
    noise = draw_noise(generators, SHAPE)
    denoise(ConstantDiT(), solver, noise, torch.tensor([2]), generators, dtype=torch.float32, **options)
    return solver.outputs[0][0, :, 0, 0].tolist()


def test_guidance_acts_on_the_first_channels_and_the_rest_is_the_conditional_halfs():
    guided = 9 + 3 * (2 - 9)  # unconditional + guidance * (conditional - unconditional)
    expected = [guided, 10 + guided, 20 + guided, 32, 42, 52, 62, 72]
    assert constant_output(3, 3.0, True) == expected
    assert constant_output(4, 3.0, True)[3] == 30 + guided
    # Samplers without learned variances never see them.
    assert constant_output(3, 3.0) == expected[:4]
    assert constant_output(3, 1.0) == [2, 12, 22, 32]


def test_each_image_can_have_its_own_guidance():
    together = run(ToyDiT(), [1, 2], [4, 5], sampler="ddim", guidance=torch.tensor([1.5, 3.0]))
    for place, scale in enumerate((1.5, 3.0)):
        alone = run(ToyDiT(), [1, 2], [4, 5], sampler="ddim", guidance=scale)
        assert torch.equal(together[place], alone[place])


def test_outside_its_interval_guidance_really_runs_at_half_the_batch():
    model = ToyDiT()
    start, generators = draw_noise(image_generators([1, 2]), SHAPE), image_generators([1, 2])
    solver = make_solver("ddim", {**DIT_SCHEDULER, "timestep_spacing": "leading"}, True)
    options = {"steps": 10, "guidance": 2.0, "guided_channels": 4, "null_class": 7, "dtype": torch.float32}
    interval = (0.1, 0.3)
    denoise(model, solver, start, torch.tensor([4, 5]), generators, guidance_interval=interval, **options)
    rows = [rows for rows, _, _ in model.calls]  # at t = 900, 800, ... 0
    assert rows == [2, 2, 2, 2, 2, 2, 4, 4, 4, 2]
    everywhere = run(ToyDiT(), [1, 2], [4, 5], sampler="ddim", guided_channels=4, timestep_spacing="leading")
    same = denoise(ToyDiT(), solver, start, torch.tensor([4, 5]), generators, guidance_interval=(0, 1), **options)
    assert torch.equal(everywhere, same)


def test_guidance_one_leaves_out_the_unconditional_half():
    model = ToyDiT()
    run(model, [1, 2, 3], [4, 5, 6], sampler="ddim", steps=2, guidance=1.0)
    assert [(rows, classes) for rows, _, classes in model.calls] == [(3, [4, 5, 6])] * 2
    model.calls.clear()
    run(model, [1, 2, 3], [4, 5, 6], sampler="ddim", steps=2, guidance=1.5)
    assert [(rows, classes) for rows, _, classes in model.calls] == [(6, [4, 5, 6, 7, 7, 7])] * 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_latents_stay_float32_over_half_precision_weights(sampler):
    model = ToyDiT()
    latents = run(model, [1, 2], [4, 5], sampler=sampler, dtype=torch.bfloat16)
    assert latents.dtype == torch.float32
    assert {dtype for _, dtype, _ in model.calls} == {torch.bfloat16}
    # They would be multiples of 2^-8 and so on if they had been bfloat16 after any step.
    assert not torch.equal(latents, latents.bfloat16().float())


def test_noise_of_an_image_does_not_depend_on_its_batch():
    together = draw_noise(image_generators([10, 11, 12]), SHAPE)
    assert together.dtype == torch.float32
    assert torch.equal(together[1:2], draw_noise(image_generators([11]), SHAPE))
    assert torch.equal(together[[1]], torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(11)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch_even_alone(sampler):
    three = run(ToyDiT(), [10, 11, 12], [1, 2, 3], sampler=sampler)
    one = run(ToyDiT(), [11], [2], sampler=sampler)
    torch.testing.assert_close(three[1:2], one, rtol=0, atol=1e-5)  # batches of other sizes round differently
    assert torch.equal(run(ToyDiT(), [12, 0, 11], [3, 0, 2], sampler=sampler)[[2, 0]], three[[1, 2]])


def test_only_ddpm_draws_noise_after_the_first():
    for sampler in SAMPLERS:
        generators = image_generators([5])
        noise = draw_noise(generators, SHAPE)
        before = generators[0].get_state()
        options = {"steps": 4, "guidance": 1.0, "guided_channels": 4, "null_class": 7, "dtype": torch.float32}
        solver = make_solver(sampler, DIT_SCHEDULER, True)
        denoise(ToyDiT(), solver, noise, torch.tensor([1]), generators, **options)
        assert torch.equal(generators[0].get_state(), before) == (sampler != "ddpm")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_solver_can_be_used_again(sampler):
    solver = make_solver(sampler, DIT_SCHEDULER, True)

    def once(steps):
        generators = image_generators([5, 6])
        options = {"steps": steps, "guidance": 2.0, "guided_channels": 3, "null_class": 7, "dtype": torch.float32}
        noise = draw_noise(generators, SHAPE)
        return denoise(ToyDiT(), solver, noise, torch.tensor([1, 2]), generators, **options)

    first = once(5)
    once(8)
    assert torch.equal(once(5), first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("euler", 10, 1000), "ddpm, ddim, dpm++, unipc"),
        (("ddim", 0, 1000), "1 to 1000 steps"),
        (("ddim", 1001, 1000), "1 to 1000 steps"),
        (("ddpm", 1, 1000), "2 to 1000 steps"),
        (("dpm++", 1000, 1000), "1 to 999 steps"),
        (("unipc", 1000, 1000), "1 to 999 steps"),
    ],
)
def test_options_out_of_range_are_refused_in_one_sentence(arguments, message):
    with pytest.raises(UsageError) as caught:
        check_sampling(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_in_range_pass():
    for sampler, steps in (("ddpm", 1000), ("ddim", 1000), ("dpm++", 999), ("ddim", 1), ("dpm++", 1)):
        check_sampling(sampler, steps, 1000)
    check_guided_channels(4, 4)


@pytest.mark.parametrize("guided_channels", [0, 5])
def test_guided_channels_out_of_range_are_refused(guided_channels):
    with pytest.raises(UsageError, match="1 to 4"):
        check_guided_channels(guided_channels, 4)


def test_dmkd_guides_three_channels_and_diffusers_all():
    assert [default_guided_channels(sampler) for sampler in SAMPLERS] == [3, 4, 4, 4]
    assert default_guided_channels("ddim", 16) == 16


@pytest.mark.parametrize("seed", [2**32, -1])
def test_seeds_that_torch_would_fold_onto_others_are_refused(seed):
    with pytest.raises(UsageError, match=f"seed {seed} "):
        image_generators([0, seed])
    assert torch.equal(  # the reason
        torch.randn(20, generator=torch.Generator().manual_seed(1)),
        torch.randn(20, generator=torch.Generator().manual_seed(1 + 2**32)),
    )
