"""A generator of the user's own: made by its factory, asked for its facts, tried, and held to the protocol in every call."""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dmkd.generators.defaults import cpu_sub_batch, defaults_for_classes
from dmkd.generators.interface import Told
from dmkd.recipes.guidance import parse_guidance
from dmkd.recipes.image_options import ImageOptions
from dmkd.recipes.recipe import SAMPLING
from dmkd.runtime.devices import make_deterministic, release_gpu_memory
from dmkd.runtime.failures import named_line
from dmkd.runtime.own_code import own_function
from dmkd.stores.errors import DmkdError, UsageError

DECLARABLE = ("steps", "guidance")  # options that a generator may understand
DEFAULTS = {"images": int, "teacher": str, "views": str}  # of stores, that a generator may know better
OTHERS = ("preset", *SAMPLING, "dtype", "vae_dtype", "compile", "prompts", "negative_prompt")
NEEDED = "class_names or num_classes, image_size, sha256 and sample(class_ids, seeds)"
TRIED = 2  # images of a trial


@dataclass(frozen=True)
class PluginInfo:
    """What a plug-in says of itself."""

    name: str  # as the user wrote it
    image_size: int  # pixels, height and width
    num_classes: int
    class_names: tuple[str, ...]
    sha256: str
    cpu_sub_batch: int
    options: Mapping[str, Any] = field(
        default_factory=dict
    )  # those of DECLARABLE that it understands, with its defaults
    suited: Mapping[str, Any] = field(default_factory=dict)  # its own defaults, of DEFAULTS

    @property
    def takes_dtype(self) -> bool:
        return False

    @property
    def can_be_compiled(self) -> bool:
        return False

    @property
    def can_be_steered(self) -> bool:
        return False

    @property
    def least_guidance(self) -> float:
        return 0

    def defaults(self, of_source: Mapping[str, Any], images: ImageOptions) -> Mapping[str, Any]:
        return {**of_source, **defaults_for_classes(self.class_names), **self.options, **self.suited}

    def notices(self, images: ImageOptions) -> list[str]:
        return []

    def sampling(self, images: ImageOptions, defaults: Mapping[str, Any]) -> dict[str, Any]:
        for option in OTHERS:
            if getattr(images, option) not in (None, False) and option not in self.options:
                known = " and ".join(f"--{name}" for name in self.options)
                raise UsageError(
                    f"--{option.removesuffix('s') if option == 'prompts' else option.replace('_', '-')}: the generator "
                    f"{self.name} does not understand it"
                    + (
                        f"; of the options of sampling it takes {known}."
                        if known
                        else ", nor any other option of sampling."
                    )
                )
        fields: dict[str, Any] = dict.fromkeys(SAMPLING)
        if "steps" in self.options:
            fields["steps"] = images.given("steps", defaults["steps"])
        if "guidance" in self.options:
            fields["guidance"] = parse_guidance(images.given("guidance", defaults["guidance"]), self.least_guidance)
        return fields


class Plugin:
    """A plug-in as ``ImageGenerator``."""

    def __init__(self, info: PluginInfo, made: Any, device: str) -> None:
        self.info, self._made, self.device = info, made, torch.device(device)

    @torch.no_grad()
    def sample(
        self, class_ids: Sequence[int] | np.ndarray, seeds: Sequence[int] | np.ndarray, **options: Any
    ) -> torch.Tensor:
        """Images of class ids (n,) from seeds (n,): uint8 (n, H, W, 3) on the device. ``options``: those of ``info.options``.

        Raises what the plug-in raises, and ``UsageError`` if it gives something else.
        """
        images = self._made.sample(np.array(class_ids, np.int32), np.array(seeds, np.int64), **options)
        wanted = (len(class_ids), self.info.image_size, self.info.image_size, 3)
        if not isinstance(images, np.ndarray | torch.Tensor):
            raise self._broken(f"an object of type {type(images).__name__}", wanted)
        found = tuple(images.shape), str(images.dtype).removeprefix("torch.")
        if found != (wanted, "uint8"):
            raise self._broken(f"{found[1]} {found[0]}", wanted)
        return (torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images).to(self.device)

    def _broken(self, found: str, wanted: tuple[int, ...]) -> UsageError:
        return UsageError(
            f"{self.info.name}: sample gave {found} where uint8 {wanted} is wanted: images, height, width, RGB, as an array of "
            "numpy or a tensor of torch."
        )


def make_plugin(name: str, factory: str, told: Told, device: str | None = None) -> Plugin:
    """What ``factory`` (``package.module:function``) makes, with the arguments that are told, on a device (None: the one told).

    Raises ``UsageError`` in one sentence if there is no such function, it fails, or what it makes is no generator.
    """
    device = device or told.device
    function = own_function(factory)
    try:
        made = function(device, **told.arguments)
    except DmkdError:
        raise
    except Exception as error:
        raise UsageError(f"{name}: {factory} failed: {named_line(error)}.") from error
    return Plugin(_facts(name, made, told), made, device)


def describe_plugin(name: str, factory: str, told: Told) -> PluginInfo:
    """What it is, after trying it on the device that is told. Raises what :func:`make_plugin` and :func:`try_out` do."""
    make_deterministic(told.device, None)
    plugin = make_plugin(name, factory, told)
    try_out(plugin)
    info = plugin.info
    del plugin
    release_gpu_memory()  # workers come next
    return info


def try_out(plugin: Plugin) -> None:
    """Sample a few images, others, and the first ones again.

    Raises ``UsageError`` if that fails, if they are no images, or if the first ones have become others."""
    info = plugin.info
    options = dict(info.options)
    if "guidance" in options:
        options["guidance"] = np.full(
            TRIED, np.max(parse_guidance(options["guidance"], info.least_guidance)), np.float32
        )
    ids = np.arange(2 * TRIED)
    first, other = np.split(ids % info.num_classes, 2)
    try:
        images = plugin.sample(first, ids[:TRIED], **options).clone()
        plugin.sample(other, ids[TRIED:], **options)
        again = plugin.sample(first, ids[:TRIED], **options)
    except DmkdError:
        raise
    except Exception as error:
        raise UsageError(f"{info.name}: sample failed: {named_line(error)}.") from error
    if not torch.equal(images, again):
        raise UsageError(
            f"{info.name}: the same class ids and seeds gave other images the second time: whatever is drawn must come from "
            "each image's seed alone (torch.Generator().manual_seed(seed), for example), and nothing from earlier calls."
        )


def _facts(name: str, made: Any, told: Told) -> PluginInfo:
    """What a plug-in says of itself. Raises ``UsageError`` if that is no generator, or if it can't be what was told."""
    lacks = [one for one in ("image_size", "sha256", "sample") if not hasattr(made, one)]
    if not (hasattr(made, "class_names") or hasattr(made, "num_classes")):
        lacks.insert(0, "class_names or num_classes")
    if lacks:
        raise UsageError(
            f"{name}: the {type(made).__name__} that it returns has no {', '.join(lacks)}; a generator has {NEEDED}."
        )
    if not callable(made.sample):
        raise UsageError(f"{name}: sample must be a method: sample(class_ids, seeds).")
    image_size = _whole(name, "image_size", made.image_size)
    if told.image_size not in (None, image_size):
        raise UsageError(f"--image-size {told.image_size}: {name} makes images of {image_size} pixels, and no other.")
    if not isinstance(made.sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", made.sha256):
        raise UsageError(
            f"{name}: sha256 must be 64 hexadecimal digits that change with the weights, not {made.sha256!r}; "
            "dmkd.generators.state_dict_sha256(model) gives them."
        )
    names = _class_names(name, made, told)
    sub_batch = _whole(name, "cpu_sub_batch", getattr(made, "cpu_sub_batch", cpu_sub_batch(image_size)))
    options = _options(name, getattr(made, "options", {}))
    suited = _defaults(name, getattr(made, "defaults", {}))
    return PluginInfo(name, image_size, len(names), names, made.sha256.lower(), sub_batch, options, suited)


def _class_names(name: str, made: Any, told: Told) -> tuple[str, ...]:
    own = getattr(made, "class_names", None)
    if own is not None:
        if isinstance(own, str) or not all(isinstance(one, str) and one.strip() for one in own) or not len(own):
            raise UsageError(f"{name}: class_names must be texts, one a class.")
        if (count := getattr(made, "num_classes", len(own))) != len(own):
            raise UsageError(f"{name}: num_classes is {count!r}, and there are {len(own)} class_names.")
        if told.class_names is not None:
            raise UsageError(f"--class-names: {name} has names of its own for its classes; leave the option out.")
        return tuple(own)
    count = _whole(name, "num_classes", made.num_classes)
    if told.class_names is None:
        return tuple(f"class {number}" for number in range(count))
    if len(told.class_names) != count:
        raise UsageError(f"--class-names gives {len(told.class_names)} names, and {name} has {count} classes.")
    return tuple(told.class_names)


def _options(name: str, declared: Any) -> dict[str, Any]:
    """The options that a plug-in declares, with its defaults, as they are recorded."""
    if not isinstance(declared, Mapping) or not declared.keys() <= set(DECLARABLE):
        raise UsageError(
            f"{name}: options must say which of {' and '.join(DECLARABLE)} it understands, with their defaults, such as "
            f'{{"steps": 4}}, not {declared!r}.'
        )
    options = dict(declared)
    if "steps" in options:
        options["steps"] = _whole(name, 'options["steps"]', options["steps"])
    if "guidance" in options:
        options["guidance"] = parse_guidance(options["guidance"], least=0)
    return options


def _defaults(name: str, declared: Any) -> dict[str, Any]:
    """What a plug-in says suits stores of its images."""
    if not isinstance(declared, Mapping) or not all(
        isinstance(value, DEFAULTS.get(key, type(None))) for key, value in declared.items()
    ):
        raise UsageError(
            f"{name}: defaults may hold images (a number), teacher and views (texts, as the options take them), such as "
            f'{{"images": 3000, "views": "center"}}, not {declared!r}.'
        )
    return dict(declared)


def _whole(name: str, what: str, value: Any) -> int:
    """A whole number, 1 or more."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise UsageError(f"{name}: {what} must be a whole number, 1 or more, not {value!r}.")
    return number
