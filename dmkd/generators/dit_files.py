"""The files of a DiT: a diffusers pipeline's folder or one checkpoint of DiT's own code, and a VAE, its own or another."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dmkd.generators import dit_xl_2_256
from dmkd.generators.defaults import DIT_CHECKPOINT
from dmkd.generators.dit_checkpoint import DiTCheckpoint, read_checkpoint
from dmkd.generators.hub import resolve_folder, weights_sha256
from dmkd.generators.pipeline_files import load_model, read_json
from dmkd.stores.errors import UsageError

CHECKPOINTS_VAE = "stabilityai/sd-vae-ft-mse"  # what DiT's own code decodes with by default, and so DM-KD


def _weights(folder: str = "") -> tuple[str, ...]:
    """Patterns of a component's weights, best first: safetensors, else torch's own."""
    stem = f"{folder}diffusion_pytorch_model"
    return tuple(f"{stem}{end}" for end in (".safetensors", "-*-of-*.safetensors", ".bin", "-*-of-*.bin"))


COMPONENTS = ("transformer", "vae")
CONFIGS = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"{component}/*.json" for component in COMPONENTS),
)
NEEDS = (*CONFIGS, *("|".join(_weights(f"{component}/")) for component in COMPONENTS))
WITHOUT_VAE = NEEDS[:-1]
# Of another VAE: a folder or repository of its own, or a pipeline's.
_VAE_CONFIG = ("config.json|vae/config.json",)
_VAE_NEEDS = (*_VAE_CONFIG, "|".join((*_weights(), *_weights("vae/"))))


@dataclass(frozen=True)
class DiTFiles:
    """Where the parts of a DiT are on this machine, and what they are."""

    source: str  # as the user gave it
    transformer: Path | DiTCheckpoint = field(repr=False)  # a folder, or a file
    vae: Path | None  # a folder; None: planning needs none
    scheduler: Path | None  # its configuration; None: DiT's own, which a checkpoint does not name
    configs: list[dict[str, Any]] = field(repr=False)  # index, transformer, VAE, scheduler

    @property
    def name(self) -> str:
        """Short: a hub id, or what the folder or file is called."""
        if isinstance(self.transformer, DiTCheckpoint):
            return self.transformer.file.stem
        if Path(self.source).expanduser().is_dir():
            return self.transformer.parent.name
        return self.source

    def sha256(self) -> str:
        """Of all that pixels depend on. ``model_index.json`` is not a part of it: it holds the class names."""
        assert self.vae is not None
        files = _hashed("vae", self.vae)
        if isinstance(self.transformer, DiTCheckpoint):
            files |= {"transformer/checkpoint": self.transformer.file}
        else:
            files |= _hashed("transformer", self.transformer)
        if self.scheduler is not None:
            files |= {"scheduler/scheduler_config.json": self.scheduler}
        return weights_sha256(files)

    def load_transformer(self, dtype: torch.dtype) -> torch.nn.Module:
        """The ``DiTTransformer2DModel`` on the CPU. Raises ``DmkdError`` if its weights are damaged or incomplete."""
        from diffusers import DiTTransformer2DModel

        if isinstance(self.transformer, DiTCheckpoint):
            return self.transformer.model(dtype)
        return load_model(DiTTransformer2DModel, self.transformer, dtype)

    def load_vae(self, dtype: torch.dtype) -> torch.nn.Module:
        """The ``AutoencoderKL`` on the CPU. Raises ``DmkdError`` if its weights are damaged or incomplete."""
        from diffusers import AutoencoderKL

        assert self.vae is not None
        return load_model(AutoencoderKL, self.vae, dtype)


def dit_files(source: str, index: dict[str, Any] | None, *, vae: str | None, weights: bool) -> DiTFiles:
    """The files of the DiT that ``dit:FILE`` names (``index`` None), or a folder or hub id with this ``model_index.json``,
    decoded by the VAE in folder or repository ``vae`` (None: its own, of a checkpoint ``CHECKPOINTS_VAE``). ``weights`` False:
    those of the configuration alone are there for sure.

    Raises ``UsageError`` if they are not a DiT's, ``DmkdError`` if the hub can't be reached."""
    if index is None:
        checkpoint = read_checkpoint(source.removeprefix(DIT_CHECKPOINT))
        transformer = checkpoint.config
        index, _, usual_vae, scheduler = dit_xl_2_256.configs()
        if transformer["num_embeds_ada_norm"] != len(index["id2label"]):  # else, as DiT's own, ImageNet's
            index = {**index, "id2label": {}}
        if vae is None and not weights:
            return DiTFiles(source, checkpoint, None, None, [index, transformer, usual_vae, scheduler])
        decoder = _vae_folder(vae or CHECKPOINTS_VAE, weights)
        configs = [index, transformer, read_json(decoder / "config.json"), scheduler]
        return DiTFiles(source, checkpoint, decoder, None, configs)
    check_pipeline(source, index)
    needs = NEEDS if vae is None else WITHOUT_VAE
    folder = resolve_folder(source, needs=needs if weights else CONFIGS)
    decoder = folder / "vae" if vae is None else _vae_folder(vae, weights)
    scheduler_file = folder / "scheduler" / "scheduler_config.json"
    names = (folder / "transformer/config.json", decoder / "config.json", scheduler_file)
    return DiTFiles(source, folder / "transformer", decoder, scheduler_file, [index, *map(read_json, names)])


def check_pipeline(source: str, index: dict[str, Any]) -> None:
    """Raise ``UsageError`` unless the pipeline is a DiT's."""
    found = index.get("_class_name", "no pipeline")
    # facebook/DiT-XL-2-256 was saved when the class was still called Transformer2DModel.
    parts = {name: (index.get(name) or [None, None])[1] for name in COMPONENTS}
    dit = found == "DiTPipeline" or parts["transformer"] == "DiTTransformer2DModel"
    if not dit or parts["transformer"] not in ("DiTTransformer2DModel", "Transformer2DModel"):
        raise UsageError(
            f"{source} is a {found} with a {parts['transformer']}; dmkd samples class-conditional DiT pipelines "
            "(DiTPipeline with a DiTTransformer2DModel, like facebook/DiT-XL-2-256) and text-to-image pipelines."
        )
    if parts["vae"] != "AutoencoderKL":
        raise UsageError(f"{source} decodes with {parts['vae']}; dmkd knows AutoencoderKL.")


def _vae_folder(source: str, weights: bool) -> Path:
    """Where another VAE is. Raises ``UsageError`` if there is none, or it is not an ``AutoencoderKL``."""
    wanted = ("config.json", "diffusion_pytorch_model.safetensors")
    folder = resolve_folder(source, needs=_VAE_NEEDS if weights else _VAE_CONFIG, wanted=wanted)
    folder = folder if (folder / "config.json").is_file() else folder / "vae"
    found = read_json(folder / "config.json").get("_class_name", "nothing known")
    if found != "AutoencoderKL":
        raise UsageError(f"--vae {source} is {found}; dmkd knows AutoencoderKL, such as {CHECKPOINTS_VAE}.")
    return folder


def _hashed(component: str, folder: Path) -> dict[str, Path]:
    """The files of a component that pixels depend on, by name: of weights only those that would be loaded, for a repository may
    hold the same ones in several formats."""
    files = [folder / "config.json"]
    for pattern in _weights():
        if found := sorted(folder.glob(pattern)):
            files += found
            break
    return {f"{component}/{path.name}": path for path in files}
