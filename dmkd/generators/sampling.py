"""From noise to latents: our own loop over a transformer and the solver of a sampler (``dmkd.generators.samplers``).

Why not ``DiTPipeline``: it passes no generator to ``scheduler.step`` (the noise of stochastic samplers would depend on the
batch), takes 1000 for the null class whatever the model, guides all latent channels where DiT guides three, and keeps
latents in the weights' dtype.

From the first line of ``denoise`` to the last the CPU never waits for the device: it queues the work of a step, meanwhile
draws its noise, and moves on to the next.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from dmkd.generators.samplers.solver import Solver, as_prediction, predicted_noise, predicted_x0
from dmkd.runtime.accelerators import upload
from dmkd.stores.errors import UsageError

_NO_GRADIENT = 1e-20  # a norm: where there is no gradient nothing is pushed


def check_guided_channels(guided_channels: int, latent_channels: int) -> None:
    """Raise ``UsageError`` unless the generator's latents have at least this many channels."""
    if not 1 <= guided_channels <= latent_channels:
        raise UsageError(f"{guided_channels} guided channels: this generator's latents have 1 to {latent_channels}.")


def image_generators(seeds: torch.Tensor | Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each image, from seeds int64 (n,) in [0, 2^32).

    torch's CPU generator uses the low 32 bits of its seed: ``manual_seed(1)`` and ``manual_seed(1 + 2**32)`` draw the
    same numbers, so larger seeds are refused.
    """
    numbers = [int(seed) for seed in seeds]
    for seed in numbers:
        if not 0 <= seed < 2**32:
            raise UsageError(
                f"Image seed {seed} is out of range: torch's CPU generator only distinguishes 0 to 2^32 - 1."
            )
    return [torch.Generator().manual_seed(seed) for seed in numbers]


def draw_noise(generators: Sequence[torch.Generator], latent_shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise of each image from its own generator: float32 (n, C, h, w) on the CPU, so the same for every
    device."""
    return torch.cat([torch.randn((1, *latent_shape), generator=generator) for generator in generators])


class Steer(Protocol):
    """What pushes latents while they are sampled: towards images of a higher score (classifier guidance on the predicted x0)."""

    window: tuple[int, int]  # training timesteps, both ends included
    strength: float  # the push, as a share of the predicted noise's norm

    def score(self, pixels: torch.Tensor, images: slice) -> torch.Tensor:
        """Of these of the images of a sub-batch, float32 (n, 3, H, W) in [0, 1] -> float32 (n,), differentiable."""


@dataclass(frozen=True)
class Push:
    """A :class:`Steer` as :func:`denoise` needs it."""

    steer: Steer
    gradient: Callable[[torch.Tensor], torch.Tensor]  # of the score, by the noiseless latents: (n, C, h, w) -> the same
    signal_shares: Sequence[float]  # alpha bar by training timestep
    prediction_type: str

    def applied(self, timestep: int, output: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The transformer's prediction, float32 (n, C, h, w), pushed if the timestep is in the window.

        The noise becomes noise - strength * |noise| * gradient / |gradient|, as in Dhariwal & Nichol 2021, alg. 2, with the
        gradient at the predicted x0 as if the transformer were constant (Bansal et al. 2023), so it is not backpropagated
        through."""
        low, high = self.steer.window
        if not low <= timestep <= high:
            return output
        share = self.signal_shares[timestep]
        alpha, sigma = math.sqrt(share), math.sqrt(1 - share)
        noise = predicted_noise(self.prediction_type, output, latents, alpha, sigma)
        gradient = self.gradient(predicted_x0(self.prediction_type, output, latents, alpha, sigma))
        sizes = [part.flatten(1).norm(dim=1)[:, None, None, None] for part in (noise, gradient)]
        noise = noise - self.steer.strength * sizes[0] / sizes[1].clamp_min(_NO_GRADIENT) * gradient
        return as_prediction(self.prediction_type, noise, latents, alpha, sigma)


@torch.no_grad()
def denoise(
    transformer: torch.nn.Module,
    solver: Solver,
    noise: torch.Tensor,
    class_ids: torch.Tensor,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    guidance: float | torch.Tensor,
    guided_channels: int,
    null_class: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    guidance_interval: tuple[float, float] | None = None,
    push: Push | None = None,
) -> torch.Tensor:
    """Noise, float32 (n, C, h, w), and class ids, int64 (n,), both on the CPU, to latents, float32 (n, C, h, w), on
    ``device``, where the transformer is.

    ``transformer`` is a ``DiTTransformer2DModel`` in eval mode with weights of ``dtype``; latents and steps are float32
    whatever that is. ``solver`` comes from a ``Sampler``, ``generators`` from ``image_generators``: the noise of
    stochastic steps is drawn from each image's own, so it does not depend on the other images in the batch.

    Classifier-free guidance as in DiT's ``forward_with_cfg``: eps = uncond + guidance * (cond - uncond) in the first
    ``guided_channels`` channels; the other ones, and predicted variances, are the conditional half's. ``guidance`` is one
    scale, or float (n,) on the CPU, one for each image. With guidance 1, and outside ``guidance_interval`` (shares of the
    training timesteps: Kynkäänniemi et al. 2024), the unconditional half is not computed.
    What ``push`` does comes after guidance.
    """
    n, channels, *size = noise.shape
    scale = torch.as_tensor(guidance, dtype=torch.float32)
    ever_guided = bool((scale != 1).any())
    scale = upload(scale.reshape(-1, 1, 1, 1), device)
    low, high = guidance_interval or (0.0, 1.0)

    # Timesteps twice: as plain numbers for what the CPU decides, and on the device for the transformer.
    timesteps = solver.start(steps)
    model_timesteps = upload(torch.tensor(timesteps), device)
    classes = upload(torch.cat([class_ids, torch.full_like(class_ids, null_class)]), device)
    latents = upload(noise.float(), device)
    for step, timestep in enumerate(timesteps):
        guided = ever_guided and low <= timestep / solver.num_train_timesteps <= high
        rows = torch.cat([latents, latents]) if guided else latents
        output = transformer(
            rows.to(dtype),
            timestep=model_timesteps[step].expand(len(rows)),
            class_labels=classes[: len(rows)],
            return_dict=False,
        )[0].float()
        # Drawn while the transformer runs.
        step_noise = upload(draw_noise(generators, (channels, *size)), device) if solver.draws_noise(step) else None
        if guided:
            conditional, unconditional = output[:n], output[n:, :guided_channels]
            eps = unconditional + scale * (conditional[:, :guided_channels] - unconditional)
            output = torch.cat([eps, conditional[:, guided_channels:]], dim=1)
        if push is not None:
            output = torch.cat([push.applied(timestep, output[:, :channels], latents), output[:, channels:]], dim=1)
        if not solver.learned_variance:
            output = output[:, :channels]
        latents = solver.step(step, output, latents, step_noise)
    return latents
