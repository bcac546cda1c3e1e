"""From a batch's arrays to what a student learns from: pixels, the teachers' logits, how much of each view is the image's own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dmkd.loading.torch_codecs import LabelDecoder
from dmkd.runtime.accelerators import upload
from dmkd.stores import UsageError, ViewSet
from dmkd.views.render import render
from dmkd.views.shown import DrawnViews

LabelArrays = Mapping[str, Mapping[str, torch.Tensor]]  # label set -> the codec's arrays, (n, ...)


@dataclass(frozen=True)
class BatchDecoder:
    """Views and labels of one loader, for arrays on its device."""

    view_set: ViewSet | DrawnViews
    decoders: Mapping[str, LabelDecoder]  # by label set
    weights: Mapping[str, float]  # of the label sets, 1 in all
    device: str

    def pixels(
        self,
        images: torch.Tensor,
        views: np.ndarray,
        partners: tuple[torch.Tensor, np.ndarray] | None = None,
        *,
        size: int | None = None,
        interpolation: str | None = None,
    ) -> torch.Tensor:
        """The views, mixed if they mix: uint8 (n, 3, S, S), the very pixels that the teachers saw.

        ``images`` uint8 (n, H, W, 3), ``views`` float32 (n, P); ``partners``: the same two of the images mixed in. ``size`` S
        and ``interpolation`` None: those of the view set.
        """
        options: dict[str, Any] = {
            "size": size or self.view_set.attributes["size"],
            "interpolation": interpolation or self.view_set.attributes["interpolation"],
            "components": self.view_set.components,
            "padding": self.view_set.padding,
        }
        if partners is None:
            return render(images, views, **options)
        images, views = torch.cat([images, partners[0]]), np.concatenate([views, partners[1]])
        return render(images, views, partners=np.arange(len(views) // 2, len(views)), **options)

    def logits(self, labels: LabelArrays, temperature: float = 1.0) -> torch.Tensor:
        """The teachers' logits, float32 (n, C), for softmax(logits / temperature).

        Of several label sets: the logits whose softmax at this temperature is the weighted mean of theirs. Raises
        ``UsageError`` if there are no labels.
        """
        if not labels:
            raise UsageError("There are no logits: the loader was made without labels.")
        decoded = [self.decoders[name].decode(arrays, temperature) for name, arrays in labels.items()]
        if len(decoded) == 1:
            return decoded[0]
        log_weights = [math.log(self.weights[name]) for name in labels]
        each = [w + torch.log_softmax(z / temperature, 1) for w, z in zip(log_weights, decoded, strict=True)]
        return temperature * torch.logsumexp(torch.stack(each), 0)

    def own_share(self, views: np.ndarray) -> torch.Tensor:
        """How much of each of ``views``, float32 (n, P), shows the image itself and not its partner: float32 (n,), 1 where
        nothing is mixed."""
        component = {name: views[:, place] for place, name in enumerate(self.view_set.components)}
        if "weight" in component:
            share = component["weight"]
        elif "mix_height" in component:
            share = 1 - component["mix_height"] * component["mix_width"]
        else:
            share = np.ones(len(views), np.float32)
        return upload(share.copy(), self.device)
