"""How images are brought to a model of transformers, from its image processor: by timm's words, tried on an image."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from dmkd.classifiers.sources.preprocessing import Preprocessing, crop_pct_of
from dmkd.runtime.failures import named_line
from dmkd.stores.errors import UsageError
from dmkd.views.policy import canonical_box
from dmkd.views.render import normalise, render

RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
TRIED = (150, 200)  # height and width: not square, or what is squashed would not show
GREY_LEVELS = 1.0  # on average; libraries round differently


def preprocessing_of(processor: Any, source: str) -> Preprocessing:
    """Of a loaded image processor. Raises ``UsageError`` if it does what no square view shows."""
    try:
        found = _read(processor)
        ours, theirs = _canonical(found), _theirs(processor)
    except Exception as error:
        raise _refused(source, named_line(error)) from error
    if theirs.shape[-2:] != (found.input_size, found.input_size):
        raise _refused(source, f"it makes {theirs.shape[-2]}x{theirs.shape[-1]} pixels of {TRIED[0]}x{TRIED[1]}")
    apart = (
        ((normalise(ours, found.mean, found.std)[0] - theirs) * 255 * torch.tensor(found.std)[:, None, None])
        .abs()
        .mean()
        .item()
    )
    if not apart <= GREY_LEVELS:
        raise _refused(source, f"what it makes of an image is {apart:.0f} grey levels from that")
    return found


def _read(processor: Any) -> Preprocessing:
    does = {name: bool(getattr(processor, f"do_{name}", False)) for name in ("center_crop", "normalize")}
    size, crop = _sides(processor.size), _sides(processor.crop_size) if does["center_crop"] else {}
    share = getattr(processor, "crop_pct", None)
    squash = "height" in size
    resized = size.get("height") or size["shortest_edge"]
    cut = crop.get("height") or crop.get("shortest_edge") or resized
    if share and not squash:  # ConvNeXt's: larger images are squashed, and not cut
        squash, resized = resized >= 384, resized if resized >= 384 else int(resized / share)
    elif not squash and not does["center_crop"]:
        raise ValueError("it resizes the shorter side and cuts nothing off the longer one")
    plain = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    mean, std = (tuple(processor.image_mean), tuple(processor.image_std)) if does["normalize"] else plain
    return Preprocessing(
        cut, RESAMPLING[int(processor.resample)], crop_pct_of(cut, resized), "squash" if squash else "center", mean, std
    )


def _sides(size: Any) -> dict[str, int]:
    """A size of transformers as a dict without what it leaves open."""
    return {name: number for name, number in dict(size).items() if number is not None}


def _image() -> np.ndarray:
    """uint8 (H, W, 3), smooth, and different at each place and in each colour."""
    down, across = np.linspace(0, 1, TRIED[0])[:, None], np.linspace(0, 1, TRIED[1])[None]
    channels = [down * across, (1 - down) * across, 0.5 + 0.5 * np.sin(9 * down + 5 * across)]
    return np.round(255 * np.stack(np.broadcast_arrays(*channels), -1)).astype(np.uint8)


def _theirs(processor: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(processor(Image.fromarray(_image()), return_tensors="np")["pixel_values"][0]))


def _canonical(fed: Preprocessing) -> torch.Tensor:
    box = canonical_box(TRIED, fed.input_size, fed.crop_pct, fed.crop_mode)
    return render(
        _image()[None], np.array([[*box, 0]], np.float32), size=fed.input_size, interpolation=fed.interpolation
    )


def _refused(source: str, why: str) -> UsageError:
    return UsageError(
        f"The image processor of {source} does more than resize, cut the centre and normalise ({why}), and dmkd's views show "
        "nothing else: name a function of your own that returns the model and a preprocessing, --teacher package.module:function."
    )
