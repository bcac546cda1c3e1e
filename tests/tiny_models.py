"""Small random models for tests, made offline in about a second."""

from pathlib import Path

import torch


def save_tiny_dit(
    folder: Path | str,
    num_classes: int = 10,
    sample_size: int = 8,
    learned_sigma: bool = True,
    seed: int = 0,
    safe_serialization: bool = True,
) -> Path:
    """Save a random DiT pipeline whose images are ``4 * sample_size`` pixels wide, and return its folder.

    Images depend on class, noise and timestep, and latents stay of order one to ten, as a trained model's would.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = DiTTransformer2DModel(
            num_attention_heads=4,
            attention_head_dim=16,
            in_channels=4,
            out_channels=8 if learned_sigma else 4,
            num_layers=2,
            sample_size=sample_size,
            patch_size=2,
            num_embeds_ada_norm=num_classes,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=4 * sample_size,
        )
        _draw_weights(transformer)
        _predict_the_input(transformer)
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False
    )
    # Every third class has two synonyms and every tenth has no name, as real lists do.
    id2label = {i: f"name {i}, synonym {i}" if i % 3 == 0 else f"name {i}" for i in range(num_classes) if i % 10 != 9}
    pipeline = DiTPipeline(transformer, vae, scheduler, id2label=id2label)
    pipeline.register_to_config(id2label=id2label)
    pipeline.save_pretrained(folder, safe_serialization=safe_serialization)
    return Path(folder)


def _draw_weights(transformer: torch.nn.Module) -> None:
    """Draw all weights so wide that class and timestep count; a new transformer hardly heeds them."""
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "embedding_table" in name:
                spread = 0.3
            elif parameter.ndim > 1:
                spread = (1.0 if "pos_embed" in name else 0.4) * parameter[0].numel() ** -0.5
            else:
                spread = 0.1
            parameter.normal_(0, spread)


@torch.no_grad()
def _predict_the_input(transformer: torch.nn.Module) -> None:
    """Fit the last layer by least squares so that the predicted noise is about the input.

    That is what a trained model predicts at large timesteps; with anything else latents grow a hundredfold.
    """
    config, last = transformer.config, transformer.proj_out_2
    n, channels, size, patch = 64, config.in_channels, config.sample_size, config.patch_size
    x = torch.randn(n, channels, size, size)
    features: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    transformer.eval()(
        x, timestep=torch.randint(0, 1000, (n,)), class_labels=torch.randint(0, config.num_embeds_ada_norm, (n,))
    )
    hook.remove()
    side = size // patch
    patches = x.reshape(n, channels, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1).reshape(n * side * side, -1)
    weight = torch.linalg.lstsq(features[0].flatten(0, 1), patches).solution.T
    # Rows of the last layer are (row, column, channel) of a patch; channels past the input's are the variances.
    rows = last.weight.view(patch, patch, -1, last.in_features)
    rows[:, :, :channels] = weight.view(patch, patch, channels, -1)
    last.bias.view(patch, patch, -1)[:, :, :channels] = 0
