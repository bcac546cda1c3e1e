"""The denoiser: a small class-conditional DiT with learned variance, on the autoencoder's latents."""

import math

import torch
import torch.nn.functional as F

from dmkd.digits.augment import jitter

STEPS = 3600
BATCH = 128
LEARNING_RATE = 1e-3
EMA_DECAY = 0.998
CLASS_DROPOUT = 0.1
JITTERED_COPIES = 12  # of every training image; encoded once, before the training
SEED = 202

CLASSES = 10
NULL_CLASS = CLASSES  # the row of the label embedding that stands for "no class"; DiT-XL/2's is 1000
DIFFUSION_STEPS = 1000


def linear_betas() -> torch.Tensor:
    """DDPM's linear noise schedule, float64 (1000,): Ho et al. 2020, and facebook/DiT-XL-2-256."""
    return torch.linspace(1e-4, 0.02, DIFFUSION_STEPS, dtype=torch.float64)


def make_scheduler():
    """The scheduler saved with the pipeline: the same settings as facebook/DiT-XL-2-256's."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=DIFFUSION_STEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
        prediction_type="epsilon",
    )


def make_dit():
    """An untrained DiT of 0.8M parameters, initialised as adaLN-Zero (Peebles & Xie 2023, section 3.2)."""
    from diffusers import DiTTransformer2DModel

    dit = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=24,
        num_layers=4,
        in_channels=4,
        out_channels=8,  # 4 of noise, 4 of variance
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    )
    # diffusers leaves the initialisation to PyTorch; the paper starts every block as the identity and the output at 0.
    zero = [block.norm1.linear for block in dit.transformer_blocks] + [dit.proj_out_1, dit.proj_out_2]
    for layer in zero:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    for block in dit.transformer_blocks:
        torch.nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight, std=0.02)
    return dit


class HybridLoss:
    """L_simple on the noise plus L_vlb on the variance: Nichol & Dhariwal 2021, equations 14 to 16.

    The L_vlb term sees the predicted noise detached, so that it trains the variance only, and is weighted as DiT does:
    mean bits a latent value, unscaled, at the one time step drawn.
    """

    def __init__(self):
        betas = linear_betas()
        alphas_bar = (1 - betas).cumprod(0)
        previous = F.pad(alphas_bar[:-1], (1, 0), value=1.0)
        posterior = betas * (1 - previous) / (1 - alphas_bar)
        # The posterior variance is 0 at t = 0; the second one takes its place, as in the authors' code.
        posterior[0] = posterior[1]
        columns = {
            "signal": alphas_bar.sqrt(),
            "noise": (1 - alphas_bar).sqrt(),
            "log_beta": betas.log(),
            "log_posterior": posterior.log(),
            # posterior mean = x0_weight * x_0 + xt_weight * x_t (Ho et al. 2020, equation 7)
            "x0_weight": betas * previous.sqrt() / (1 - alphas_bar),
        }
        self.table = {name: column.float().view(-1, 1, 1, 1) for name, column in columns.items()}

    def noisy(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t for clean latents and noise (n, 4, 8, 8) at time steps t, int64 (n,)."""
        return self.table["signal"][t] * x0 + self.table["noise"][t] * noise

    def __call__(self, output: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(L_simple, L_vlb), both scalars, from the model's output (n, 8, 8, 8) and the noise that was added."""
        predicted, fraction = output.chunk(2, dim=1)
        at = {name: column[t] for name, column in self.table.items()}
        weight = (fraction + 1) / 2  # the model's -1..1 stands for log posterior variance .. log beta
        log_variance = weight * at["log_beta"] + (1 - weight) * at["log_posterior"]
        # Both means share the x_t term, and x_0 = (x_t - noise * eps) / signal: they differ by the error in eps alone.
        mean_error = at["x0_weight"] * at["noise"] / at["signal"] * (predicted.detach() - noise)
        ratio = at["log_posterior"] - log_variance
        kl = 0.5 * (-1 - ratio + ratio.exp() + mean_error**2 * (-log_variance).exp())
        return F.mse_loss(predicted, noise), kl.mean() / math.log(2)


@torch.no_grad()
def encode_jittered(vae, pixels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and standard deviations of the scaled latents of jittered copies, both float32 (copies, n, 4, 8, 8)."""
    means, stds = [], []
    for _ in range(JITTERED_COPIES):
        posteriors = [vae.encode(jitter(batch, generator)).latent_dist for batch in pixels.split(256)]
        means.append(torch.cat([posterior.mean for posterior in posteriors]))
        stds.append(torch.cat([posterior.std for posterior in posteriors]))
    scale = vae.config.scaling_factor
    return torch.stack(means) * scale, torch.stack(stds) * scale


def train_dit(vae, pixels: torch.Tensor, class_ids: torch.Tensor, log=print):
    """Train the DiT on pixels, float32 (n, 3, 32, 32) in [-1, 1], and class ids, int64 (n,).

    Returns the exponential moving average of the weights, in eval mode, and the training's numbers.
    """
    from timm.utils import ModelEmaV3

    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    means, stds = encode_jittered(vae, pixels, generator)
    dit = make_dit().train()
    # diffusers drops the class in each block by itself; guidance needs it dropped in all at once, as below.
    for block in dit.transformer_blocks:
        block.norm1.emb.class_embedder.eval()
    ema = ModelEmaV3(dit, decay=EMA_DECAY, use_warmup=True, warmup_power=3 / 4)
    optimizer = torch.optim.AdamW(dit.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.1, final_div_factor=10)
    loss = HybridLoss()
    running = torch.zeros(2)
    history = []
    for step in range(STEPS):
        rows = torch.randint(len(pixels), (BATCH,), generator=generator)
        copies = torch.randint(JITTERED_COPIES, (BATCH,), generator=generator)
        x0 = means[copies, rows]
        x0 = x0 + stds[copies, rows] * torch.randn(x0.shape, generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.randint(DIFFUSION_STEPS, (BATCH,), generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < CLASS_DROPOUT
        labels = torch.where(dropped, NULL_CLASS, class_ids[rows])
        output = dit(loss.noisy(x0, noise, t), timestep=t, class_labels=labels).sample
        simple, vlb = loss(output, noise, t)
        optimizer.zero_grad()
        (simple + vlb).backward()
        torch.nn.utils.clip_grad_norm_(dit.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update(dit, step=step)
        running += torch.stack([simple.detach(), vlb.detach()])
        if (step + 1) % 500 == 0:
            simple_mean, vlb_mean = (running / 500).tolist()
            history.append({"step": step + 1, "simple": simple_mean, "vlb": vlb_mean})
            log(f"dit step {step + 1}: simple {simple_mean:.4f}, vlb {vlb_mean:.4f}")
            running.zero_()

    numbers = {"steps": STEPS, "batch": BATCH, "seed": SEED, "losses": history}
    numbers |= {"parameters": sum(p.numel() for p in dit.parameters())}
    return ema.module.eval().requires_grad_(False), numbers
