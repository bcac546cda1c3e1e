"""View policies: how the views of an image are to be drawn; ``dmkd.views.draw`` draws them, ``dmkd.views.render`` renders.

A view is a row of float32 components. The first five are the same everywhere::

    top, left, height, width    crop box, as fractions of the image's height and width
    flip                        1: mirrored after cropping

A set that mixes images adds the partner's row within its block and how much of it is seen. The partner is seen through
its own view of the same index (its own crop and flip), so neither labelling nor training reads a second block::

    cutmix    partner, mix_top, mix_left, mix_height, mix_width    pasted rectangle, as fractions of the S x S view
    mixup     partner, weight                                      the image's own share, a multiple of 1/256

Boxes of views of kind pad may leave their image by ``padding`` pixels: what lies outside is black.

Random boxes and pasted rectangles are whole pixels: ``round(fraction * size)`` gives the pixels back exactly. Where views
are rendered to another size than the view set's, the edges of pasted rectangles are rounded to that size's pixels.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn

from dmkd.stores.errors import UsageError

Box = tuple[float, float, float, float]  # top, left, height, width: fractions of the image

VIEW_COMPONENTS = ("top", "left", "height", "width", "flip")
MIX_COMPONENTS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "cutmix": ("partner", "mix_top", "mix_left", "mix_height", "mix_width"),
    "mixup": ("partner", "weight"),
}

# Beta(alpha, alpha). CutMix: Yun et al. 2019, section 3.1. mixup: 0.2 for ImageNet (Zhang et al. 2018, section 3.1, and
# torchvision's reference recipe). "Patient" distillation (Beyer et al. 2022) draws the weight uniformly: alpha=1.
DEFAULT_ALPHA = {"cutmix": 1.0, "mixup": 0.2}

MAX_RANDOM_VIEWS = 4096
MIXUP_LEVELS = 256

DEFAULT_PADDING, MAX_PADDING = 4, 256  # pixels; 4 at 32x32 since He et al. 2016, section 4.2

RANDOM_KINDS = ("rrc", "pad")

_EXAMPLES = "for example center, rrc:8, rrc:8,scale=0.6:1,flip=0, rrc:50+cutmix or pad:8"
_OPTIONS = ("scale", "ratio", "flip", "alpha", "padding")


@dataclass(frozen=True)
class ViewPolicy:
    """How the views of an image are drawn: the teacher's evaluation view alone, RandomResizedCrop views, or crops of the padded
    image.

    ``alpha`` and ``padding`` None stand for their defaults where they belong, and are resolved. Raises ``UsageError`` for
    values out of range.
    """

    kind: str = (
        "center"  # "center": the evaluation view; "rrc": RandomResizedCrop; "pad": RandomCrop of the padded image
    )
    num_random: int = 0  # random views an image
    scale: tuple[float, float] = (0.08, 1.0)  # crop area / image area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # crop width / crop height
    flip: float = 0.5  # probability of mirroring a random view
    mix: str | None = None  # None, "cutmix" or "mixup"
    alpha: float | None = None  # of the mix's Beta(alpha, alpha)
    padding: int | None = None  # pixels of black on each side, of kind pad

    def __post_init__(self) -> None:
        if self.kind not in ("center", *RANDOM_KINDS):
            _refuse(f"No kind of view is called {self.kind!r}")
        if self.kind == "center":
            if any(getattr(self, field.name) != field.default for field in fields(self)):
                _refuse("Views of kind center take no number, mix or options")
            return
        if not 1 <= self.num_random <= MAX_RANDOM_VIEWS:
            _refuse(f"The number of random views must be 1 to {MAX_RANDOM_VIEWS}, not {self.num_random}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            _refuse(f"The views' scale must be two shares of the area, 0 < low <= high <= 1, not {_pair(self.scale)}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            _refuse(f"The views' ratio must be two widths over heights, 0 < low <= high, not {_pair(self.ratio)}")
        if self.kind == "pad":
            if self.scale != ViewPolicy.scale or self.ratio != ViewPolicy.ratio:
                _refuse("The options scale and ratio belong to views of kind rrc")
            padding = DEFAULT_PADDING if self.padding is None else self.padding
            if not 1 <= padding <= MAX_PADDING or padding != int(padding):
                _refuse(f"The views' padding must be 1 to {MAX_PADDING} whole pixels, not {_number(padding)}")
            object.__setattr__(self, "padding", int(padding))
        elif self.padding is not None:
            _refuse("The option padding belongs to views of kind pad (pad:8,padding=4)")
        if not 0 <= self.flip <= 1:
            _refuse(f"The views' flip must be a probability from 0 to 1, not {_number(self.flip)}")
        if self.mix not in MIX_COMPONENTS:
            _refuse(f"No way of mixing views is called {self.mix!r}; there are cutmix and mixup")
        if self.mix is None and self.alpha is not None:
            _refuse("The option alpha belongs to mixed views (rrc:8+mixup,alpha=0.2)")
        if self.mix is not None:
            alpha = DEFAULT_ALPHA[self.mix] if self.alpha is None else self.alpha
            if not 0.01 <= alpha <= 100:
                _refuse(f"The views' alpha must be from 0.01 to 100, not {_number(alpha)}")
            object.__setattr__(self, "alpha", alpha)

    def __str__(self) -> str:
        """The text that :func:`parse_policy` reads, without what is default."""
        if self.kind == "center":
            return "center"
        text = f"{self.kind}:{self.num_random}" + (f"+{self.mix}" if self.mix else "")
        default = ViewPolicy(self.kind, 1, mix=self.mix)
        for option in _OPTIONS:
            value = getattr(self, option)
            if value != getattr(default, option):
                text += f",{option}={_pair(value) if isinstance(value, tuple) else _number(value)}"
        return text

    @property
    def name(self) -> str:
        """A name for the view set, fit for a folder: center, rrc8, rrc50-cutmix, pad8."""
        return self.kind + (str(self.num_random) if self.num_random else "") + (f"-{self.mix}" if self.mix else "")

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the P components of a view."""
        return VIEW_COMPONENTS + MIX_COMPONENTS[self.mix]

    def num_views(self, first: bool) -> int:
        """V: the random views, after the canonical one in a store's ``first`` view set and in sets of kind center."""
        return int(first or self.kind == "center") + self.num_random

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists; :meth:`from_json` reads them back. ``padding`` is named by kind pad alone: policies
        were written before there was any, and are what identifies views."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if name != "padding" or value is not None}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> "ViewPolicy":
        """The policy that ``to_json`` described. Raises ``UsageError`` for unknown fields and values out of range."""
        unknown = sorted(set(description) - {field.name for field in fields(cls)})
        if unknown:
            raise UsageError(f"The view policy has a field {unknown[0]!r} that this version of dmkd does not know.")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in description.items()
        }
        return cls(**values)


@dataclass(frozen=True)
class ViewsWanted:
    """What ``--views`` says: how views are drawn, and the size that they are rendered to."""

    policy: ViewPolicy
    size: int | None = None  # pixels, height and width; None: as the first teacher takes them

    def __str__(self) -> str:
        """The text that :func:`parse_views` reads, without what is default."""
        return str(self.policy) + (f",size={self.size}" if self.size else "")


def parse_views(text: str) -> ViewsWanted:
    """Read a policy and, among its options, a size: ``rrc:8``, ``rrc:8,size=32``, ``center,size=64``. Raises ``UsageError``."""
    head, *options = text.split(",")
    sizes = [option for option in options if re.match(r"\s*size\s*=", option)]
    policy = parse_policy(",".join([head, *(option for option in options if option not in sizes)]))
    if not sizes:
        return ViewsWanted(policy)
    number = sizes[0].partition("=")[2].strip()
    if len(sizes) > 1 or not re.fullmatch(r"[0-9]{1,4}", number) or int(number) < 1:
        _refuse(f"Views {text!r}: size takes one number of pixels, 1 to 9999, given once")
    return ViewsWanted(policy, int(number))


def parse_policy(text: str) -> ViewPolicy:
    """Read ``center``, ``rrc:8``, ``rrc:8,scale=0.6:1,ratio=3/4:4/3,flip=0``, ``rrc:8+mixup,alpha=0.2``, ``pad:8,padding=4``.

    ``str(policy)`` gives the text back, without what is default. Raises ``UsageError``.
    """
    head, *options = text.strip().split(",")
    parts = re.fullmatch(r"(\w+)(?::(\d{1,9}))?(?:\+(\w+))?", head.strip())
    if not parts:
        _refuse(f"Views {text!r} can't be read")
    kind, number, mix = parts.groups()
    if kind in RANDOM_KINDS and number is None:
        _refuse(f"Views {text!r} lack the number of random views")
    values: dict[str, Any] = {}
    for option in options:
        name, equals, value = (part.strip() for part in option.partition("="))
        if name not in _OPTIONS or not equals or name in values:
            _refuse(
                f"Views {text!r}: {option.strip()!r} is not one of scale=, ratio=, flip=, alpha=, padding= and size=, each given "
                "once"
            )
        numbers = [_parse_number(part) for part in value.split(":")]
        wanted, shown = (2, "two numbers, low:high") if name in ("scale", "ratio") else (1, "one number")
        if len(numbers) != wanted or any(map(math.isnan, numbers)):
            _refuse(f"Views {text!r}: {name} takes {shown}")
        values[name] = tuple(numbers) if len(numbers) == 2 else numbers[0]
    return ViewPolicy(kind, int(number or 0), mix=mix, **values)


def canonical_box(
    image_size: tuple[int, int], input_size: int, crop_pct: float | None = None, crop_mode: str | None = "center"
) -> Box:
    """The part of an (H, W) image that a classifier is evaluated on: top, left, height, width, fractions of the image.

    Resampling this box to ``input_size`` squared is timm's evaluation transform (``timm.data.transforms_factory.
    transforms_imagenet_eval``): resize the shortest edge to floor(input_size / crop_pct), cut the centre square
    (torchvision's rounding); with ``crop_mode`` "squash" both edges are resized. timm's default ``crop_pct`` is 0.875.
    Raises ``UsageError`` where timm would pad the image: no box shows that.
    """
    height, width = image_size
    resized = math.floor(input_size / (crop_pct or 0.875))
    if crop_mode not in ("center", "squash", "border", None):
        raise UsageError(f"The crop mode {crop_mode!r} is unknown; there are center, squash and border.")
    if resized < input_size:
        raise UsageError(
            f"A crop_pct of {crop_pct} would pad the image around its edges; choose at most 1 for the teacher."
        )
    if crop_mode == "border" and height != width:
        raise UsageError(f"The crop mode border pads images of {height}x{width}; choose center or squash instead.")
    if crop_mode == "squash":
        resized_height = resized_width = resized
    else:
        short = min(height, width)
        resized_height, resized_width = int(resized * height / short), int(resized * width / short)
    # round() as torchvision's CenterCrop: halves go to the even pixel.
    top, left = round((resized_height - input_size) / 2.0), round((resized_width - input_size) / 2.0)
    return top / resized_height, left / resized_width, input_size / resized_height, input_size / resized_width


def _parse_number(text: str) -> float:
    """A decimal number or a fraction such as 4/3; not a number if it is neither."""
    parts = re.fullmatch(r"([0-9.eE+-]+)(?:/([0-9.eE+-]+))?", text.strip())
    try:
        return float(parts[1]) / float(parts[2] or 1) if parts else math.nan
    except (ValueError, ZeroDivisionError):
        return math.nan


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _pair(values: tuple[float, float]) -> str:
    return ":".join(_number(value) for value in values)


def _refuse(what: str) -> NoReturn:
    raise UsageError(f"{what}; {_EXAMPLES}.")
