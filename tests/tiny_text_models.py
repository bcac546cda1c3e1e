"""Small random text-to-image pipelines for tests, made offline in seconds: two with a UNet, one with a transformer."""

import json
from pathlib import Path
from typing import Any

import torch

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789-'."


def save_tiny_text_pipeline(folder: Path | str, kind: str = "StableDiffusionPipeline", seed: int = 0) -> Path:
    """Save a random pipeline of 32x32 pixels, a class of diffusers by its name, and return its folder."""
    import diffusers

    make = {
        "StableDiffusionPipeline": _stable_diffusion,
        "StableDiffusionXLPipeline": _stable_diffusion_xl,
        "StableDiffusion3Pipeline": _stable_diffusion_3,
        "PixArtSigmaPipeline": _pixart_sigma,
        "FluxPipeline": _flux,
    }[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = getattr(diffusers, kind)(**make(Path(folder).parent / "tokenizer"))
        with torch.no_grad():
            for model in pipeline.components.values():
                if isinstance(model, torch.nn.Module):
                    _draw_weights(model)
    pipeline.save_pretrained(folder)
    return Path(folder)


def _stable_diffusion(tokenizer_folder: Path) -> dict[str, Any]:
    from diffusers import PNDMScheduler

    return {
        "unet": _unet(cross_attention_dim=16),
        "vae": _vae(),
        "scheduler": PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
        ),
        "text_encoder": _text_encoder(16),
        "tokenizer": tiny_tokenizer(tokenizer_folder),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _stable_diffusion_xl(tokenizer_folder: Path) -> dict[str, Any]:
    from diffusers import EulerAncestralDiscreteScheduler

    return {
        "unet": _unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
        ),
        "vae": _vae(),
        # As in SDXL-Turbo: noise in every step.
        "scheduler": EulerAncestralDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
        ),
        "text_encoder": _text_encoder(16),
        "text_encoder_2": _text_encoder(16, projection=True),
        "tokenizer": tiny_tokenizer(tokenizer_folder),
        "tokenizer_2": tiny_tokenizer(tokenizer_folder),
    }


def _stable_diffusion_3(tokenizer_folder: Path) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
    )
    return {
        "transformer": transformer,
        "vae": _vae(shift_factor=0.06),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "text_encoder": _text_encoder(16, projection=True),
        "text_encoder_2": _text_encoder(16, projection=True),
        "text_encoder_3": None,
        "tokenizer": tiny_tokenizer(tokenizer_folder),
        "tokenizer_2": tiny_tokenizer(tokenizer_folder),
        "tokenizer_3": None,
    }


def _pixart_sigma(_: Path) -> dict[str, Any]:
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=16,
        cross_attention_dim=32,
        in_channels=4,
        out_channels=8,
        use_additional_conditions=False,
    )
    return {
        "transformer": transformer,
        "vae": _vae(),
        "scheduler": DPMSolverMultistepScheduler(),
        "text_encoder": _t5_encoder(16),
        "tokenizer": _t5_tokenizer(),
    }


def _flux(tokenizer_folder: Path) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    )
    return {
        "transformer": transformer,
        "vae": _vae(shift_factor=0.1),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "text_encoder": _text_encoder(16),
        "text_encoder_2": _t5_encoder(16),
        "tokenizer": tiny_tokenizer(tokenizer_folder),
        "tokenizer_2": _t5_tokenizer(),
    }


def _unet(**config: Any) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        **config,
    )


def _vae(**config: Any) -> torch.nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        **config,
    )


def _text_encoder(width: int, projection: bool = False) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    end = 2 * len(CHARACTERS) + 1
    config = CLIPTextConfig(
        vocab_size=end + 1,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def _t5_encoder(width: int) -> torch.nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=128, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return T5EncoderModel(config)


def _t5_tokenizer() -> Any:
    """T5's tokenizer with letters for words."""
    from transformers import T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "▁", *CHARACTERS]
    return T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=77)


def tiny_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer with letters for words: no merges."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    words = [*CHARACTERS, *(f"{character}</w>" for character in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def _draw_weights(model: torch.nn.Module) -> None:
    """Draw the matrices so wide that the text counts; a new model hardly heeds it."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "decoder" not in name:
            parameter.normal_(0, 1.0 * parameter[0].numel() ** -0.5)
