"""The configuration of facebook/DiT-XL-2-256, the default generator, so that runs can be planned without a network.

DiT-XL/2 at 256 x 256 pixels (Peebles & Xie 2023, table 1 and section 4: 28 layers, width 1152, 16 heads, patch 2) with the VAE
stabilityai/sd-vae-ft-ema. The weights are not here.
"""

from typing import Any

SOURCE = "facebook/DiT-XL-2-256"


def configs() -> list[dict[str, Any]]:
    """Its configuration files: index, transformer, VAE, scheduler. Class names are timm's list of the same 1000 synsets."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo("imagenet-1k").label_descriptions(detailed=False)
    index = {
        "_class_name": "DiTPipeline",
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "id2label": {str(class_id): name for class_id, name in enumerate(names)},
    }
    transformer = {
        "num_layers": 28,
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "patch_size": 2,
        "sample_size": 32,
        "in_channels": 4,
        "out_channels": 8,
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_zero",
    }
    vae = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 256,
    }
    scheduler = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "clip_sample": False,
    }
    return [index, transformer, vae, scheduler]
