"""What a student's step minimises: all forwards, then all measurements, then one number."""

from typing import Any

import torch
from torch.nn import functional as F

from dmkd.loading import Batch
from dmkd.loading.decoding import BatchDecoder
from dmkd.training.losses import (
    anchored,
    decoupled_kd_loss,
    feature_loss,
    feature_projection,
    hard_label_loss,
    kd_loss,
    sparse_kd_loss,
    temperature_at,
)
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
        student: Any = model
        self.model = student
        self.body = torch.compile(student.forward_features) if compile else student.forward_features
        self.projection: torch.nn.Linear | None = None
        if recipe.feature_weight:
            projection = feature_projection(student.head_hidden_size, teacher_width(decoder))
            self.projection = projection.to(decoder.device) if projection is not None else None

    def forward(self, batch: Batch, progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        """At ``progress`` in [0, 1) of the run: the loss, a scalar, and for how many images student and labels agree."""
        recipe, feeding = self.recipe, self.preprocessing
        pixels = batch.pixels(size=feeding["input_size"], interpolation=feeding["interpolation"])
        images = normalise(pixels, feeding["mean"], feeding["std"]).contiguous(memory_format=self.layout)
        maps = self.body(images)
        logits = self.model.forward_head(maps)

        if recipe.loss == "hard":
            loss, said = self._hard(batch, logits), batch.class_ids
        else:
            temperature = temperature_at(progress, recipe.temperature, recipe.temperature_end or recipe.temperature)
            loss, said = self._distilled(batch, logits, temperature)
            if recipe.hard_weight:
                loss = anchored(loss, self._hard(batch, logits), recipe.hard_weight)
        if recipe.feature_weight:
            name, arrays = next(iter(batch.labels.items()))
            teacher_features = batch.decoder.decoders[name].decode_features(arrays)
            student_features = self.model.forward_head(maps, pre_logits=True)
            loss = loss + recipe.feature_weight * feature_loss(student_features, teacher_features, self.projection)
        return loss, (logits.detach().argmax(1) == said).sum()

    def _distilled(self, batch: Batch, logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The distillation loss, and the class that the teachers find likeliest, int64 (n,)."""
        if self.recipe.loss == "kl" and len(batch.labels) == 1:
            name, arrays = next(iter(batch.labels.items()))
            decoder = batch.decoder.decoders[name]
            if decoder.is_sparse:  # no need for a dense row
                ids, kept = decoder.sparse(arrays)
                tail = decoder.tail_log_mass(arrays, temperature)
                return sparse_kd_loss(logits, ids, kept, tail, temperature), ids[:, 0]
        teacher = batch.logits(temperature)
        if self.recipe.loss == "dkd":
            alpha, beta = self.recipe.dkd_alpha, self.recipe.dkd_beta
            return decoupled_kd_loss(logits, teacher, batch.class_ids, temperature, alpha, beta), teacher.argmax(1)
        return kd_loss(logits, teacher, temperature), teacher.argmax(1)

    def _hard(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with the class asked for; of a mixed view, with both classes, each by its share."""
        if batch.partners is None:
            return hard_label_loss(logits, batch.class_ids, self.recipe.label_smoothing)
        own, other = (F.one_hot(b.class_ids, logits.shape[1]).float() for b in (batch, batch.partners))
        share = batch.own_share()[:, None]
        return hard_label_loss(logits, share * own + (1 - share) * other, self.recipe.label_smoothing)


def teacher_width(decoder: BatchDecoder) -> int:
    """Width d of the features that the first label set holds, of codec ``features``."""
    coder: Any = next(iter(decoder.decoders.values())).coder
    return coder.weight.shape[1]
