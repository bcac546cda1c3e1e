"""What a sampler is: the base class."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from dmkd.generators.samplers.solver import Solver


class Sampler(ABC):
    """One way from noise to images: what it is called, what it takes, and its solver."""

    name: str  # as users write it
    remark: str | None = None  # what help adds in brackets
    # The class of diffusers that may replace a text-to-image pipeline's own scheduler; None: this is for DiTs only.
    scheduler: str | None = None
    # Whether it adds noise on the way, so that fewer steps from the same noise lead to another image.
    adds_noise: bool = False
    flow_matching: bool = False  # whether that one can sample models of flow matching, too

    def steps(self, num_train_timesteps: int) -> tuple[int, int]:
        """The fewest and the most steps, for a model trained with this many timesteps."""
        return 1, num_train_timesteps

    def check_start(self, scheduler_config: Mapping[str, Any], steps: int) -> None:  # noqa: B027
        """Raise ``UsageError`` if this many steps would begin where the noise schedule is not at its end yet."""

    def guided_channels(self, latent_channels: int) -> int:
        """How many of the latent channels are guided by default: all, as in diffusers."""
        return latent_channels

    @abstractmethod
    def solver(self, scheduler_config: Mapping[str, Any], learned_sigma: bool) -> Solver:
        """A new solver, with the noise schedule (betas, prediction type) of the pipeline's own scheduler.

        ``scheduler_config`` is the pipeline's ``scheduler_config.json``; ``learned_sigma`` says whether the transformer
        predicts variances as well as the noise (twice as many channels out as in).
        """
