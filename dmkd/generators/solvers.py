"""Solvers: how latents go from one timestep to the next, given what the transformer predicts.

``ddpm``    respaced ancestral sampling as in DiT's ``SpacedDiffusion.p_sample`` (github.com/facebookresearch/DiT,
            ``diffusion/``; Nichol & Dhariwal 2021), which DM-KD used with 100 steps
``ddim``    DDIM, eta = 0 (Song et al. 2021), with the pipeline's own spacing, as ``DiTPipeline`` samples
``dpm++``   DPM-Solver++(2M) (Lu et al. 2022): the fewest steps
``unipc``   UniPC of order 2 (Zhao et al. 2023): a predictor and a corrector at the same cost

All that a step multiplies with is a number that the CPU knows beforehand, so no step waits for the device. diffusers'
schedulers do ``ddim`` and ``dpm++`` so. Its ``ddpm`` copies each step's noise while the CPU waits, and its ``unipc`` copies
a dozen numbers to the device and solves a system of equations there, every step: these two are our own.
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch

from dmkd.stores.errors import UsageError

SAMPLERS = ("ddpm", "ddim", "dpm++", "unipc")


class Solver(Protocol):
    """One way from noise to latents. It keeps what earlier steps predicted: one object, one trajectory at a time."""

    num_train_timesteps: int
    learned_variance: bool  # whether ``step`` reads the variances that the model predicts beside the noise

    def start(self, steps: int) -> list[int]:
        """Begin a trajectory -> the training timesteps at which the model will be asked, descending."""

    def draws_noise(self, step: int) -> bool:
        """Whether step number ``step`` adds noise."""

    def step(
        self, step: int, output: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Latents after step number ``step``, float32 (n, C, h, w), from those before, and what the model said of these:
        float32 (n, C, h, w), or (n, 2C, h, w) with ``learned_variance``. ``noise``: standard normal (n, C, h, w), if
        this step draws any."""


def make_solver(sampler: str, scheduler_config: Mapping[str, Any], learned_sigma: bool) -> Solver:
    """The solver of a sampler, with the noise schedule (betas, prediction type) of the pipeline's own scheduler.

    ``scheduler_config`` is the pipeline's ``scheduler_config.json``; ``learned_sigma`` says whether the transformer
    predicts variances beside the noise (twice as many channels out as in).
    """
    if sampler == "ddpm":
        return Ancestral(scheduler_config, learned_sigma)
    if sampler == "unipc":
        return UniPC(scheduler_config)
    if sampler == "ddim":
        return DiffusersSolver(_ddim(scheduler_config))
    if sampler == "dpm++":
        return DiffusersSolver(_dpm(scheduler_config))
    raise UsageError(f"There is no sampler {sampler!r}; the samplers are {', '.join(SAMPLERS)}.")


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
        from diffusers import DDPMScheduler

        schedule = DDPMScheduler(**_noise_schedule(scheduler_config, DDPMScheduler))  # for its betas alone
        # diffusers multiplies the alphas up in float32, and 1 - alpha_t / alpha_s then has four good digits at small t:
        # 4e-5 off DiT's float64 tables over a trajectory.
        self.alphas_bar = torch.cumprod(1 - schedule.betas.double(), 0)
        self.prediction_type = schedule.config.prediction_type
        self.num_train_timesteps = len(self.alphas_bar)
        self.learned_variance = learned_variance
        self.table: list[_AncestralStep] = []

    def start(self, steps: int) -> list[int]:
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
        self, step: int, output: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
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
        return mean + torch.exp(0.5 * log_variance) * noise


class _LinearStep(NamedTuple):
    """x' = of_latents * x + of_new * m' + of_last * m + of_one_before * m_, where the m are predictions of x0."""

    of_latents: float
    of_last: float
    of_one_before: float
    of_new: float = 0.0  # the corrector's: of what is predicted where it arrives


class UniPC:
    """UniPC-2 with B(h) = exp(h) - 1, predicting x0, as diffusers' ``UniPCMultistepScheduler`` (``bh2``) has it.

    A step first corrects the latents that it is given, by what the model predicts of them (UniC), then goes on to the
    next timestep (UniP). Both are linear in latents and predictions.
    """

    learned_variance = False

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        from diffusers import UniPCMultistepScheduler

        # For its timesteps and noise levels alone.
        self.schedule = UniPCMultistepScheduler(
            **_noise_schedule(scheduler_config, UniPCMultistepScheduler),
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
        # The first step has one prediction only; in the last, which goes to noise level 0, x' is that of x0.
        orders = [min(2, step + 1, steps - step) for step in range(steps)]
        self.predictors = [self._predictor(step, order) for step, order in enumerate(orders)]
        self.correctors = [self._corrector(step, order) for step, order in enumerate(orders[:-1])]
        self.predictions: list[torch.Tensor] = []  # of x0, the newest last
        self.departure: torch.Tensor | None = None  # corrected latents that the last step went on from
        return self.schedule.timesteps.tolist()

    def draws_noise(self, step: int) -> bool:
        return False

    def step(
        self, step: int, output: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        prediction_type = self.schedule.config.prediction_type
        x0 = predicted_x0(prediction_type, output, latents, self.alphas[step], self.sigmas[step])
        if self.departure is not None:
            latents = self._apply(self.correctors[step - 1], self.departure, new=x0)
        self.departure = latents
        self.predictions = [*self.predictions[-1:], x0]
        return self._apply(self.predictors[step], latents)

    def _apply(self, numbers: _LinearStep, latents: torch.Tensor, new: torch.Tensor | None = None) -> torch.Tensor:
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
        """The same way once more, now that the prediction at the next timestep is known."""
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
        """The way from this timestep back to the one before, in units of the way to the next: negative."""
        return -self._log_snr_gain(step - 1) / self._log_snr_gain(step)


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
        self, step: int, output: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        # The timestep as a plain number: as a tensor on the device it would be waited for.
        return self.scheduler.step(output, self.timesteps[step], latents, return_dict=False)[0]


def predicted_x0(
    prediction_type: str, output: torch.Tensor, latents: torch.Tensor, alpha: float, sigma: float
) -> torch.Tensor:
    """What a prediction of the given type says of the noiseless latents, where latents = alpha * x0 + sigma * noise."""
    if prediction_type == "epsilon":
        return (latents - sigma * output) / alpha
    if prediction_type == "v_prediction":
        return alpha * latents - sigma * output
    if prediction_type == "sample":
        return output
    raise UsageError(f"The generator predicts {prediction_type!r}; dmkd knows epsilon, v_prediction and sample.")


def _ddim(scheduler_config: Mapping[str, Any]) -> Any:
    from diffusers import DDIMScheduler

    known = _parameters(DDIMScheduler)
    options = {key: value for key, value in scheduler_config.items() if key in known}
    if scheduler_config.get("_class_name") != "DDIMScheduler":
        # diffusers would clip to [-1, 1] unless told: right for pixels, wrong for latents
        options.setdefault("clip_sample", False)
    return DDIMScheduler(**options)


def _dpm(scheduler_config: Mapping[str, Any]) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    # The spacing is the solver's own: "leading", which a saved DDIM scheduler hands on, would start at t = 909 of 1000
    # with ten steps. variance_type stays unset: with it the solver cuts the model's output to three channels.
    return DPMSolverMultistepScheduler(
        **_noise_schedule(scheduler_config, DPMSolverMultistepScheduler),
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        timestep_spacing="linspace",
        lower_order_final=True,
        final_sigmas_type="zero",
    )


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
