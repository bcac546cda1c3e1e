"""``ddim``: DDIM, eta = 0 (Song et al. 2021), with the pipeline's own spacing, as ``DiTPipeline`` samples."""

import math
from collections.abc import Mapping
from typing import Any

from dmkd.generators.samplers.sampler import Sampler
from dmkd.generators.samplers.solver import DiffusersSolver, parameters
from dmkd.stores.errors import UsageError

# How much more of the image the model may expect at the first timestep than where as many evenly spaced steps would begin: the
# difference of the square roots of alpha bar. Noise is all that the sampler has there.
MOST_SIGNAL = 0.06


class DdimSampler(Sampler):
    name = "ddim"
    scheduler = "DDIMScheduler"

    def check_start(self, scheduler_config: Mapping[str, Any], steps: int) -> None:
        scheduler = self._scheduler(scheduler_config)
        if scheduler.config.timestep_spacing != "leading":
            return
        trained = scheduler.config.num_train_timesteps
        signal = scheduler.alphas_cumprod.sqrt().tolist()

        def first(count: int) -> int:
            """diffusers takes whole timesteps between steps, so ``count`` of them may end well before the last timestep."""
            return min((count - 1) * (trained // count) + scheduler.config.steps_offset, trained - 1)

        def begins_too_late(count: int) -> bool:
            return signal[first(count)] - signal[trained - math.ceil(trained / count)] > MOST_SIGNAL

        if not begins_too_late(steps):
            return
        fewer = next(count for count in range(steps, 0, -1) if not begins_too_late(count))
        more = next(count for count in range(steps, trained + 1) if not begins_too_late(count))
        raise UsageError(
            f"--steps {steps}: ddim would begin at timestep {first(steps)} of {trained}, where the generator expects to see "
            f"{signal[first(steps)]:.0%} of the image and there is only noise; the nearest that begin close enough to the end "
            f"are {fewer} and {more} steps."
        )

    def solver(self, scheduler_config: Mapping[str, Any], learned_sigma: bool) -> DiffusersSolver:
        return DiffusersSolver(self._scheduler(scheduler_config))

    def _scheduler(self, scheduler_config: Mapping[str, Any]) -> Any:
        from diffusers import DDIMScheduler

        known = parameters(DDIMScheduler)
        options = {key: value for key, value in scheduler_config.items() if key in known}
        if scheduler_config.get("_class_name") != "DDIMScheduler":
            # diffusers clips to [-1, 1] by default: right for pixels, wrong for latents
            options.setdefault("clip_sample", False)
        return DDIMScheduler(**options)
