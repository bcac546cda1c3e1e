"""``ddim``: DDIM, eta = 0 (Song et al. 2021), with the pipeline's own spacing, as ``DiTPipeline`` samples."""

from collections.abc import Mapping
from typing import Any

from dmkd.generators.samplers.sampler import Sampler
from dmkd.generators.samplers.solver import DiffusersSolver, parameters


class DdimSampler(Sampler):
    name = "ddim"
    scheduler = "DDIMScheduler"

    def solver(self, scheduler_config: Mapping[str, Any], learned_sigma: bool) -> DiffusersSolver:
        from diffusers import DDIMScheduler

        known = parameters(DDIMScheduler)
        options = {key: value for key, value in scheduler_config.items() if key in known}
        if scheduler_config.get("_class_name") != "DDIMScheduler":
            # diffusers clips to [-1, 1] by default: right for pixels, wrong for latents
            options.setdefault("clip_sample", False)
        return DiffusersSolver(DDIMScheduler(**options))
