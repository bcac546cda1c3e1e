"""From losses to weights: one optimiser step, over all parts of a batch and all workers."""

from collections.abc import Iterable
from typing import Any

import torch

from dmkd.loading import Batch
from dmkd.loading.mixture import MixedBatch
from dmkd.recipes.randomness import key64
from dmkd.runtime.accelerators import has_float64
from dmkd.runtime.precision import AUTOCAST
from dmkd.runtime.spelling import nearest_names
from dmkd.stores.errors import DmkdError, UsageError
from dmkd.training.objective import Objective
from dmkd.training.presets import SGD_LIKE
from dmkd.training.run_length import RunLength
from dmkd.training.team import Team, keep_gradients_here
from dmkd.training.training_recipe import TrainingRecipe

# timm's "sgd" is Nesterov's; DM-KD's is plain momentum.
TIMM_OPTIMIZERS = {"sgd": "momentum"}
TIMM_SCHEDULES = {"step": "multistep", "constant": "multistep", "cosine": "cosine", "linear": "poly", "poly": "poly"}
POLY_POWER = {"linear": 1.0, "poly": 0.9}


class Optimisation:
    """Optimiser, learning rate, gradient scaling, clipping and the moving average of the weights."""

    def __init__(
        self, recipe: TrainingRecipe, objective: Objective, team: Team, precision: str, length: RunLength
    ) -> None:
        self.recipe, self.team, self.length = recipe, team, length
        self.objective, self.shared = objective, team.share(objective)
        device_type = torch.device(team.device).type
        self.autocast: dict[str, Any] = {
            "device_type": device_type,
            "dtype": torch.float16 if precision == "float16" else torch.bfloat16,
            "enabled": precision in AUTOCAST,
        }
        # With float16 torch asks the GPU at each step whether the gradients overflowed, and waits: the only thing that does.
        self.scaler = torch.amp.GradScaler(device_type, enabled=precision == "float16")
        self.optimizer = create_optimizer(recipe, objective)
        self.scheduler = create_scheduler(recipe, self.optimizer, length)
        self.average: Any = None
        if recipe.ema is not None:
            from timm.utils import ModelEmaV3

            # Warmed up, so that short runs do not end as an average of their first weights: 1 - (1 + t)^(-2/3) after t steps.
            self.average = ModelEmaV3(objective.model, decay=recipe.ema, use_warmup=True)

    @property
    def student(self) -> torch.nn.Module:
        """The model that is evaluated and saved: the trained one, or its moving average."""
        return self.average.module if self.average is not None else self.objective.model

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def no_sums(self) -> torch.Tensor:
        """Sums of loss and agreement to begin with."""
        dtype = torch.float64 if has_float64(self.team.device) else torch.float32
        return torch.zeros(2, dtype=dtype, device=self.team.device)

    def step(
        self, batches: Iterable[tuple[Batch | MixedBatch, bool]], step: int, images: int
    ) -> tuple[torch.Tensor, int]:
        """Step number ``step`` of the run: this worker's (batch, whether it is the last of the step); ``images`` of all workers.

        The gradient is the mean over all images of all workers, whatever their shares. Returns this worker's sums of loss and
        agreement, float64 (2,) on the device (float32 on one without), and its number of images.
        """
        # The random numbers of a step (dropout, stochastic depth) depend on nothing but its place in the run.
        torch.manual_seed(int(key64(self.recipe.seed, f"step {step} of rank {self.team.rank}")))
        self.scheduler.step_update(step)
        self.optimizer.zero_grad(set_to_none=True)
        progress = step / self.length.updates
        sums, here = self.no_sums(), 0
        for batch, last in batches:
            n = len(batch)
            with keep_gradients_here(self.shared, not last), torch.autocast(**self.autocast):
                loss, agreeing = self.shared(batch, progress)
                # Gradients are added up over the batches and averaged over the workers.
                self.scaler.scale(loss * (n * self.team.world_size / images)).backward()
            sums += torch.stack([loss.detach().to(sums.dtype) * n, agreeing.to(sums.dtype)])
            here += n
        self._apply_gradients()
        if self.average is not None:
            self.average.update(self.objective.model, step + 1)
        return sums, here

    def _apply_gradients(self) -> None:
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        if self.recipe.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.module.state_dict() if self.average is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:  # an older version grouped the parameters otherwise
            raise DmkdError(
                f"The run was begun by another version of dmkd, whose optimiser can't be gone on with ({error}): give "
                "another --out."
            ) from error
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])


def create_optimizer(recipe: TrainingRecipe, objective: torch.nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser of that name. Raises ``UsageError`` for an unknown name, and for one that can't be had here."""
    from timm.optim import create_optimizer_v2, list_optimizers

    name, known = recipe.optimizer, [str(name) for name in list_optimizers()]
    if name not in known:
        raise UsageError(f"--optimizer: timm has no {name!r}{nearest_names(name, known) or '.'}")
    if name == "adahessian":
        raise UsageError("--optimizer adahessian needs second derivatives, which this trainer does not take.")
    try:
        return create_optimizer_v2(
            objective,
            opt=TIMM_OPTIMIZERS.get(name, name),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            filter_bias_and_bn=name not in SGD_LIKE,  # SGD's decay is on biases and norms too, as DM-KD's
        )
    except (AssertionError, ImportError, RuntimeError, TypeError) as error:
        raise UsageError(f"--optimizer {name} can't be used here: {error or type(error).__name__}") from error


def create_scheduler(recipe: TrainingRecipe, optimizer: torch.optim.Optimizer, length: RunLength) -> Any:
    """timm's schedule; the learning rate is a function of the step alone (``step_update``), so it has no state to save."""
    from timm.scheduler import create_scheduler_v2

    # timm compares a milestone with the number of the step to come, which would be one step early.
    milestones = [1 + round(share * length.updates) for share in recipe.milestones] if recipe.schedule == "step" else []
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=TIMM_SCHEDULES[recipe.schedule],
        num_epochs=length.updates,
        decay_milestones=milestones,
        decay_rate=POLY_POWER.get(recipe.schedule, 0.1),
        warmup_epochs=length.warmup,
        warmup_lr=recipe.lr / 100,
        step_on_epochs=False,
        updates_per_epoch=1,  # all of these are in optimiser steps
    )
    return scheduler
