"""Floating-point operations of the models, counted from their shapes: a multiply-accumulate is two.

Models live on torch's meta device, which computes shapes and no numbers: no weights are needed and counting takes a
second. Matrix products, convolutions and attention are counted; norms and activations, a percent of it, are not.
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dmkd.classifiers.classifier import Classifier
from dmkd.generators.dit import GeneratorInfo
from dmkd.generators.samplers import sampler_named
from dmkd.recipes.recipe import Recipe


def transformer_flops(config: dict[str, Any], info: GeneratorInfo) -> int:
    """One forward pass of the denoiser for one latent. DiT-XL/2 at 256 x 256: 237.3e9."""
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        transformer = DiTTransformer2DModel.from_config(config).eval()
        number = torch.zeros(1, dtype=torch.long)
        latent = torch.empty(1, *info.latent_shape)
        return _count(lambda: transformer(latent, timestep=number, class_labels=number, return_dict=False))


def decoder_flops(config: dict[str, Any], info: GeneratorInfo) -> int:
    """Decoding of one latent. Stable Diffusion's VAE at 256 x 256: 622.2e9."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae: Any = AutoencoderKL.from_config(config).eval()
        latent = torch.empty(1, *info.latent_shape)
        return _count(lambda: vae.decode(latent, return_dict=False))


def classifier_flops(classifier: Classifier, size: int) -> int:
    """One forward pass for one view of size x size pixels, of a classifier on the meta device. ResNet-50 at 224: 8.2e9."""
    return model_flops(classifier.model, size)


def model_flops(model: torch.nn.Module, size: int) -> int:
    """One forward pass of a model on the meta device for an image of size x size pixels."""
    with torch.device("meta"):
        pixels = torch.empty(1, 3, size, size)
        return _count(lambda: model.eval()(pixels))


def model_calls(recipe: Recipe, info: GeneratorInfo, scheduler_config: dict[str, Any]) -> int:
    """Forward passes of the transformer for one image: one a step, and a second, unconditional one if it is guided."""
    assert recipe.sampler is not None and recipe.steps is not None  # a DiT has both
    timesteps = sampler_named(recipe.sampler).solver(scheduler_config, info.learned_sigma).start(recipe.steps)
    if recipe.guidance == 1:
        return len(timesteps)
    low, high = recipe.guidance_interval or (0.0, 1.0)
    guided = sum(low <= timestep / info.num_train_timesteps <= high for timestep in timesteps)
    return len(timesteps) + guided


@torch.no_grad()
def _count(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
