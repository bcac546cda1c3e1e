"""``unipc``: UniPC of order 2 (Zhao et al. 2023), a predictor and a corrector at the same cost.

Our own: diffusers copies a dozen numbers to the device and solves a system of equations there, every step.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dmkd.generators.samplers.sampler import Sampler
from dmkd.generators.samplers.solver import noise_schedule, predicted_x0

if TYPE_CHECKING:
    import torch


class UniPcSampler(Sampler):
    name = "unipc"
    scheduler = "UniPCMultistepScheduler"
    flow_matching = True

    def steps(self, num_train_timesteps: int) -> tuple[int, int]:
        # As DPM-Solver++: steps + 1 points on the training timesteps.
        return 1, num_train_timesteps - 1

    def solver(self, scheduler_config: Mapping[str, Any], learned_sigma: bool) -> "UniPC":
        return UniPC(scheduler_config)


class _LinearStep(NamedTuple):
    """x' = of_latents * x + of_new * m' + of_last * m + of_one_before * m_, where the m are predictions of x0."""

    of_latents: float
    of_last: float
    of_one_before: float
    of_new: float = 0.0  # the corrector's: of the prediction at its destination


class UniPC:
    """UniPC-2 with B(h) = exp(h) - 1, predicting x0, as diffusers' ``UniPCMultistepScheduler`` (``bh2``) has it.

    A step first corrects the latents that it is given, using the model's prediction for them (UniC), then proceeds to the
    next timestep (UniP). Both are linear in latents and predictions.
    """

    learned_variance = False

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        from diffusers import UniPCMultistepScheduler

        # Only for its timesteps and noise levels.
        self.schedule = UniPCMultistepScheduler(
            **noise_schedule(scheduler_config, UniPCMultistepScheduler),
            solver_order=2,
            timestep_spacing="linspace",
            lower_order_final=True,
            final_sigmas_type="zero",
        )
        self.num_train_timesteps = self.schedule.config.num_train_timesteps

    def start(self, steps: int) -> list[int]:
        self.schedule.set_timesteps(steps)
        ratios = self.schedule.sigmas.double().tolist()  # sigma / alpha, of every timestep and 0 for the end
        self.alphas = [1 / math.sqrt(1 + ratio**2) for ratio in ratios]
        self.sigmas = [ratio * alpha for ratio, alpha in zip(ratios, self.alphas, strict=True)]
        # The first step has only one prediction; in the last, which ends at noise level 0, x' is the prediction of x0.
        orders = [min(2, step + 1, steps - step) for step in range(steps)]
        self.predictors = [self._predictor(step, order) for step, order in enumerate(orders)]
        self.correctors = [self._corrector(step, order) for step, order in enumerate(orders[:-1])]
        self.predictions: list[torch.Tensor] = []  # of x0, the newest last
        self.departure: torch.Tensor | None = None  # corrected latents that the last step started from
        return self.schedule.timesteps.tolist()

    def draws_noise(self, step: int) -> bool:
        return False

    def step(
        self, step: int, output: "torch.Tensor", latents: "torch.Tensor", noise: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        prediction_type = self.schedule.config.prediction_type
        x0 = predicted_x0(prediction_type, output, latents, self.alphas[step], self.sigmas[step])
        if self.departure is not None:
            latents = self._apply(self.correctors[step - 1], self.departure, new=x0)
        self.departure = latents
        self.predictions = [*self.predictions[-1:], x0]
        return self._apply(self.predictors[step], latents)

    def _apply(
        self, numbers: _LinearStep, latents: "torch.Tensor", new: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        result = numbers.of_latents * latents + numbers.of_last * self.predictions[-1]
        if numbers.of_one_before:
            result = result + numbers.of_one_before * self.predictions[-2]
        return result if new is None else result + numbers.of_new * new

    def _predictor(self, step: int, order: int) -> _LinearStep:
        """From timestep ``step`` to the next one, by the predictions at this one and, for order 2, the one before."""
        if self.sigmas[step + 1] == 0:
            return _LinearStep(0.0, self.alphas[step + 1], 0.0)
        whole = -self.alphas[step + 1] * math.expm1(-self._log_snr_gain(step))
        before = 0.5 * whole / self._distance_back(step) if order == 2 else 0.0
        return _LinearStep(self.sigmas[step + 1] / self.sigmas[step], whole - before, before)

    def _corrector(self, step: int, order: int) -> _LinearStep:
        """The same step again, now that the prediction at the next timestep is known."""
        h = -self._log_snr_gain(step)
        phi_1 = math.expm1(h)
        whole = -self.alphas[step + 1] * phi_1
        phi_2 = phi_1 / h - 1
        if order == 1:
            share_before, share_new = 0.0, 0.5
        else:
            # [1 1; r 1] (of the one before, of the new) = b: exact for polynomials of the second degree
            r, b_1, b_2 = self._distance_back(step), phi_2 / phi_1, 2 * (phi_2 / h - 0.5) / phi_1
            share_before = (b_1 - b_2) / (1 - r)
            share_new = b_1 - share_before
            share_before /= r
        before, new = whole * share_before, whole * share_new
        return _LinearStep(self.sigmas[step + 1] / self.sigmas[step], whole - before - new, before, new)

    def _log_snr_gain(self, step: int) -> float:
        """log(alpha / sigma) at the next timestep less that at this one."""
        return math.log(self.alphas[step + 1] / self.sigmas[step + 1]) - math.log(self.alphas[step] / self.sigmas[step])

    def _distance_back(self, step: int) -> float:
        """The distance from this timestep back to the previous one, in units of the distance to the next: negative."""
        return -self._log_snr_gain(step - 1) / self._log_snr_gain(step)
