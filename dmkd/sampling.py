"""From noise to latents: our own loop over diffusers' scheduler objects.

Why not ``DiTPipeline``: it passes no generator to ``scheduler.step`` (the noise of stochastic samplers would depend on the
batch), takes 1000 for the null class whatever the model, guides all latent channels where DiT guides three, and keeps
latents in the weights' dtype.

Samplers:

``ddpm``    respaced ancestral sampling as in DiT's ``SpacedDiffusion.p_sample_loop`` (github.com/facebookresearch/DiT,
            ``diffusion/``; Nichol & Dhariwal 2021), which DM-KD used with 100 steps
``ddim``    DDIM, eta = 0 (Song et al. 2021), with the pipeline's own spacing, as ``DiTPipeline`` samples
``dpm++``   DPM-Solver++(2M) (Lu et al. 2022): the fewest steps
``unipc``   UniPC of order 2 (Zhao et al. 2023): a predictor and a corrector at the same cost
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dmkd.stores.errors import UsageError

SAMPLERS = ("ddpm", "ddim", "dpm++", "unipc")


def default_guided_channels(sampler: str, latent_channels: int = 4) -> int:
    """How many of the latent channels are guided unless told.

    ``ddpm``: the first three, as in DiT's ``forward_with_cfg`` and hence in DM-KD's images; else all, as in diffusers.
    The same guidance scale makes other images with three channels than with four.
    """
    return min(3, latent_channels) if sampler == "ddpm" else latent_channels


def check_sampling(sampler: str, steps: int, num_train_timesteps: int) -> None:
    """Raise ``UsageError`` unless the generator can be sampled this way."""
    if sampler not in SAMPLERS:
        raise UsageError(f"There is no sampler {sampler!r}; the samplers are {', '.join(SAMPLERS)}.")
    # DiT's spacing for one step is timestep 0, where noise is taken for a finished image. DPM-Solver++ and UniPC put
    # steps + 1 points on the training timesteps: two would coincide, and a step of length zero divides by zero.
    fewest = 2 if sampler == "ddpm" else 1
    most = num_train_timesteps - 1 if sampler in ("dpm++", "unipc") else num_train_timesteps
    if not fewest <= steps <= most:
        raise UsageError(f"{steps} steps: with this generator the sampler {sampler} takes {fewest} to {most} steps.")


def check_guided_channels(guided_channels: int, latent_channels: int) -> None:
    """Raise ``UsageError`` unless the generator's latents have that many channels to guide."""
    if not 1 <= guided_channels <= latent_channels:
        raise UsageError(f"{guided_channels} guided channels: this generator's latents have 1 to {latent_channels}.")


def ddpm_timesteps(num_train_timesteps: int, steps: int) -> list[int]:
    """The training timesteps that ``ddpm`` visits, descending, both ends included.

    DiT's ``space_timesteps`` with its running sum: where the sum is half-way between two timesteps, rounding a linspace
    (diffusers) gives the other one, which happens for 278 of the step counts up to 1000, though not for 100 or 250.
    """
    stride = (num_train_timesteps - 1) / (steps - 1) if steps > 1 else 1.0
    position, visited = 0.0, []
    for _ in range(steps):
        visited.append(round(position))
        position += stride
    return visited[::-1]


def make_scheduler(sampler: str, scheduler_config: Mapping[str, Any], learned_sigma: bool) -> Any:
    """A diffusers scheduler for ``denoise``, with the noise schedule (betas, prediction type) of the pipeline's own.

    ``scheduler_config`` is the pipeline's ``scheduler_config.json``; ``learned_sigma`` says whether the transformer
    predicts variances beside the noise (twice as many channels out as in).
    """
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

    if sampler == "ddpm":
        # DiT without learned variances uses FIXED_LARGE (create_diffusion: sigma_small=False).
        scheduler: Any = DDPMScheduler(
            **_noise_schedule(scheduler_config, DDPMScheduler),
            variance_type="learned_range" if learned_sigma else "fixed_large",
            clip_sample=False,
            thresholding=False,
        )
        # diffusers multiplies the alphas up in float32, and 1 - alpha_t / alpha_s then has four good digits at small t:
        # 4e-5 off DiT's float64 tables over a trajectory, 2e-6 with this. Scalars leave float32 latents float32.
        scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
        return scheduler
    if sampler == "ddim":
        own = scheduler_config.get("_class_name") == "DDIMScheduler"
        known = _parameters(DDIMScheduler)
        options = {key: value for key, value in scheduler_config.items() if key in known}
        if not own:  # diffusers would clip to [-1, 1] unless told: right for pixels, wrong for latents
            options.setdefault("clip_sample", False)
        return DDIMScheduler(**options)
    if sampler == "dpm++":
        # The spacing is the solver's own: "leading", which a saved DDIM scheduler hands on, would start at t = 909 of
        # 1000 with ten steps. variance_type stays unset: with it the solver cuts the model's output to three channels.
        return DPMSolverMultistepScheduler(
            **_noise_schedule(scheduler_config, DPMSolverMultistepScheduler),
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
            timestep_spacing="linspace",
            lower_order_final=True,
            final_sigmas_type="zero",
        )
    if sampler == "unipc":
        return UniPCMultistepScheduler(
            **_noise_schedule(scheduler_config, UniPCMultistepScheduler),
            solver_order=2,
            timestep_spacing="linspace",
            lower_order_final=True,
            final_sigmas_type="zero",
        )
    raise UsageError(f"There is no sampler {sampler!r}; the samplers are {', '.join(SAMPLERS)}.")


def sampling_timesteps(sampler: str, scheduler_config: Mapping[str, Any], learned_sigma: bool, steps: int) -> list[int]:
    """The training timesteps at which the model is asked, descending."""
    scheduler = make_scheduler(sampler, scheduler_config, learned_sigma)
    _set_timesteps(scheduler, steps)
    return scheduler.timesteps.tolist()


def image_generators(seeds: torch.Tensor | Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each image, from seeds int64 (n,) in [0, 2^32).

    torch's CPU generator uses the low 32 bits of its seed: ``manual_seed(1)`` and ``manual_seed(1 + 2**32)`` draw the
    same numbers, so larger seeds are refused.
    """
    numbers = [int(seed) for seed in seeds]
    for seed in numbers:
        if not 0 <= seed < 2**32:
            raise UsageError(f"Image seed {seed} is out of range: torch's CPU generator tells 0 to 2^32 - 1 apart.")
    return [torch.Generator().manual_seed(seed) for seed in numbers]


def draw_noise(generators: Sequence[torch.Generator], latent_shape: tuple[int, int, int]) -> torch.Tensor:
    """Each image's initial noise from its own generator: float32 (n, C, h, w) on the CPU, so the same for every device."""
    return torch.cat([torch.randn((1, *latent_shape), generator=generator) for generator in generators])


@torch.no_grad()
def denoise(
    transformer: torch.nn.Module,
    scheduler: Any,
    noise: torch.Tensor,
    class_ids: torch.Tensor,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    guidance: float | torch.Tensor,
    guided_channels: int,
    null_class: int,
    dtype: torch.dtype,
    guidance_interval: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Noise, float32 (n, C, h, w), and class ids, int64 (n,), to latents, float32 (n, C, h, w), on ``noise``'s device.

    ``transformer`` is a ``DiTTransformer2DModel`` in eval mode with weights of ``dtype``; latents and steps are float32
    whatever that is. ``scheduler`` comes from ``make_scheduler``, ``generators`` from ``image_generators``: the noise of
    stochastic steps is drawn from each image's own, so it does not depend on the other images of the batch.

    Classifier-free guidance as in DiT's ``forward_with_cfg``: eps = uncond + guidance * (cond - uncond) in the first
    ``guided_channels`` channels; the other ones, and predicted variances, are the conditional half's. ``guidance`` is one
    scale, or float (n,), one for each image. With guidance 1, and outside ``guidance_interval`` (shares of the training
    timesteps: Kynkäänniemi et al. 2024), the unconditional half is not computed.
    """
    n, channels = noise.shape[:2]
    device = noise.device
    scale = torch.as_tensor(guidance, dtype=torch.float32)
    ever_guided = bool((scale != 1).any())
    scale = scale.reshape(-1, 1, 1, 1).to(device)
    low, high = guidance_interval or (0.0, 1.0)
    learned_range = scheduler.config.get("variance_type") == "learned_range"
    _set_timesteps(scheduler, steps)

    # The scheduler's timesteps stay on the CPU and are plain numbers below: its tables are there too, and a number from
    # the device would make the CPU wait for it. The model gets all of them from one tensor on the device.
    timesteps = scheduler.timesteps.tolist()
    model_timesteps = torch.tensor(timesteps, device=device)
    own_classes = class_ids.to(device)
    both_classes = torch.cat([own_classes, torch.full_like(own_classes, null_class)])
    num_train_timesteps = scheduler.config["num_train_timesteps"]

    # UniPC's step takes no generator: it draws nothing.
    takes_noise = "generator" in inspect.signature(scheduler.step).parameters
    own_noise = {"generator": list(generators)} if takes_noise else {}

    latents = noise.float()
    for step, timestep in enumerate(timesteps):
        guided = ever_guided and low <= timestep / num_train_timesteps <= high
        rows = torch.cat([latents, latents]) if guided else latents
        output = transformer(
            rows.to(dtype),
            timestep=model_timesteps[step].expand(len(rows)),
            class_labels=both_classes if guided else own_classes,
            return_dict=False,
        )[0].float()
        if guided:
            conditional, unconditional = output[:n], output[n:, :guided_channels]
            eps = unconditional + scale * (conditional[:, :guided_channels] - unconditional)
            output = torch.cat([eps, conditional[:, guided_channels:]], dim=1)
        if not learned_range:
            output = output[:, :channels]
        latents = scheduler.step(output, timestep, latents, return_dict=False, **own_noise)[0]
    return latents


def _set_timesteps(scheduler: Any, steps: int) -> None:
    """Put a scheduler at the start of a trajectory; what it kept of the last one is dropped."""
    if type(scheduler).__name__ == "DDPMScheduler":
        scheduler.set_timesteps(timesteps=ddpm_timesteps(scheduler.config["num_train_timesteps"], steps))
    else:
        scheduler.set_timesteps(steps)


def _parameters(scheduler_class: type) -> set[str]:
    return set(inspect.signature(scheduler_class.__init__).parameters) - {"self"}  # type: ignore[misc]


def _noise_schedule(config: Mapping[str, Any], scheduler_class: type) -> dict[str, Any]:
    """The part of a scheduler's configuration that the model was trained with."""
    trained_with = {
        "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
        "rescale_betas_zero_snr",
    }  # fmt: skip
    known = trained_with & _parameters(scheduler_class)
    return {key: value for key, value in config.items() if key in known}
