"""How images are brought to a model: by timm's words, from those of other libraries."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dmkd.stores.errors import UsageError
from dmkd.views.resampling import INTERPOLATIONS


@dataclass(frozen=True)
class Preprocessing:
    """Resized so that the shorter side is ``input_size / crop_pct``, cut to the centre ``input_size`` squared (``crop_mode``
    "squash": both sides resized), divided by 255, less ``mean``, over ``std``."""

    input_size: int = 224
    interpolation: str = "bilinear"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def preprocessing_from(given: Any, source: str) -> Preprocessing:
    """From a mapping with any of the fields, as timm's ``resolve_model_data_config`` returns it, or from the transforms of
    torchvision's weights. Raises ``UsageError`` for anything else, and for values that no view has."""
    if not isinstance(given, Mapping):
        if hasattr(given, "crop_size") and hasattr(given, "resize_size"):
            return of_torchvision(given)
        raise UsageError(
            f"{source}: its preprocessing must be a dict, such as dict(input_size=224), not {type(given).__name__}."
        )
    known = [field.name for field in fields(Preprocessing)]
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(f"{source}: its preprocessing has no {unknown[0]!r}; it may have {', '.join(known)}.")
    values = dict(given)
    try:
        if isinstance(size := values.get("input_size", 224), tuple | list):  # timm's (channels, height, width)
            *_, height, width = size
            if height != width:
                raise UsageError(f"{source} takes {height}x{width} images; dmkd labels square views only.")
            size = height
        values["input_size"] = int(size)
        values["crop_pct"] = float(values.get("crop_pct", Preprocessing.crop_pct))
        for name in ("mean", "std"):
            values[name] = tuple(map(float, values.get(name, getattr(Preprocessing, name))))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{source}: its preprocessing can't be read ({error}).") from error
    found = Preprocessing(**values)
    if len(found.mean) != 3 or len(found.std) != 3 or 0 in found.std or found.input_size < 1:
        raise UsageError(
            f"{source}: its preprocessing needs three numbers as mean, three as std, none of them 0, and a size."
        )
    if found.interpolation not in INTERPOLATIONS:
        raise UsageError(
            f"{source}: its interpolation {found.interpolation!r} is unknown; there are {', '.join(INTERPOLATIONS)}."
        )
    return found


def of_torchvision(transforms: Any) -> Preprocessing:
    """Of the ``transforms()`` of torchvision's classification weights."""
    (size,), (resized,) = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        size,
        transforms.interpolation.value,
        crop_pct_of(size, resized),
        "center",
        tuple(transforms.mean),
        tuple(transforms.std),
    )


def crop_pct_of(size: int, resized: int) -> float:
    """The share of an edge of ``resized`` pixels that ``size`` pixels are, such that floor(size / share) is ``resized``."""
    share = size / resized
    return share if math.floor(size / share) == resized else math.nextafter(share, 0)
