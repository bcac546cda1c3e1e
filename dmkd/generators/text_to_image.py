"""Text-to-image pipelines of diffusers as generators of labelled images: the class is told by its name in a prompt.

The pipeline's own ``__call__`` samples; dmkd gives it one noise generator an image and keeps what its text encoders say.
What in it depends on other things than the recipe is off: the safety checker (it would store black images), SDXL's
watermark and PixArt's cleaning of captions (both only where certain packages are installed), and the rounding of the
image size to those that the model was trained on.

Which pipelines: those that diffusers has a class for, with a VAE, ``encode_prompt``, a guidance scale, and no image as
input. This module needs the extra ``dmkd[t2i]`` (transformers).
"""

import importlib.util
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmkd.generators.dit import to_uint8
from dmkd.generators.hub import resolve_folder, weights_sha256
from dmkd.generators.pipeline_files import load_model, read_json
from dmkd.generators.sampling import image_generators
from dmkd.recipes.prompts import Wording
from dmkd.stores.errors import DmkdError, UsageError

OWN_SAMPLER = "pipeline"
# What may replace the pipeline's own scheduler, if diffusers says that the two are compatible.
_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}

_DROPPED = ("safety_checker", "feature_extractor", "image_encoder")  # the last two: for it, and for image prompts
_FLOW_DEFAULT_LATENT = 128  # Flux, Chroma and their kin say so in code rather than in a configuration

# Embeddings kept, on the CPU. Without room for all of them prompts are encoded again: a hundredth of an image's time.
_CACHE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class TextToImageInfo:
    """What a text-to-image generator is, as its configuration files tell."""

    name: str  # hub id, or the folder's name
    source: str  # as asked for
    folder: Path  # where its files are on this machine
    pipeline: str  # the class in diffusers
    image_size: int  # pixels, height and width
    class_names: tuple[str, ...]  # as told, one a class, all its synonyms, comma-separated
    num_train_timesteps: int
    default_steps: int
    default_guidance: float
    sha256: str  # of the weights and of the configurations and tokenizers that pixels depend on

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class _Component:
    """A part of a pipeline: a model with weights, the scheduler, or a tokenizer."""

    name: str
    library: str
    loader: Any  # its class

    @property
    def is_model(self) -> bool:
        return isinstance(self.loader, type) and issubclass(self.loader, torch.nn.Module)

    def weights(self) -> dict[str, str | None]:
        """Patterns of its weight files, best first, and the variant (see diffusers) that each of them is."""
        if self.library == "diffusers":
            stems = {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"}
        else:
            stems = {"safetensors": "model", "bin": "pytorch_model"}
        patterns: dict[str, str | None] = {}
        for variant in (None, "fp16"):
            tag = f".{variant}" if variant else ""
            for suffix, stem in stems.items():
                for name in (f"{stem}{tag}", f"{stem}{tag}-?????-of-?????", f"{stem}-?????-of-?????{tag}"):
                    patterns.setdefault(f"{self.name}/{name}.{suffix}", variant)
        return patterns

    def needs(self) -> tuple[str, ...]:
        """Its files, as ``resolve_folder`` wants to be told."""
        if self.is_model:
            return f"{self.name}/*.json", "|".join(self.weights())
        if self.name == "scheduler":
            return ("scheduler/scheduler_config.json",)
        return (f"{self.name}/*",)

    def files(self, folder: Path) -> list[Path]:
        """Those of its files that pixels depend on: of a model, what would be loaded, though there be other formats."""
        if self.is_model:
            return [folder / self.name / "config.json", *folder.glob(self._chosen(folder))]
        return [path for need in self.needs() for path in folder.glob(need) if path.is_file()]

    def load(self, folder: Path, dtype: torch.dtype) -> Any:
        if self.is_model:
            variant = self.weights()[self._chosen(folder)]
            return load_model(self.loader, folder, self.name, dtype, variant).eval().requires_grad_(False)
        try:
            return self.loader.from_pretrained(folder / self.name, local_files_only=True)
        except Exception as error:  # each tokenizer has its own, missing packages among them
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DmkdError(f"{folder / self.name} can't be loaded as {self.loader.__name__}: {reason}") from error

    def _chosen(self, folder: Path) -> str:
        return next(pattern for pattern in self.weights() if any(folder.glob(pattern)))


def describe_text_to_image(
    source: str, index: dict[str, Any], *, class_names: Sequence[str] | None, image_size: int | None
) -> TextToImageInfo:
    """What the text-to-image pipeline with this ``model_index.json`` is; its weights are read for the sha256 only.

    Raises ``UsageError`` if dmkd can't sample it, classes are not told, or transformers is not installed.
    """
    if not class_names:
        raise UsageError(
            f"{source} is a text-to-image generator, so it must be told its classes: --class-names FILE, one name a line, "
            "or --class-names imagenet."
        )
    pipeline_class = _pipeline_class(source, index)
    components = _components(source, index)
    needs = ("model_index.json", *(need for component in components for need in component.needs()))
    folder = resolve_folder(source, needs=needs)
    files = [folder / "model_index.json", *(path for component in components for path in component.files(folder))]
    options = inspect.signature(pipeline_class.__call__).parameters
    return TextToImageInfo(
        name=source if not Path(source).expanduser().is_dir() else folder.resolve().name,
        source=source,
        folder=folder,
        pipeline=pipeline_class.__name__,
        image_size=_check_image_size(source, folder, image_size or _own_image_size(folder, options)),
        class_names=tuple(class_names),
        num_train_timesteps=read_json(folder / "scheduler/scheduler_config.json").get("num_train_timesteps", 1000),
        default_steps=options["num_inference_steps"].default,
        default_guidance=float(options["guidance_scale"].default),
        sha256=weights_sha256({path.relative_to(folder).as_posix(): path for path in files}),
    )


def check_text_to_image(info: TextToImageInfo, *, sampler: str, steps: int, negative: bool, guidance: float) -> None:
    """Raise ``UsageError`` unless the pipeline can be sampled this way."""
    make_text_scheduler(read_json(info.folder / "scheduler/scheduler_config.json"), sampler)
    # DPM-Solver++ and UniPC put steps + 1 points on the training timesteps.
    most = info.num_train_timesteps - (sampler in ("dpm++", "unipc"))
    if not 1 <= steps <= most:
        raise UsageError(f"{steps} steps: with this generator the sampler {sampler} takes 1 to {most} steps.")
    if negative:
        import diffusers

        options = inspect.signature(getattr(diffusers, info.pipeline).__call__).parameters
        if "negative_prompt" not in options or "true_cfg_scale" in options:
            raise UsageError(f"--negative-prompt: a {info.pipeline} has its guidance built in and heeds none.")
        if guidance <= 1:
            raise UsageError(f"--negative-prompt has no effect with guidance {guidance:g}: give one above 1.")


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
    if sampler in _SCHEDULERS:
        replacement = getattr(diffusers, _SCHEDULERS[sampler])
        flow = (
            config.get("prediction_type") == "flow_prediction" and sampler == "ddim"
        )  # which would fail in its first step
        if flow or (replacement is not own and replacement not in scheduler.compatibles):
            raise UsageError(
                f"--sampler {sampler} does not fit this generator, which was made for {own.__name__}; "
                f"--sampler {OWN_SAMPLER} uses that."
            )
        if replacement is not own:
            # Clipping to [-1, 1] is right for pixels and wrong for latents; DDIM does it unless told.
            scheduler = replacement.from_config({"clip_sample": False, **scheduler.config})
    elif sampler != OWN_SAMPLER:
        raise UsageError(
            f"Text-to-image generators are sampled with {OWN_SAMPLER} (their own scheduler), {', '.join(_SCHEDULERS)}; "
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
    index = read_json(info.folder / "model_index.json")
    pipeline_class = _pipeline_class(info.source, index)
    accepted = inspect.signature(pipeline_class.__init__).parameters
    # Configuration first, then the parts: those that the folder does not have, or that are not wanted, are None.
    parts: dict[str, Any] = {name: value for name, value in index.items() if name in accepted}
    missing = accepted.keys() - parts.keys() - {"self"}
    parts |= {name: None for name in missing if accepted[name].default is inspect.Parameter.empty}
    parts |= {name: None for name, value in parts.items() if isinstance(value, list)}
    parts |= {name: value for name, value in _WITHOUT.items() if name in accepted}
    parts |= {part.name: part.load(info.folder, dtype) for part in _components(info.source, index)}
    try:
        pipe = pipeline_class(**parts)
    except Exception as error:  # whatever its constructor makes of parts that do not fit or are not there
        raise DmkdError(
            f"{info.source} can't be put together as a {info.pipeline} ({type(error).__name__}: {error})."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return TextToImageGenerator(info, wording, pipe.to(device))


_WITHOUT = {"requires_safety_checker": False, "add_watermarker": False}


class TextToImageGenerator:
    """A frozen text-to-image pipeline and the wording of its prompts: (class ids, seeds) to images.

    An image depends on its class id, its seed, the wording, how it is sampled and the weights' dtype; the number of images
    sampled at once counts by a rounding error. Noise is drawn on the CPU, from one generator an image.
    """

    def __init__(self, info: TextToImageInfo, wording: Wording, pipe: Any) -> None:
        self.info = info
        self.wording = wording
        self.pipe = pipe
        self.device, self.dtype = torch.device(pipe.device), pipe.vae.dtype
        self.pipe.encode_prompt = PromptCache(pipe.encode_prompt, self.device)
        self._options = inspect.signature(type(pipe).__call__).parameters
        # Not the file's: pipelines correct what is known to be wrong in old ones.
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
        guided_channels: int | None = None,
        guidance_interval: tuple[float, float] | None = None,
    ) -> torch.Tensor:
        """Images of class ids, int64 (n,), from seeds, int64 (n,) in [0, 2^32): uint8 (n, H, W, 3) on the device.

        ``guidance`` is one scale for all (or n equal ones): the pipelines take no more. ``guided_channels`` and
        ``guidance_interval`` must be None.

        Raises ``UsageError`` for an option out of range, ``DmkdError`` if a pixel is not finite or the pipeline does not
        behave as it must.
        """
        scales = np.unique(np.asarray(guidance, np.float32))
        if len(scales) > 1 or guided_channels is not None or guidance_interval is not None:
            raise UsageError(
                f"{self.info.name} is a text-to-image generator: it takes one guidance scale for all images, "
                "on all channels, at all steps."
            )
        classes, noise_seeds = np.asarray(class_ids, np.int64), np.asarray(seeds, np.int64)
        if len(classes) != len(noise_seeds):
            raise UsageError(
                f"There are {len(classes)} class ids and {len(noise_seeds)} seeds; every image needs one each."
            )
        if len(classes) and not 0 <= classes.min() <= classes.max() < self.info.num_classes:
            raise UsageError(
                f"Class ids {classes.min()} to {classes.max()} are out of range: there are {self.info.num_classes} classes."
            )
        size = self.info.image_size
        if not len(classes):
            return torch.empty((0, size, size, 3), dtype=torch.uint8, device=self.device)

        self._finite.clear()
        # A fresh one: multistep schedulers remember.
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
                f"{self.info.name} was asked for {size}x{size} pixels and made {images.shape[2]}x{images.shape[3]}: "
                "choose an --image-size that it can make."
            )
        images = images.float()
        finite = torch.stack([*self._finite, torch.isfinite(images).all()]).all()
        low, high = images.aminmax()
        if not finite:
            way_out = " float16 overflows above 65504: use bfloat16 or float32." if self.dtype == torch.float16 else ""
            raise DmkdError(
                f"The generator {self.info.name} made pixels that are not finite (NaN or infinity) with {sampler}, "
                f"{steps} steps, guidance {scales[0]:g}, {str(self.dtype).removeprefix('torch.')}.{way_out}"
            )
        if low < 0 or high > 1:
            raise DmkdError(
                f"{self.info.pipeline} gives pixels from {low:g} to {high:g}, not 0 to 1, so dmkd can't use it."
            )
        return to_uint8(images)

    def _more_options(self, count: int, steps: int) -> dict[str, Any]:
        """Options that not every pipeline has."""
        wanted: dict[str, Any] = {"use_resolution_binning": False, "clean_caption": False}
        if steps != 2:
            wanted["intermediate_timesteps"] = None  # Sana Sprint has a middle for two steps, and refuses it for others
        if self.wording.negative_prompt is not None:
            wanted["negative_prompt"] = [self.wording.negative_prompt] * count
        return {name: value for name, value in wanted.items() if name in self._options}


class PromptCache:
    """A pipeline's ``encode_prompt`` that encodes each prompt once, alone, and then remembers.

    It takes the place of the method, so that the pipeline itself says which embeddings it needs (pooled ones, masks,
    those of negative prompts) and in which order. Prompts are encoded one by one: what is said of one must not depend
    on which others are in its batch.
    """

    def __init__(self, encode: Callable[..., Any], device: torch.device, max_bytes: int = _CACHE_BYTES) -> None:
        self.encode, self.device, self.max_bytes = encode, device, max_bytes
        self._signature = inspect.signature(encode)
        self._kept: OrderedDict[str, Any] = OrderedDict()  # least recently used first
        self._bytes = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = self._signature.bind(*args, **kwargs).arguments
        # prompt, prompt_2, negative_prompt, …: all that is one for each image.
        texts = {name: value for name, value in arguments.items() if "prompt" in name and isinstance(value, list)}
        rest = {name: value for name, value in arguments.items() if name not in texts}
        return _join(
            [self._one({**rest, **{n: t[i : i + 1] for n, t in texts.items()}}) for i in range(len(texts["prompt"]))]
        )

    def _one(self, arguments: dict[str, Any]) -> Any:
        key = repr(sorted(arguments.items()))
        if key not in self._kept:
            self._kept[key] = _moved(self.encode(**arguments), torch.device("cpu"))
            self._bytes += _size(self._kept[key])
        self._kept.move_to_end(key)
        value = _moved(self._kept[key], self.device)
        while self._bytes > self.max_bytes:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return value


def _join(parts: list[Any]) -> Any:
    """What ``encode_prompt`` said of single prompts -> what it says of all of them at once."""
    first = parts[0]
    if isinstance(first, tuple):
        return tuple(_join(list(group)) for group in zip(*parts, strict=True))
    if isinstance(first, list):  # one tensor a prompt, of its own length
        return [item for part in parts for item in part]
    if isinstance(first, torch.Tensor):
        if all(part.shape == first.shape and len(part) == 1 for part in parts):
            return torch.cat(parts)
        if all(torch.equal(part, first) for part in parts):  # positions, which all prompts share
            return first
        raise DmkdError(
            "The pipeline's embeddings of different prompts have different lengths, so that an image would depend on the "
            "other ones sampled with it; dmkd does not sample such pipelines."
        )
    return first


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _size(value: Any) -> int:
    """Bytes."""
    if isinstance(value, tuple | list):
        return sum(_size(item) for item in value)
    return value.nbytes if isinstance(value, torch.Tensor) else 0


def _random_state(device: torch.device) -> list[torch.Tensor]:
    """The state of the global random number generators: it changes when a number is drawn from one of them."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _unseeded(what: str) -> str:
    return (
        f"{what} draws noise that does not come from the image's seed, so its images could not be made again; "
        f"try another --sampler ({', '.join(_SCHEDULERS)})."
    )


def _pipeline_class(source: str, index: dict[str, Any]) -> Any:
    """The pipeline's class, if dmkd can sample it; else ``UsageError``."""
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            f"{source} is a text-to-image pipeline, for which the package transformers is needed: pip install 'dmkd[t2i]'."
        )
    import diffusers

    name = str(index.get("_class_name"))
    found = getattr(diffusers, name, None)
    if found is None:
        raise UsageError(f"{source} is a {name}, which diffusers {diffusers.__version__} does not know.")
    options = inspect.signature(found.__call__).parameters
    needed = {"prompt", "height", "width", "generator", "num_inference_steps", "guidance_scale", "output_type"}
    unwanted = {"image", "control_image", "num_frames", "prior_guidance_scale"} & options.keys()
    guided = "guidance_scale" in options and isinstance(options["guidance_scale"].default, int | float)
    if (
        not needed <= options.keys()
        or unwanted
        or not guided
        or not hasattr(found, "encode_prompt")
        or "vae" not in index
    ):
        raise UsageError(
            f"{source} is a {name}; of the pipelines with text encoders dmkd samples those that make one image from a "
            "prompt and noise alone, with one guidance scale and a VAE (StableDiffusionXLPipeline, for example)."
        )
    return found


def _components(source: str, index: dict[str, Any]) -> list[_Component]:
    """The pipeline's parts, less those that do not matter. Raises ``UsageError`` for code that is not a library's."""
    components = []
    for name, value in index.items():
        if name.startswith("_") or name in _DROPPED or not isinstance(value, list) or value[0] is None:
            continue
        library, class_name = value
        if library not in ("diffusers", "transformers"):
            raise UsageError(
                f"The {name} of {source} is a {class_name} of {library}; dmkd loads what diffusers and transformers bring."
            )
        loader = getattr(importlib.import_module(library), class_name, None)
        if loader is None:
            raise UsageError(f"The {name} of {source} is a {class_name}, which the installed {library} does not know.")
        components.append(_Component(name, library, loader))
    return components


def _own_image_size(folder: Path, options: Any) -> int:
    """The pixels that the pipeline makes unless told otherwise."""
    if isinstance(options["height"].default, int):
        return options["height"].default
    size = _denoiser_config(folder).get("sample_size") or _FLOW_DEFAULT_LATENT
    return (size[0] if isinstance(size, list) else size) * _vae_factor(folder)


def _check_image_size(source: str, folder: Path, size: int) -> int:
    patch = _denoiser_config(folder).get("patch_size") or 1
    unit = _vae_factor(folder) * (patch if isinstance(patch, int) else 1)
    if size < 1 or size % unit:
        raise UsageError(f"--image-size {size}: {source} makes images of a multiple of {unit} pixels.")
    return size


def _denoiser_config(folder: Path) -> dict[str, Any]:
    paths = [folder / name / "config.json" for name in ("unet", "transformer")]
    return next((read_json(path) for path in paths if path.exists()), {})


def _vae_factor(folder: Path) -> int:
    """Pixels a latent is wide."""
    config = read_json(folder / "vae/config.json")
    blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels") or (0,) * 4
    return 2 ** (len(blocks) - 1)
