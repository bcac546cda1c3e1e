"""How good the assets are: teachers on real digits, the pipeline's images under a teacher."""

import numpy as np
import torch

from dmkd.digits.train_dit import NULL_CLASS
from dmkd.digits.train_teachers import normalize


def to_unit(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
    """float32 (n, 3, h, w), about [-1, 1] -> uint8 (n, h, w, 3)."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def load_teacher(folder):
    """A teacher as timm loads it, float32 in eval mode."""
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


@torch.no_grad()
def teacher_logits(teacher, images: np.ndarray) -> torch.Tensor:
    """Logits, float32 (n, 10), of uint8 (n, 32, 32, 3), normalised as the teacher's config says."""
    config = teacher.pretrained_cfg
    pixels = normalize(to_unit(images), tuple(config["mean"]), tuple(config["std"]))
    return torch.cat([teacher(batch) for batch in pixels.split(256)])


def count_correct(teacher, images: np.ndarray, class_ids: np.ndarray) -> int:
    """How many of the images the teacher's top-1 gets right."""
    return int((teacher_logits(teacher, images).argmax(1).numpy() == class_ids).sum())


@torch.no_grad()
def sample(pipeline, scheduler, class_ids: np.ndarray, steps: int, guidance: float, seed: int, batch: int = 250):
    """Images, uint8 (n, 32, 32, 3), of the asked classes: classifier-free guidance on all four channels.

    A check of the assets, with diffusers' scheduler as it is; the generator that makes data sets is ``dmkd.generators.sampling``.
    """
    generator = torch.Generator().manual_seed(seed)
    learned = scheduler.config.get("variance_type") == "learned_range"
    images = []
    for ids in torch.as_tensor(class_ids).long().split(batch):
        scheduler.set_timesteps(steps)
        x = torch.randn(len(ids), 4, 8, 8, generator=generator)
        for t in scheduler.timesteps:
            output = pipeline.transformer(x, timestep=t.expand(len(ids)), class_labels=ids).sample
            noise, variance = output.chunk(2, dim=1)
            if guidance != 1:
                null = torch.full_like(ids, NULL_CLASS)
                unconditional = pipeline.transformer(x, timestep=t.expand(len(ids)), class_labels=null).sample
                unconditional_noise = unconditional.chunk(2, dim=1)[0]
                noise = unconditional_noise + guidance * (noise - unconditional_noise)
            predicted = torch.cat([noise, variance], 1) if learned else noise
            x = scheduler.step(predicted, t, x, **({"generator": generator} if learned else {})).prev_sample
        pixels = pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample
        images.append(to_uint8(pixels))
    return np.concatenate(images)


def judge(teacher, images: np.ndarray, class_ids: np.ndarray) -> dict[str, float]:
    """Share of images whose top-1 is the asked class, and the teacher's mean entropy in nats."""
    logits = teacher_logits(teacher, images)
    log_p = logits.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1).mean().item()
    return {"agreement": (logits.argmax(1).numpy() == class_ids).mean().item(), "entropy": entropy}


def contact_sheet(images: np.ndarray, class_ids: np.ndarray, columns: int = 20):
    """A Pillow image: one row a class, the first ``columns`` images of each."""
    from PIL import Image

    rows = [np.concatenate(images[class_ids == digit][:columns], axis=1) for digit in range(10)]
    return Image.fromarray(np.concatenate(rows))
