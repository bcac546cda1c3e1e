"""``dpm++``: DPM-Solver++(2M) (Lu et al. 2022), which takes the fewest steps."""

from collections.abc import Mapping
from typing import Any

from dmkd.generators.samplers.sampler import Sampler
from dmkd.generators.samplers.solver import DiffusersSolver, noise_schedule


class DpmSampler(Sampler):
    name = "dpm++"
    scheduler = "DPMSolverMultistepScheduler"
    flow_matching = True

    def steps(self, num_train_timesteps: int) -> tuple[int, int]:
        # It puts steps + 1 points on the training timesteps: with more, two would coincide, and a zero step divides by zero.
        return 1, num_train_timesteps - 1

    def solver(self, scheduler_config: Mapping[str, Any], learned_sigma: bool) -> DiffusersSolver:
        from diffusers import DPMSolverMultistepScheduler

        # The spacing is the solver's own: "leading", which a saved DDIM scheduler passes on, would start at t = 909 of 1000
        # with ten steps. variance_type stays unset: with it the solver cuts the model's output to three channels.
        scheduler = DPMSolverMultistepScheduler(
            **noise_schedule(scheduler_config, DPMSolverMultistepScheduler),
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
            timestep_spacing="linspace",
            lower_order_final=True,
            final_sigmas_type="zero",
        )
        return DiffusersSolver(scheduler)
