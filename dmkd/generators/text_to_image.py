"""Text-to-image pipelines of diffusers as generators of labelled images: a prompt names the class.

The pipeline's own ``__call__`` samples; dmkd gives it one noise generator an image and caches what its text encoders return.
Whatever in it depends on more than the recipe is off: the safety checker (it would store black images), SDXL's
watermark and PixArt's cleaning of captions (both only where certain packages are installed), and the rounding of the
image size to those that the model was trained on.

Supported are pipelines that diffusers has a class for, with a VAE, ``encode_prompt``, a guidance scale, and no image as
input. This module needs the extra ``dmkd[t2i]`` (transformers).
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd.generators.defaults import DM_KD_DEFAULTS, cpu_sub_batch, text_to_image_defaults
from dmkd.generators.distilled import Distilled, distilled
from dmkd.generators.hub import resolve_folder, weights_sha256
from dmkd.generators.pipeline_files import read_json
from dmkd.generators.pipeline_parts import (
    assemble,
    check_image_size,
    own_image_size,
    pipeline_class,
    pipeline_components,
)
from dmkd.generators.pixels import not_finite, to_uint8
from dmkd.generators.prompt_cache import PromptCache
from dmkd.generators.samplers import OWN_SCHEDULER, SAMPLERS, check_steps, replacements
from dmkd.generators.sampling import image_generators
from dmkd.recipes.dtypes import FLOAT8
from dmkd.recipes.guidance import parse_guidance
from dmkd.recipes.image_options import ImageOptions
from dmkd.recipes.prompts import DEFAULT_TEMPLATE, Wording, parse_templates
from dmkd.stores.errors import DmkdError, UsageError

FEW_STEPS = 8  # a pipeline whose own default is no more was made for such checkpoints, and knows their guidance


@dataclass(frozen=True)
class TextToImageInfo:
    """What a text-to-image generator is, from its configuration files."""

    name: str  # hub id, or the folder's name
    source: str  # as the user gave it
    folder: Path  # where its files are on this machine
    pipeline: str  # the class in diffusers
    image_size: int  # pixels, height and width
    class_names: tuple[str, ...]  # as given, one a class, all its synonyms, comma-separated
    num_train_timesteps: int
    default_steps: int
    default_guidance: float
    distilled: Distilled | None  # to a few steps; None: nothing tells so
    sha256: str  # of the weights and of the configurations and tokenizers that pixels depend on

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def takes_dtype(self) -> bool:
        return True

    @property
    def can_be_compiled(self) -> bool:
        return False

    @property
    def can_be_steered(self) -> bool:
        return False

    @property
    def least_guidance(self) -> float:
        return 0

    @property
    def cpu_sub_batch(self) -> int:
        return cpu_sub_batch(self.image_size)

    def defaults(self, of_source: Mapping[str, Any], images: ImageOptions) -> Mapping[str, Any]:
        return text_to_image_defaults(self.default_steps, self.default_guidance, self.class_names)

    def notices(self, images: ImageOptions) -> list[str]:
        if self.distilled is None or (images.steps is not None and images.guidance is not None):
            return []
        return [
            f"{self.name} looks like a checkpoint that was distilled to {self.distilled.steps} steps or fewer "
            f"({self.distilled.sign}): unless --steps and --guidance say otherwise, it takes {self.default_steps} steps at "
            f"guidance {self.default_guidance:g}."
        ]

    def sampling(self, images: ImageOptions, defaults: Mapping[str, Any]) -> dict[str, Any]:
        if images.compile:
            raise UsageError(
                "--compile is for class-conditional generators; text-to-image pipelines can't be compiled."
            )
        asked = {"preset": images.preset, "vae-dtype": images.vae_dtype, "dtype float8": images.dtype == FLOAT8}
        for option, value in asked.items():
            if value:
                raise UsageError(
                    f"--{option} is for class-conditional generators; {self.name} is a text-to-image pipeline."
                )
        for option in ("guidance_interval", "guided_channels"):
            if getattr(images, option) is not None:
                raise UsageError(
                    f"--{option.replace('_', '-')} is for class-conditional generators; {self.name} is a text-to-image "
                    "pipeline, which guides all channels at all steps."
                )
        guidance = parse_guidance(images.given("guidance", defaults["guidance"]), self.least_guidance)
        if isinstance(guidance, tuple):
            raise UsageError(
                f"--guidance {images.guidance}: {self.name} is a text-to-image pipeline, which takes one scale for all images."
            )
        sampler, steps = images.given("sampler", defaults["sampler"]), images.given("steps", defaults["steps"])
        scheduler = make_text_scheduler(read_json(self.folder / "scheduler/scheduler_config.json"), sampler)
        own = (1, self.num_train_timesteps)
        check_steps(
            sampler, steps, own if sampler == OWN_SCHEDULER else SAMPLERS[sampler].steps(self.num_train_timesteps)
        )
        if sampler != OWN_SCHEDULER:
            SAMPLERS[sampler].check_start({**scheduler.config, "_class_name": type(scheduler).__name__}, steps)
        if images.negative_prompt is not None:
            self._check_negative_prompt(guidance)
        return {
            "sampler": sampler,
            "steps": steps,
            "guidance": guidance,
            "guidance_interval": None,
            "guided_channels": None,
            "prompts": parse_templates(images.prompts or (DEFAULT_TEMPLATE,)),
            "negative_prompt": images.negative_prompt,
        }

    def _check_negative_prompt(self, guidance: float) -> None:
        """Raise ``UsageError`` unless the pipeline uses one."""
        import diffusers

        if not _is_guided(inspect.signature(getattr(diffusers, self.pipeline).__call__).parameters):
            raise UsageError(
                f"--negative-prompt: a {self.pipeline} has its guidance built in and ignores negative prompts."
            )
        if guidance <= 1:
            raise UsageError(f"--negative-prompt has no effect with guidance {guidance:g}: give one above 1.")


def describe_text_to_image(
    source: str, index: dict[str, Any], *, class_names: Sequence[str] | None, image_size: int | None
) -> TextToImageInfo:
    """What the text-to-image pipeline with this ``model_index.json`` is; its weights are read for the sha256 only.

    Raises ``UsageError`` if dmkd can't sample it, class names are missing, or transformers is not installed.
    """
    if not class_names:
        raise UsageError(
            f"{source} is a text-to-image generator, so it needs class names: --class-names FILE, one name a line, "
            "or --class-names imagenet."
        )
    found = pipeline_class(source, index)
    components = pipeline_components(source, index)
    needs = ("model_index.json", *(need for component in components for need in component.needs()))
    folder = resolve_folder(source, needs=needs)
    files = [folder / "model_index.json", *(path for component in components for path in component.files(folder))]
    options = inspect.signature(found.__call__).parameters
    scheduler = read_json(folder / "scheduler/scheduler_config.json")
    steps, guidance = options["num_inference_steps"].default, float(options["guidance_scale"].default)
    if _is_guided(options):
        guidance = min(guidance, DM_KD_DEFAULTS["guidance"])
    of_few_steps = distilled(_names(source, folder, index), scheduler) if steps > FEW_STEPS else None
    if of_few_steps is not None:
        steps, guidance = of_few_steps.steps, of_few_steps.guidance
    return TextToImageInfo(
        name=source if not Path(source).expanduser().is_dir() else folder.resolve().name,
        source=source,
        folder=folder,
        pipeline=found.__name__,
        image_size=check_image_size(source, folder, image_size or own_image_size(folder, options)),
        class_names=tuple(class_names),
        num_train_timesteps=scheduler.get("num_train_timesteps", 1000),
        default_steps=steps,
        default_guidance=guidance,
        distilled=of_few_steps,
        sha256=weights_sha256({path.relative_to(folder).as_posix(): path for path in files}),
    )


def _is_guided(options: Mapping[str, Any]) -> bool:
    """Whether a pipeline with these options guides as it samples; False: guidance is an input of its model."""
    return "negative_prompt" in options and "true_cfg_scale" not in options


def _names(source: str, folder: Path, index: Mapping[str, Any]) -> list[str]:
    """What a pipeline and its denoiser are called."""
    own = folder.resolve().name if Path(source).expanduser().is_dir() else source
    models = (
        read_json(path) for path in (folder / "unet/config.json", folder / "transformer/config.json") if path.is_file()
    )
    return [own, *(str(config["_name_or_path"]) for config in (index, *models) if config.get("_name_or_path"))]


def make_text_scheduler(config: Mapping[str, Any], sampler: str) -> Any:
    """The scheduler that a pipeline's scheduler configuration describes, or one that replaces it: before its first step.

    Raises ``UsageError`` if there is no such sampler, it does not fit the pipeline, or it draws noise that would not
    depend on the image's seed alone.
    """
    import diffusers

    own = getattr(diffusers, str(config.get("_class_name")), None)
    if own is None:
        raise UsageError(
            f"The scheduler of this generator is a {config.get('_class_name')}, which diffusers does not know."
        )
    scheduler = own.from_config(config)
    known = replacements()
    if sampler in known:
        replacement = getattr(diffusers, str(known[sampler].scheduler))
        # Others would fail in their first step.
        fits = known[sampler].flow_matching or config.get("prediction_type") != "flow_prediction"
        if not fits or (replacement is not own and replacement not in scheduler.compatibles):
            raise UsageError(
                f"--sampler {sampler} does not fit this generator, which was made for {own.__name__}; "
                f"--sampler {OWN_SCHEDULER} uses that."
            )
        if replacement is not own:
            # Clipping to [-1, 1] is right for pixels but wrong for latents; DDIM does it by default.
            scheduler = replacement.from_config({"clip_sample": False, **scheduler.config})
    elif sampler != OWN_SCHEDULER:
        raise UsageError(
            f"Text-to-image generators are sampled with {OWN_SCHEDULER} (their own scheduler), {', '.join(known)}; "
            f"not with {sampler!r}."
        )
    if scheduler.config.get("stochastic_sampling") or type(scheduler).__name__ == "DPMSolverSDEScheduler":
        raise UsageError(_unseeded(f"The scheduler {type(scheduler).__name__}"))
    return scheduler


def load_text_to_image(
    info: TextToImageInfo, wording: Wording, *, device: torch.device | str, dtype: torch.dtype
) -> "TextToImageGenerator":
    """Load a pipeline's weights onto a device. Raises ``DmkdError`` if they are damaged or incomplete."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    pipe = assemble(info.source, info.folder, dtype)
    pipe.set_progress_bar_config(disable=True)
    return TextToImageGenerator(info, wording, pipe.to(device))


class TextToImageGenerator:
    """A frozen text-to-image pipeline and the wording of its prompts: (class ids, seeds) to images.

    An image depends on its class id, its seed, the wording, how it is sampled and the weights' dtype; the number of images
    sampled at once matters by a rounding error. Noise is drawn on the CPU, from one generator an image.
    """

    def __init__(self, info: TextToImageInfo, wording: Wording, pipe: Any) -> None:
        self.info = info
        self.wording = wording
        self.pipe = pipe
        self.device, self.dtype = torch.device(pipe.device), pipe.vae.dtype
        self.pipe.encode_prompt = PromptCache(pipe.encode_prompt, self.device)
        self._options = inspect.signature(type(pipe).__call__).parameters
        # Not the file's: pipelines correct known mistakes in old ones.
        self._scheduler_config = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
        self._finite: list[torch.Tensor] = []
        if hasattr(pipe.vae, "decoder"):
            # The pipeline clamps to [0, 1], which hides an infinity.
            pipe.vae.decoder.register_forward_hook(lambda _, __, output: self._finite.append(output.isfinite().all()))

    def sample(
        self,
        class_ids: torch.Tensor | np.ndarray | Sequence[int],
        seeds: torch.Tensor | np.ndarray | Sequence[int],
        *,
        sampler: str,
        steps: int,
        guidance: float | np.ndarray,
    ) -> torch.Tensor:
        """Images of class ids, int64 (n,), from seeds, int64 (n,) in [0, 2^32): uint8 (n, H, W, 3) on the device.

        ``guidance`` is one scale for all (or n equal ones): the pipelines take only one.

        Raises ``UsageError`` for an option out of range, ``DmkdError`` if a pixel is not finite or the pipeline
        misbehaves.
        """
        scales = np.unique(np.asarray(guidance, np.float32))
        if len(scales) > 1:
            raise UsageError(
                f"{self.info.name} is a text-to-image generator: it takes one guidance scale for all images."
            )
        classes, noise_seeds = np.asarray(class_ids, np.int64), np.asarray(seeds, np.int64)
        if len(classes) != len(noise_seeds):
            raise UsageError(
                f"There are {len(classes)} class ids but {len(noise_seeds)} seeds; every image needs one of each."
            )
        if len(classes) and not 0 <= classes.min() <= classes.max() < self.info.num_classes:
            raise UsageError(
                f"Class ids {classes.min()} to {classes.max()} are out of range: there are {self.info.num_classes} classes."
            )
        size = self.info.image_size
        if not len(classes):
            return torch.empty((0, size, size, 3), dtype=torch.uint8, device=self.device)

        self._finite.clear()
        # A fresh one: multistep schedulers keep state.
        self.pipe.scheduler = make_text_scheduler(self._scheduler_config, sampler)
        before = _random_state(self.device)
        images = self.pipe(
            prompt=self.wording.prompts(classes, noise_seeds),
            generator=image_generators(torch.from_numpy(noise_seeds)),
            num_inference_steps=steps,
            guidance_scale=float(scales[0]),
            height=size,
            width=size,
            output_type="pt",
            **self._more_options(len(classes), steps),
        ).images
        if any(not torch.equal(old, new) for old, new in zip(before, _random_state(self.device), strict=True)):
            raise DmkdError(_unseeded(f"The pipeline {self.info.name} with {type(self.pipe.scheduler).__name__}"))
        if images.shape != (len(classes), 3, size, size):
            raise DmkdError(
                f"{self.info.name} was asked for {size}x{size} pixels but made {images.shape[2]}x{images.shape[3]}: "
                "choose an --image-size that it can make."
            )
        images = images.float()
        finite = torch.stack([*self._finite, torch.isfinite(images).all()]).all()
        low, high = images.aminmax()
        if not finite:
            raise not_finite(self.info.name, "pixels", sampler, steps, scales[0], self.dtype)
        if low < 0 or high > 1:
            raise DmkdError(
                f"{self.info.pipeline} gives pixels from {low:g} to {high:g}, not 0 to 1, so dmkd can't use it."
            )
        return to_uint8(images)

    def _more_options(self, count: int, steps: int) -> dict[str, Any]:
        """Options that not every pipeline has."""
        wanted: dict[str, Any] = {"use_resolution_binning": False, "clean_caption": False}
        if steps != 2:
            wanted["intermediate_timesteps"] = None  # Sana Sprint takes this for two steps only
        if self.wording.negative_prompt is not None:
            wanted["negative_prompt"] = [self.wording.negative_prompt] * count
        return {name: value for name, value in wanted.items() if name in self._options}


def _random_state(device: torch.device) -> list[torch.Tensor]:
    """The state of the global random number generators: it changes when any number is drawn from them."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _unseeded(what: str) -> str:
    return (
        f"{what} draws noise that does not come from the image's seed, so its images could not be reproduced; "
        f"try another --sampler ({', '.join(replacements())})."
    )
