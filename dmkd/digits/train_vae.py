"""The autoencoder: 32x32 RGB pixels in [-1, 1] <-> 4x8x8 latents."""

import torch
import torch.nn.functional as F

from dmkd.digits.augment import jitter

STEPS = 1200
BATCH = 32
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-3
SEED = 101


def train_vae(pixels: torch.Tensor, log=print):
    """Train a diffusers ``AutoencoderKL`` on pixels, float32 (n, 3, 32, 32) in [-1, 1]; returns it and its numbers.

    Mean squared error plus a small KL term, per pixel and per latent value. The ``scaling_factor`` in the config is one
    over the standard deviation of the training latents (Rombach et al. 2022, appendix G), which is what DiT expects.
    """
    from diffusers import AutoencoderKL

    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 24, 32),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=pixels.shape[-1],
        mid_block_add_attention=False,
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.1)
    for step in range(STEPS):
        batch = jitter(pixels[torch.randint(len(pixels), (BATCH,), generator=generator)], generator)
        posterior = vae.encode(batch).latent_dist
        reconstruction = vae.decode(posterior.sample(generator)).sample
        mse = F.mse_loss(reconstruction, batch)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        (mse + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == STEPS - 1:
            log(f"vae step {step}: mse {mse.item():.5f}, kl {kl.item():.3f}")

    vae.eval().requires_grad_(False)
    latents = torch.cat([vae.encode(batch).latent_dist.sample(generator) for batch in pixels.split(256)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    numbers = {"steps": STEPS, "batch": BATCH, "seed": SEED, "mse": mse.item(), "kl": kl.item()}
    numbers |= {"parameters": sum(p.numel() for p in vae.parameters()), "scaling_factor": vae.config.scaling_factor}
    return vae, numbers
