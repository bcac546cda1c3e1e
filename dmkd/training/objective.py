"""What a student's step minimises: all forwards, then all measurements, then one number."""

from typing import Any

import torch

from dmkd.loading import Batch
from dmkd.loading.decoding import BatchDecoder
from dmkd.loading.mixture import MixedBatch
from dmkd.training.loss_table import HARD, HARD_LABELS, LOSSES, Setting
from dmkd.training.losses import anchored, feature_loss, feature_projection, scheduled
from dmkd.training.training_recipe import TrainingRecipe
from dmkd.views.render import normalise


class Objective(torch.nn.Module):
    """The loss of a batch, as a training recipe says. Holds the student, and what is trained beside it."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        decoder: BatchDecoder,
        model: torch.nn.Module,
        preprocessing: dict[str, Any],
        layout: torch.memory_format = torch.contiguous_format,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.recipe, self.preprocessing, self.layout = recipe, preprocessing, layout
        self.loss = LOSSES[recipe.loss]
        student: Any = model
        self.model = student
        # Batches have two sizes, n and n - 1: two graphs of fixed shapes, not one slower one for any size.
        body = student.forward_features
        self.body = torch.compile(body, dynamic=False) if compile else body
        self.projection: torch.nn.Linear | None = None
        if recipe.feature_weight:
            projection = feature_projection(student.head_hidden_size, teacher_width(decoder))
            self.projection = projection.to(decoder.device) if projection is not None else None

    def no_weight_decay(self) -> set[str]:
        """Parameters that the student's authors let no weight decay touch, such as a ViT's position embedding: timm asks."""
        spared = getattr(self.model, "no_weight_decay", set)
        return {f"model.{name}" for name in spared()}

    def forward(self, batch: Batch | MixedBatch, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """At ``progress`` in [0, 1) of the run: the loss, a scalar, and for how many images student and labels agree."""
        recipe, feeding = self.recipe, self.preprocessing
        pixels = batch.pixels(size=feeding["input_size"])
        images = normalise(pixels, feeding["mean"], feeding["std"]).contiguous(memory_format=self.layout)
        maps = self.body(images)
        logits = self.model.forward_head(maps)

        setting = Setting(
            scheduled(progress, recipe.temperature, recipe.temperature_end),
            recipe.label_smoothing,
            recipe.own_options,
        )
        hard_weight = scheduled(progress, recipe.hard_weight, recipe.hard_weight_end)
        sizes = [len(part) for part in batch.parts]
        measured = [
            self._measure(part, of_part, setting, hard_weight)
            for part, of_part in zip(batch.parts, logits.split(sizes), strict=True)
        ]
        loss = torch.stack([loss * (n / len(batch)) for n, (loss, _) in zip(sizes, measured, strict=True)]).sum()
        if recipe.feature_weight:
            (part,) = batch.parts
            name, arrays = next(iter(part.labels.items()))
            teacher_features = part.decoder.decoders[name].decode_features(arrays)
            student_features = self.model.forward_head(maps, pre_logits=True)
            loss = loss + recipe.feature_weight * feature_loss(student_features, teacher_features, self.projection)
        return loss, torch.stack([agreeing for _, agreeing in measured]).sum()

    def _measure(
        self, batch: Batch, logits: torch.Tensor, setting: Setting, hard_weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of one store's images: the loss, and for how many student and labels agree."""
        if self.loss.from_labels and not batch.labels:  # of a store beside others: its class ids are all that it says
            loss, said = LOSSES[HARD].compute(batch, logits, setting)
            return loss, (logits.detach().argmax(1) == said).sum()
        loss, said = self.loss.compute(batch, logits, setting)
        if self.recipe.is_anchored:
            hard, _ = LOSSES[HARD_LABELS[self.recipe.hard_labels]].compute(batch, logits, setting)
            loss = anchored(loss, hard, hard_weight)
        return loss, (logits.detach().argmax(1) == said).sum()


def teacher_width(decoder: BatchDecoder) -> int:
    """Width d of the features that the first label set holds, of codec ``features``."""
    coder: Any = next(iter(decoder.decoders.values())).coder
    return coder.weight.shape[1]
