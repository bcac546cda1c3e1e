"""Solvers: how latents get from one timestep to the next, given what the transformer predicts; and what several of them share.

A step multiplies only by numbers that the CPU knows in advance, so no step waits for the device.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dmkd.stores.errors import UsageError

if TYPE_CHECKING:
    import torch


class Solver(Protocol):
    """One way from noise to latents. It keeps what earlier steps predicted: one object, one trajectory at a time."""

    num_train_timesteps: int
    learned_variance: bool  # whether ``step`` reads the variances that the model predicts as well as the noise

    def start(self, steps: int) -> list[int]:
        """Begin a trajectory -> the training timesteps at which the model will be asked, descending."""

    def draws_noise(self, step: int) -> bool:
        """Whether step number ``step`` adds noise."""

    def step(
        self, step: int, output: "torch.Tensor", latents: "torch.Tensor", noise: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """Latents after step number ``step``, float32 (n, C, h, w), from those before, and the model's output for these:
        float32 (n, C, h, w), or (n, 2C, h, w) with ``learned_variance``. ``noise``: standard normal (n, C, h, w), if
        this step draws any."""


class DiffusersSolver:
    """A diffusers scheduler that draws nothing and needs nothing from the device."""

    learned_variance = False

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.num_train_timesteps: int = scheduler.config.num_train_timesteps

    def start(self, steps: int) -> list[int]:
        self.scheduler.set_timesteps(steps)
        self.timesteps: list[int] = self.scheduler.timesteps.tolist()
        return self.timesteps

    def draws_noise(self, step: int) -> bool:
        return False

    def step(
        self, step: int, output: "torch.Tensor", latents: "torch.Tensor", noise: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        # The timestep as a plain number: a tensor on the device would have to be waited for.
        return self.scheduler.step(output, self.timesteps[step], latents, return_dict=False)[0]


def predicted_x0(
    prediction_type: str, output: "torch.Tensor", latents: "torch.Tensor", alpha: float, sigma: float
) -> "torch.Tensor":
    """The noiseless latents that a prediction of the given type implies, where latents = alpha * x0 + sigma * noise."""
    if prediction_type == "epsilon":
        return (latents - sigma * output) / alpha
    if prediction_type == "v_prediction":
        return alpha * latents - sigma * output
    if prediction_type == "sample":
        return output
    raise UsageError(f"The generator predicts {prediction_type!r}; dmkd knows epsilon, v_prediction and sample.")


def predicted_noise(
    prediction_type: str, output: "torch.Tensor", latents: "torch.Tensor", alpha: float, sigma: float
) -> "torch.Tensor":
    """The noise that a prediction of the given type implies, where latents = alpha * x0 + sigma * noise."""
    return (latents - alpha * predicted_x0(prediction_type, output, latents, alpha, sigma)) / sigma


def as_prediction(
    prediction_type: str, noise: "torch.Tensor", latents: "torch.Tensor", alpha: float, sigma: float
) -> "torch.Tensor":
    """The inverse of :func:`predicted_noise`: the prediction of the given type that implies this noise."""
    if prediction_type == "epsilon":
        return noise
    x0 = (latents - sigma * noise) / alpha
    return x0 if prediction_type == "sample" else alpha * noise - sigma * x0


def parameters(scheduler_class: type) -> set[str]:
    """The names of the options of a diffusers scheduler."""
    return set(inspect.signature(scheduler_class.__init__).parameters) - {"self"}  # type: ignore[misc]


def signal_shares(config: Mapping[str, Any]) -> list[float]:
    """alpha bar of each training timestep, the share of the image in the variance of the noisy latents, by a pipeline's scheduler
    configuration."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**noise_schedule(config, DDIMScheduler)).alphas_cumprod.tolist()


def noise_schedule(config: Mapping[str, Any], scheduler_class: type) -> dict[str, Any]:
    """The part of a scheduler's configuration that the model was trained with."""
    trained_with = {
        "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
        "rescale_betas_zero_snr",
    }  # fmt: skip
    known = trained_with & parameters(scheduler_class)
    return {key: value for key, value in config.items() if key in known}
