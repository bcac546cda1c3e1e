"""``ddpm``: respaced ancestral sampling as in DiT's ``SpacedDiffusion.p_sample`` (github.com/facebookresearch/DiT,
``diffusion/``; Nichol & Dhariwal 2021), which DM-KD used with 100 steps.

Our own: diffusers copies each step's noise while the CPU waits.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dmkd.generators.samplers.sampler import Sampler
from dmkd.generators.samplers.solver import noise_schedule, predicted_x0

if TYPE_CHECKING:
    import torch


class DdpmSampler(Sampler):
    name = "ddpm"
    remark = "DM-KD's"
    adds_noise = True

    def steps(self, num_train_timesteps: int) -> tuple[int, int]:
        # DiT's spacing for one step is timestep 0, where noise would be taken for a finished image.
        return 2, num_train_timesteps

    def guided_channels(self, latent_channels: int) -> int:
        """The first three, as in DiT's ``forward_with_cfg`` and hence in DM-KD's images.

        The same guidance scale makes different images with three channels and with four.
        """
        return min(3, latent_channels)

    def solver(self, scheduler_config: Mapping[str, Any], learned_sigma: bool) -> "Ancestral":
        return Ancestral(scheduler_config, learned_sigma)


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


class _AncestralStep(NamedTuple):
    """The numbers of one step of ``Ancestral``."""

    sqrt_alpha_bar: float
    sqrt_one_minus_alpha_bar: float
    of_x0: float  # coefficients of the posterior's mean
    of_latents: float
    largest_log_variance: float  # log beta
    smallest_log_variance: float  # log of the posterior's variance


class Ancestral:
    """DiT's ``p_sample``: x' = mean of q(x' | x, x0) + sigma * noise, with the variance learned, or beta (fixed large)."""

    def __init__(self, scheduler_config: Mapping[str, Any], learned_variance: bool) -> None:
        import torch
        from diffusers import DDPMScheduler

        schedule = DDPMScheduler(**noise_schedule(scheduler_config, DDPMScheduler))  # only for its betas
        # diffusers multiplies the alphas up in float32, and 1 - alpha_t / alpha_s then has four good digits at small t:
        # 4e-5 off DiT's float64 tables over a trajectory.
        self.alphas_bar = torch.cumprod(1 - schedule.betas.double(), 0)
        self.prediction_type = schedule.config.prediction_type
        self.num_train_timesteps = len(self.alphas_bar)
        self.learned_variance = learned_variance
        self.table: list[_AncestralStep] = []

    def start(self, steps: int) -> list[int]:
        import torch

        timesteps = ddpm_timesteps(self.num_train_timesteps, steps)
        here = self.alphas_bar[timesteps]
        there = torch.cat([here[1:], torch.ones(1, dtype=torch.float64)])
        alpha, beta = here / there, 1 - here / there
        posterior_variance = (1 - there) / (1 - here) * beta
        columns = (
            here.sqrt(),
            (1 - here).sqrt(),
            there.sqrt() * beta / (1 - here),
            alpha.sqrt() * (1 - there) / (1 - here),
            beta.log(),
            posterior_variance.clamp(min=1e-20).log(),  # 0 in the last step, which draws none
        )
        self.table = [_AncestralStep(*numbers) for numbers in torch.stack(columns, 1).tolist()]
        return timesteps

    def draws_noise(self, step: int) -> bool:
        return step < len(self.table) - 1

    def step(
        self, step: int, output: "torch.Tensor", latents: "torch.Tensor", noise: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        numbers = self.table[step]
        channels = latents.shape[1]
        x0 = predicted_x0(
            self.prediction_type,
            output[:, :channels],
            latents,
            numbers.sqrt_alpha_bar,
            numbers.sqrt_one_minus_alpha_bar,
        )
        mean = numbers.of_x0 * x0 + numbers.of_latents * latents
        if noise is None:
            return mean
        if not self.learned_variance:
            return mean + math.exp(numbers.largest_log_variance / 2) * noise
        share = (output[:, channels:] + 1) / 2
        log_variance = share * numbers.largest_log_variance + (1 - share) * numbers.smallest_log_variance
        return mean + (0.5 * log_variance).exp() * noise
