"""The parts of a diffusers text-to-image pipeline: which ones it has, their files, the size of its images, and putting the
parts together."""

import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dmkd.generators.pipeline_files import load_model, read_json
from dmkd.runtime.failures import named_line
from dmkd.stores.errors import DmkdError, UsageError, first_line

_DROPPED = ("safety_checker", "feature_extractor", "image_encoder")  # the last two: for it, and for image prompts
_WITHOUT = {"requires_safety_checker": False, "add_watermarker": False}
_FLOW_DEFAULT_LATENT = 128  # Flux, Chroma and their kin say so in code rather than in a configuration


@dataclass(frozen=True)
class Component:
    """A part of a pipeline: a model with weights, the scheduler, or a tokenizer."""

    name: str
    library: str
    loader: Any  # its class

    @property
    def is_model(self) -> bool:
        return isinstance(self.loader, type) and issubclass(self.loader, torch.nn.Module)

    def weights(self) -> dict[str, str | None]:
        """Patterns of its weight files, best first, and the variant (see diffusers) of each."""
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
        """Its files, in the form that ``resolve_folder`` takes."""
        if self.is_model:
            return f"{self.name}/*.json", "|".join(self.weights())
        if self.name == "scheduler":
            return ("scheduler/scheduler_config.json",)
        return (f"{self.name}/*",)

    def files(self, folder: Path) -> list[Path]:
        """Those of its files that pixels depend on: for a model, the ones that would be loaded, not other formats."""
        if self.is_model:
            return [folder / self.name / "config.json", *folder.glob(self._chosen(folder))]
        return [path for need in self.needs() for path in folder.glob(need) if path.is_file()]

    def load(self, folder: Path, dtype: torch.dtype) -> Any:
        if self.is_model:
            variant = self.weights()[self._chosen(folder)]
            return load_model(self.loader, folder / self.name, dtype, variant).eval().requires_grad_(False)
        try:
            return self.loader.from_pretrained(folder / self.name, local_files_only=True)
        except Exception as error:  # each tokenizer has its own errors, missing packages among them
            raise DmkdError(
                f"{folder / self.name} can't be loaded as {self.loader.__name__}: {first_line(error)}."
            ) from error

    def _chosen(self, folder: Path) -> str:
        return next(pattern for pattern in self.weights() if any(folder.glob(pattern)))


def pipeline_class(source: str, index: dict[str, Any]) -> Any:
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


def pipeline_components(source: str, index: dict[str, Any]) -> list[Component]:
    """The pipeline's parts, without those that do not matter. Raises ``UsageError`` for code that is not a library's."""
    components = []
    for name, value in index.items():
        if name.startswith("_") or name in _DROPPED or not isinstance(value, list) or value[0] is None:
            continue
        library, class_name = value
        if library not in ("diffusers", "transformers"):
            raise UsageError(
                f"The {name} of {source} is a {class_name} of {library}; dmkd only loads what diffusers and transformers contain."
            )
        loader = getattr(importlib.import_module(library), class_name, None)
        if loader is None:
            raise UsageError(f"The {name} of {source} is a {class_name}, which the installed {library} does not know.")
        components.append(Component(name, library, loader))
    return components


def assemble(source: str, folder: Path, dtype: torch.dtype) -> Any:
    """The pipeline in a folder with the weights of all its parts, on the CPU. ``source`` is what messages call it.

    Raises ``DmkdError`` if weights are damaged or incomplete, or the parts don't fit.
    """
    index = read_json(folder / "model_index.json")
    found = pipeline_class(source, index)
    accepted = inspect.signature(found.__init__).parameters
    # Configuration first, then the parts; parts that the folder lacks, or that are not wanted, are None.
    parts: dict[str, Any] = {name: value for name, value in index.items() if name in accepted}
    missing = accepted.keys() - parts.keys() - {"self"}
    parts |= {name: None for name in missing if accepted[name].default is inspect.Parameter.empty}
    parts |= {name: None for name, value in parts.items() if isinstance(value, list)}
    parts |= {name: value for name, value in _WITHOUT.items() if name in accepted}
    parts |= {part.name: part.load(folder, dtype) for part in pipeline_components(source, index)}
    try:
        return found(**parts)
    except Exception as error:  # whatever its constructor raises for parts that do not fit or are missing
        raise DmkdError(f"{source} can't be put together as a {found.__name__} ({named_line(error)}).") from error


def own_image_size(folder: Path, options: Any) -> int:
    """The size in pixels that the pipeline makes by default."""
    if isinstance(options["height"].default, int):
        return options["height"].default
    size = _denoiser_config(folder).get("sample_size") or _FLOW_DEFAULT_LATENT
    return (size[0] if isinstance(size, list) else size) * _vae_factor(folder)


def check_image_size(source: str, folder: Path, size: int) -> int:
    patch = _denoiser_config(folder).get("patch_size") or 1
    unit = _vae_factor(folder) * (patch if isinstance(patch, int) else 1)
    if size < 1 or size % unit:
        raise UsageError(f"--image-size {size}: {source} makes images in multiples of {unit} pixels.")
    return size


def _denoiser_config(folder: Path) -> dict[str, Any]:
    paths = [folder / name / "config.json" for name in ("unet", "transformer")]
    return next((read_json(path) for path in paths if path.exists()), {})


def _vae_factor(folder: Path) -> int:
    """Width of one latent in pixels."""
    config = read_json(folder / "vae/config.json")
    blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels") or (0,) * 4
    return 2 ** (len(blocks) - 1)
