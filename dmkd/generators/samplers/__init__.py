"""The samplers: ways from noise to images. To add one, write a class and put it in the list below.

Importing this imports neither torch nor diffusers, so help and completion can read the list instantly.
"""

from dmkd.generators.samplers.ddim import DdimSampler
from dmkd.generators.samplers.ddpm import DdpmSampler
from dmkd.generators.samplers.dpmpp import DpmSampler
from dmkd.generators.samplers.sampler import Sampler
from dmkd.generators.samplers.unipc import UniPcSampler
from dmkd.stores.errors import UsageError

SAMPLERS: dict[str, Sampler] = {one.name: one for one in (DdpmSampler(), DdimSampler(), DpmSampler(), UniPcSampler())}

OWN_SCHEDULER = "pipeline"  # for text-to-image pipelines: the scheduler that they come with


def sampler_named(name: str) -> Sampler:
    """Raises ``UsageError`` if there is none with that name."""
    if name not in SAMPLERS:
        raise UsageError(f"There is no sampler {name!r}; the samplers are {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]


def replacements() -> dict[str, Sampler]:
    """The samplers that may replace the scheduler of a text-to-image pipeline, by name."""
    return {name: sampler for name, sampler in SAMPLERS.items() if sampler.scheduler}


def check_steps(sampler: str, steps: int, limits: tuple[int, int]) -> None:
    """Raise ``UsageError`` unless ``steps`` are within the limits, both included."""
    fewest, most = limits
    if not fewest <= steps <= most:
        raise UsageError(f"{steps} steps: with this generator the sampler {sampler} takes {fewest} to {most} steps.")
