"""The one-step digits: a generator as users write their own, and registered as theirs would be (``setup.cfg``)."""

import hashlib

import numpy as np
import torch

from dmkd import digits
from dmkd.digits.train_one_step import one_step


class OneStepDigits:
    """Noise and a class to latents in one call of a DiT, then the VAE of the bundled pipeline."""

    class_names = tuple(str(digit) for digit in range(10))
    image_size = 32
    cpu_sub_batch = 64

    def __init__(self, device: str) -> None:
        from diffusers import AutoencoderKL, DiTTransformer2DModel

        self.device = device
        self.model = (
            DiTTransformer2DModel.from_pretrained(digits.ONE_STEP, low_cpu_mem_usage=False).float().eval().to(device)
        )
        self.vae = (
            AutoencoderKL.from_pretrained(digits.PIPELINE / "vae", low_cpu_mem_usage=False).float().eval().to(device)
        )
        weights = [
            folder / "diffusion_pytorch_model.safetensors" for folder in (digits.ONE_STEP, digits.PIPELINE / "vae")
        ]
        self.sha256 = hashlib.sha256(b"".join(file.read_bytes() for file in weights)).hexdigest()
        self.defaults = {key: digits.defaults()[key] for key in ("images", "teacher", "views")}

    def sample(self, class_ids: np.ndarray, seeds: np.ndarray) -> torch.Tensor:
        noise = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        classes = torch.from_numpy(class_ids).long().to(self.device)
        latents = one_step(self.model, torch.cat(noise).to(self.device), classes)
        pixels = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def make(device: str) -> OneStepDigits:
    return OneStepDigits(device)
