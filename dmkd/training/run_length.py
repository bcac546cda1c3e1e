"""How long a training run is, in optimiser steps: what the schedules, the reports and the last epoch go by."""

from dataclasses import dataclass

from dmkd.stores import UsageError
from dmkd.training.training_recipe import TrainingRecipe


@dataclass(frozen=True)
class RunLength:
    """``updates`` optimiser steps, ``warmup`` of them with a rising learning rate. The last epoch may be a partial one."""

    updates: int
    updates_per_epoch: int
    warmup: int

    @property
    def epochs(self) -> int:
        """Epochs, the last of which may be a partial one."""
        return -(-self.updates // self.updates_per_epoch)

    def updates_in(self, epoch: int) -> int:
        """Optimiser steps of an epoch, counted from 0."""
        return min(self.updates_per_epoch, self.updates - epoch * self.updates_per_epoch)

    def images_seen(self, updates: int, num_images: int) -> int:
        """Images, over all epochs, of this number of optimiser steps on ``num_images`` images."""
        epochs, more = divmod(updates, self.updates_per_epoch)
        return epochs * num_images + more * num_images // self.updates_per_epoch


def run_length(recipe: TrainingRecipe, num_images: int) -> RunLength:
    """The length of a recipe's run on this number of images. Raises ``UsageError`` if it ends before its warm-up does."""
    per_epoch = -(-num_images // recipe.batch_size)
    updates = recipe.updates or (recipe.epochs or 0) * per_epoch
    warmup = recipe.warmup_updates or (recipe.warmup_epochs or 0) * per_epoch
    if warmup >= updates:
        raise UsageError(
            f"--warmup-epochs {recipe.warmup_epochs} is {warmup:,} optimiser steps on these {num_images:,} images, and must be "
            f"less than the {updates:,} of the whole run: the learning rate would never reach --lr."
        )
    return RunLength(updates, per_epoch, warmup)
