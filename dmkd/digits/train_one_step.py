"""The one-step generator: the DiT's own road from noise to latents, learned as one call of a model of the same shape.

The DiT is asked for many pairs of noise and what 20 steps of DDIM make of it, at one guidance scale; DDIM adds no noise, so each
noise has one answer, and a model of the same shape learns to give it at once (Luhman & Luhman 2021, arXiv:2101.02388).
"""

import torch
import torch.nn.functional as F

from dmkd.digits.train_dit import CLASSES, NULL_CLASS, make_dit

PAIRS = 20_000
GUIDANCE = 2.0  # of the pairs; the model is not guided
DDIM_STEPS = 20
STEPS = 2000
BATCH = 256
LEARNING_RATE = 1e-3
EMA_DECAY = 0.998
SEED = 505
TIMESTEP = 999  # what the model is told, always


@torch.no_grad()
def make_pairs(dit, scheduler, count: int, batch: int = 500) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise and the DiT's latents, both float32 (count, 4, 8, 8), and class ids, int64 (count,), all classes equally often."""
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(count, 4, 8, 8, generator=generator)
    class_ids = torch.arange(count) % CLASSES
    latents = []
    for x, ids in zip(noise.split(batch), class_ids.split(batch), strict=True):
        scheduler.set_timesteps(DDIM_STEPS)
        labels = torch.cat([ids, torch.full_like(ids, NULL_CLASS)])
        for t in scheduler.timesteps:
            output = dit(torch.cat([x, x]), timestep=t.expand(len(labels)), class_labels=labels).sample
            conditional, unconditional = output.chunk(2, dim=1)[0].chunk(2)
            guided = unconditional + GUIDANCE * (conditional - unconditional)
            x = scheduler.step(guided, t, x).prev_sample
        latents.append(x)
    return noise, torch.cat(latents), class_ids


def one_step(model, noise: torch.Tensor, class_ids: torch.Tensor) -> torch.Tensor:
    """Noise, (n, 4, 8, 8), and class ids, int64 (n,), to latents (n, 4, 8, 8)."""
    t = torch.full_like(class_ids, TIMESTEP)
    return model(noise, timestep=t, class_labels=class_ids).sample.chunk(2, dim=1)[0]


def train_one_step(dit, scheduler, log=print):
    """Learn the DiT's pairs. Returns the exponential moving average of the weights, in eval mode, and the training's numbers."""
    from timm.utils import ModelEmaV3

    torch.manual_seed(SEED)
    noise, latents, class_ids = make_pairs(dit.eval(), scheduler, PAIRS)
    log(f"one step: {PAIRS} pairs")
    model = make_dit()
    model.load_state_dict(dit.state_dict())
    torch.nn.init.zeros_(model.proj_out_2.weight)  # it predicted noise
    torch.nn.init.zeros_(model.proj_out_2.bias)
    model.train()
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.eval()  # or it would drop one class in ten
    ema = ModelEmaV3(model, decay=EMA_DECAY, use_warmup=True, warmup_power=3 / 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.1, final_div_factor=100)
    generator = torch.Generator().manual_seed(SEED)
    history, running = [], 0.0
    for step in range(STEPS):
        rows = torch.randint(len(noise), (BATCH,), generator=generator)
        loss = F.mse_loss(one_step(model, noise[rows], class_ids[rows]), latents[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.update(model, step=step)
        running += loss.item()
        if (step + 1) % 500 == 0:
            history.append({"step": step + 1, "mse": running / 500})
            log(f"one step {step + 1}: mse {running / 500:.4f}")
            running = 0.0
    numbers = {"pairs": PAIRS, "guidance": GUIDANCE, "steps": STEPS, "batch": BATCH, "seed": SEED, "losses": history}
    return ema.module.eval().requires_grad_(False), numbers
