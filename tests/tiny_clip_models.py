"""Small random models of images and texts for tests, in folders as transformers saves them, made offline in seconds."""

from pathlib import Path
from typing import Any

import torch
from tiny_text_models import tiny_tokenizer

SIZE = 32
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = {**TEXT, "image_size": SIZE, "patch_size": 8}


def save_tiny_clip(folder: Path, kind: str = "clip", seed: int = 0, **processor: Any) -> Path:
    """Save a random model of 32x32 pixels, ``clip`` or ``siglip``, with its tokenizer and image processor; return its folder."""
    import transformers

    tokens = len(tiny_tokenizer(folder.parent / "tokenizer"))
    text = {
        **TEXT,
        "vocab_size": tokens,
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
        "pad_token_id": tokens - 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "clip":
            config = transformers.CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=24)
            model = transformers.CLIPModel(config)
            shown = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
            transformers.CLIPImageProcessor(**shown | processor).save_pretrained(folder)
        else:
            text |= {"max_position_embeddings": 64, "projection_size": 16}
            model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=IMAGE))
            transformers.SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, **processor).save_pretrained(folder)
        with torch.no_grad():
            for parameter in model.parameters():  # so wide that images and texts count
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
            model.logit_scale.fill_(3.0)
            if kind == "siglip":
                model.logit_bias.fill_(-5.0)
    model.save_pretrained(folder)
    tiny_tokenizer(folder.parent / "tokenizer").save_pretrained(folder)
    return folder
