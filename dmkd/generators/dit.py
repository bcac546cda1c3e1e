"""A class-conditional DiT as a generator: any that diffusers stores as a pipeline folder, a ``DiTTransformer2DModel`` and the
``AutoencoderKL`` whose latents it makes. ``dmkd.generators.sampling`` holds the loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from dmkd.generators.compiling import compile_models, missing_for_compiling
from dmkd.generators.dit_files import DiTFiles, dit_files
from dmkd.generators.float8 import to_float8
from dmkd.generators.pixels import not_finite, to_uint8
from dmkd.generators.samplers import check_steps, sampler_named
from dmkd.generators.samplers.solver import signal_shares
from dmkd.generators.sampling import (
    Push,
    Steer,
    check_guided_channels,
    denoise,
    draw_noise,
    image_generators,
)
from dmkd.recipes.dtypes import FLOAT8
from dmkd.recipes.guidance import parse_guidance, parse_interval
from dmkd.recipes.image_options import ImageOptions
from dmkd.stores.errors import UsageError

# Pixels decoded at once: the decoder's activations take 168 MB an image of 256 x 256 in float32.
_DECODE_PIXELS = 16 * 256 * 256
_DIFFERENTIATED_PIXELS = 4 * 256 * 256  # what backpropagation keeps takes several times as much


@dataclass(frozen=True)
class GeneratorInfo:
    """What a generator is, from its configuration files."""

    name: str  # hub id, or the folder's name
    source: str  # as the user gave it
    files: DiTFiles | None = field(repr=False)  # None: its configuration is bundled, and its weights were not asked for
    image_size: int  # pixels, height and width
    num_classes: int
    class_names: tuple[str, ...]  # one a class, all its synonyms, comma-separated
    latent_shape: tuple[int, int, int]  # channels, height, width
    learned_sigma: bool  # predicts variances as well as the noise
    scheduler: Mapping[str, Any] = field(repr=False)  # its configuration
    num_train_timesteps: int
    sha256: str  # of the weights and of the configurations that pixels depend on; empty if only those were read

    @property
    def takes_dtype(self) -> bool:
        return True

    @property
    def can_be_compiled(self) -> bool:
        return True

    @property
    def can_be_steered(self) -> bool:
        return True

    @property
    def least_guidance(self) -> float:
        return 1

    @property
    def cpu_sub_batch(self) -> int:
        return 64 if self.image_size <= 64 else 8

    def defaults(self, of_source: Mapping[str, Any], images: ImageOptions) -> Mapping[str, Any]:
        return of_source

    def notices(self, images: ImageOptions) -> list[str]:
        return []

    def sampling(self, images: ImageOptions, defaults: Mapping[str, Any]) -> dict[str, Any]:
        for option in ("prompts", "negative_prompt"):
            if getattr(images, option) is not None:
                raise UsageError(
                    f"--{option.removesuffix('s').replace('_', '-')} is for text-to-image generators; {self.name} takes "
                    "class ids, not text."
                )
        sampler, steps = images.given("sampler", defaults["sampler"]), images.given("steps", defaults["steps"])
        check_steps(sampler, steps, sampler_named(sampler).steps(self.num_train_timesteps))
        sampler_named(sampler).check_start(self.scheduler, steps)
        channels = self.latent_shape[0]
        guided_channels = images.given("guided_channels", sampler_named(sampler).guided_channels(channels))
        check_guided_channels(guided_channels, channels)
        return {
            "sampler": sampler,
            "steps": steps,
            "guidance": parse_guidance(images.given("guidance", defaults["guidance"]), self.least_guidance),
            "guidance_interval": parse_interval(images.guidance_interval),
            "guided_channels": guided_channels,
        }


def describe_dit(source: str, index: dict[str, Any] | None, *, vae: str | None, weights: bool = True) -> GeneratorInfo:
    """What a DiT is; its weights are read for the sha256 only, or with ``weights`` False not at all. ``index`` and ``vae``: see
    :func:`dmkd.generators.dit_files.dit_files`. Raises ``UsageError`` if it is none."""
    files = dit_files(source, index, vae=vae, weights=weights)
    return dit_info(files.source, files.name, files.configs, files, files.sha256() if weights else "")


def dit_info(
    source: str, name: str, configs: list[dict[str, Any]], files: DiTFiles | None, sha256: str
) -> GeneratorInfo:
    """The same, from configurations. Raises ``UsageError`` if they are not a DiT's."""
    index, transformer, vae, scheduler = configs
    num_classes = transformer.get("num_embeds_ada_norm", 1000)
    channels, latent_size = transformer.get("in_channels", 4), transformer.get("sample_size", 32)
    out_channels = transformer.get("out_channels") or channels
    if transformer.get("norm_type", "ada_norm_zero") != "ada_norm_zero" or not num_classes:
        raise UsageError(f"The transformer of {source} is not class-conditional (adaLN-Zero), so it is not a DiT.")
    if out_channels not in (channels, 2 * channels):
        raise UsageError(
            f"The transformer of {source} has {channels} channels in and {out_channels} out, unlike a DiT."
        )
    if vae.get("latent_channels", 4) != channels or vae.get("out_channels", 3) != 3:
        raise UsageError(
            f"The VAE of {source} turns {vae.get('latent_channels', 4)} channels into {vae.get('out_channels', 3)}; "
            f"{channels} into 3 are needed."
        )
    labels = index.get("id2label") or {}
    return GeneratorInfo(
        name=name,
        source=source,
        files=files,
        image_size=latent_size * 2 ** (len(vae.get("block_out_channels", (64,))) - 1),
        num_classes=num_classes,
        class_names=tuple(str(labels.get(str(i), f"class {i}")) for i in range(num_classes)),
        latent_shape=(channels, latent_size, latent_size),
        learned_sigma=out_channels == 2 * channels,
        scheduler=scheduler,
        num_train_timesteps=scheduler.get("num_train_timesteps", 1000),
        sha256=sha256,
    )


def load_dit(
    info: GeneratorInfo, *, device: torch.device | str, dtype: str, vae_dtype: str, compile: bool
) -> "Generator":
    """Load a DiT's weights onto a device, as number types of ``DTYPES``. Raises ``DmkdError`` if they are damaged or incomplete,
    ``UsageError`` for a device that has no float8, and for a machine that can't compile."""
    assert info.files is not None
    if compile and (missing := missing_for_compiling(str(device))):
        raise UsageError(f"Images of this store are made by compiled models (--compile), and {missing}.")
    weights = torch.bfloat16 if dtype == FLOAT8 else getattr(torch, dtype)
    transformer = info.files.load_transformer(weights).to(device)
    if dtype == FLOAT8:
        to_float8(transformer)
    vae = info.files.load_vae(getattr(torch, vae_dtype))
    if torch.device(device).type == "cuda" and (compile or _group_norm_keeps_channels_last(device)):
        # cuDNN's half-precision kernels want this; otherwise they transpose before and after each convolution.
        vae = vae.to(memory_format=torch.channels_last)
    return Generator(info, transformer, vae.to(device), dict(info.scheduler), compile=compile)


def _group_norm_keeps_channels_last(device: torch.device | str) -> bool:
    """Older kernels of CUDA give back channels first, so that every convolution of a decoder would have to transpose again."""
    tried = torch.empty(1, 32, 2, 2, device=device).to(memory_format=torch.channels_last)
    return torch.nn.functional.group_norm(tried, 8).is_contiguous(memory_format=torch.channels_last)


class Generator:
    """A frozen class-conditional DiT with its VAE: (class ids, seeds) to images.

    An image depends on its class id, its seed, how it is sampled and the weights' dtype: not on the other images sampled
    with it, nor on what was sampled before. The number of images sampled at once matters by a rounding error (1e-5), and
    so does an image's place among them where CPU threads can't share them evenly (three images, two threads): only
    sampling the same ids together gives the same bits.

    ``compile``: transformer and decoder go through ``torch.compile`` when first used. Its fused kernels round differently, so a
    store's recipe records it.
    """

    def __init__(
        self,
        info: GeneratorInfo,
        transformer: torch.nn.Module,
        vae: torch.nn.Module,
        scheduler_config: dict[str, Any],
        *,
        compile: bool = False,
    ) -> None:
        self.info = info
        # In train mode a DiT drops one label in ten.
        self.transformer = transformer.eval().requires_grad_(False)
        self.vae: Any = vae.eval().requires_grad_(False)
        self.scheduler_config = scheduler_config
        weight = next(transformer.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        if compile:
            compile_models(self.transformer, self.vae.decoder)

    def sample(
        self,
        class_ids: torch.Tensor | np.ndarray | Sequence[int],
        seeds: torch.Tensor | np.ndarray | Sequence[int],
        *,
        sampler: str,
        steps: int,
        guidance: float | np.ndarray,
        guided_channels: int,
        guidance_interval: tuple[float, float] | None = None,
        steer: Steer | None = None,
    ) -> torch.Tensor:
        """Images of class ids, int64 (n,), from seeds, int64 (n,) in [0, 2^32): uint8 (n, H, W, 3) on the device.

        ``steer`` pushes them towards a higher score while they are sampled.
        Raises ``UsageError`` for a class, seed or option out of range, ``DmkdError`` if a latent or pixel is not finite.
        """
        latents = self.latents(
            class_ids,
            seeds,
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            guided_channels=guided_channels,
            guidance_interval=guidance_interval,
            steer=steer,
        )
        images, finite = self._decode(latents)
        # Both in one transfer: each makes the CPU wait for the device.
        latents_finite, pixels_finite = torch.stack([torch.isfinite(latents).all(), finite]).tolist()
        if not (latents_finite and pixels_finite):
            what = "pixels" if latents_finite else "latents"
            advice = " The weights may be damaged, or the guidance too strong."
            raise not_finite(self.info.name, what, sampler, steps, np.max(guidance), self.dtype, advice)
        return to_uint8(images)

    def latents(
        self,
        class_ids: torch.Tensor | np.ndarray | Sequence[int],
        seeds: torch.Tensor | np.ndarray | Sequence[int],
        *,
        sampler: str,
        steps: int,
        guidance: float | np.ndarray,
        guided_channels: int,
        guidance_interval: tuple[float, float] | None = None,
        steer: Steer | None = None,
    ) -> torch.Tensor:
        """As ``sample``, but the latents before decoding: float32 (n, C, h, w), as the transformer sees them, unchecked."""
        check_steps(sampler, steps, sampler_named(sampler).steps(self.info.num_train_timesteps))
        scales = np.asarray(guidance, np.float32)
        parse_guidance((float(scales.min()), float(scales.max())))
        if scales.shape not in ((), (len(class_ids),)):
            raise UsageError(f"There are {len(class_ids)} images but {scales.size} guidance scales.")
        check_guided_channels(guided_channels, self.info.latent_shape[0])
        classes = _as_int64(class_ids)
        if len(classes) != len(seeds):
            raise UsageError(
                f"There are {len(classes)} class ids but {len(seeds)} seeds; every image needs one of each."
            )
        for class_id in classes.tolist():
            if not 0 <= class_id < self.info.num_classes:
                raise UsageError(
                    f"Class id {class_id} is out of range: {self.info.name} has classes 0 to {self.info.num_classes - 1}."
                )
        if not len(classes):
            return torch.empty((0, *self.info.latent_shape), device=self.device)
        generators = image_generators(_as_int64(seeds))
        return denoise(
            self.transformer,
            sampler_named(sampler).solver(self.scheduler_config, self.info.learned_sigma),
            draw_noise(generators, self.info.latent_shape),
            classes,
            generators,
            steps=steps,
            guidance=torch.from_numpy(scales),
            guided_channels=guided_channels,
            guidance_interval=guidance_interval,
            null_class=self.info.num_classes,  # the embedding after the last class's
            dtype=self.dtype,
            device=self.device,
            push=None if steer is None else self._push(steer),
        )

    def _push(self, steer: Steer) -> Push:
        """The gradient goes through the decoder, a few images at a time."""
        at_once = max(1, _DIFFERENTIATED_PIXELS // self.info.image_size**2)

        def gradient(latents: torch.Tensor) -> torch.Tensor:
            parts = []
            for start in range(0, len(latents), at_once):
                images = slice(start, start + at_once)
                # Of attention's kernels only the plain one gives the same gradient every time on a GPU.
                with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                    part = latents[images].detach().requires_grad_()
                    score = steer.score((self._pixels(part) / 2 + 0.5).clamp(0, 1), images)
                    parts.append(torch.autograd.grad(score.sum(), part)[0])
            return torch.cat(parts)

        prediction_type = self.scheduler_config.get("prediction_type", "epsilon")
        return Push(steer, gradient, signal_shares(self.scheduler_config), prediction_type)

    def _pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (n, C, h, w) -> what the decoder makes of them, float32 (n, 3, H, W)."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return self.vae.decode(scaled, return_dict=False)[0].float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents, (n, C, h, w), to images, float32 (n, 3, H, W) in [0, 1]; NaN stays NaN."""
        return self._decode(latents)[0]

    @torch.no_grad()
    def _decode(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images as ``decode`` says, and whether all the decoder's outputs were finite: bool ()."""
        size = self.info.image_size
        if not len(latents):
            return torch.empty((0, 3, size, size), device=self.device), torch.ones((), dtype=torch.bool).to(self.device)
        parts = -(-len(latents) * size * size // _DECODE_PIXELS)
        images, finite = [], []
        for part in latents.tensor_split(parts):
            pixels = self._pixels(part)
            finite.append(torch.isfinite(pixels).all())  # before clamping hides an infinity
            images.append((pixels / 2 + 0.5).clamp(0, 1))
        return torch.cat(images), torch.stack(finite).all()


def _as_int64(numbers: torch.Tensor | np.ndarray | Sequence[int]) -> torch.Tensor:
    """Integers (n,) as an int64 tensor on the CPU."""
    return torch.as_tensor(numbers).to("cpu", torch.int64)
