"""Text-to-image checkpoints that were distilled to a few steps without guidance: how they are recognised, and sampled."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What their names say of them, and the steps and guidance that their authors sample them with.
BY_NAME = {"turbo": (4, 0.0), "lightning": (4, 0.0), "schnell": (4, 0.0), "lcm": (4, 1.0)}


@dataclass(frozen=True)
class Distilled:
    """A checkpoint of few steps, and how it is recognised."""

    steps: int
    guidance: float
    sign: str


def distilled(names: Sequence[str], scheduler: Mapping[str, Any]) -> Distilled | None:
    """What the ``names`` of a pipeline and of its models, and its scheduler's configuration, tell; None: nothing of the kind."""
    for name in names:
        if found := re.search(rf"(?<![a-z])({'|'.join(BY_NAME)})(?![a-z])", name.lower()):
            return Distilled(*BY_NAME[found[1]], f"it is called {name}")
    kind = scheduler.get("_class_name")
    if kind == "LCMScheduler":
        return Distilled(*BY_NAME["lcm"], f"its scheduler is a {kind}")
    if kind == "EulerAncestralDiscreteScheduler" and scheduler.get("timestep_spacing") == "trailing":
        return Distilled(*BY_NAME["turbo"], f"its scheduler is a {kind} with trailing timesteps, as SDXL-Turbo's")
    return None
