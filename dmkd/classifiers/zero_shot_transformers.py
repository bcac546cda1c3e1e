"""CLIP and its kin of the package transformers, as the towers of a zero-shot classifier."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dmkd.classifiers.zero_shot import Towers
from dmkd.runtime.failures import named_line
from dmkd.stores.errors import DmkdError


@dataclass(frozen=True)
class Family:
    """How the texts of one of transformers' model types are written, as in its training."""

    padding: str  # as its tokenizer takes it
    lower: bool  # in small letters, where tokenizers don't see to it


# Those whose logits are exp(logit_scale) · cosine, + logit_bias if there is one.
FAMILIES = {
    "clip": Family("longest", False),  # MetaCLIP too; what follows a text's end is masked
    "metaclip_2": Family("longest", False),
    "siglip": Family("max_length", True),  # SigLIP 2 of one image size too; nothing is masked, so padding counts
}


class TransformersTowers(Towers):
    def __init__(self, model: nn.Module, tokenizer: Any, family: Family, text_length: int) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer, self.family, self.text_length = tokenizer, family, text_length

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        return _vectors(self.model.get_image_features(pixel_values=pixels))

    def texts(self, texts: list[str]) -> torch.Tensor:
        written = [text.lower() for text in texts] if self.family.lower else texts
        tokens = self.tokenizer(
            written, padding=self.family.padding, max_length=self.text_length, truncation=True, return_tensors="pt"
        )
        return _vectors(self.model.get_text_features(input_ids=tokens["input_ids"].to(self.model.logit_scale.device)))

    def scale_and_bias(self) -> tuple[float, float]:
        bias = getattr(self.model, "logit_bias", None)
        return self.model.logit_scale.exp().item(), 0.0 if bias is None else bias.item()

    def forget_texts(self) -> None:
        self.model.text_model = self.model.text_projection = self.tokenizer = None


def load_towers(folder: Path, config: Any, source: str, weights: bool) -> TransformersTowers:
    """The model of a folder in float32; ``weights`` False: on torch's default device, without its tokenizer and its texts.

    Raises ``DmkdError`` for weights that can't be had, or that are more than weights.
    """
    import transformers
    from transformers import AutoModel, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    family, length = FAMILIES[config.model_type], config.text_config.max_position_embeddings
    if not weights:
        return TransformersTowers(AutoModel.from_config(config, trust_remote_code=False), None, family, length)
    try:
        model, loaded = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise DmkdError(_why(error, folder, source)) from error
    if absent := sorted(loaded["missing_keys"]):
        raise DmkdError(f"The weights of {source} lack {len(absent):,} of the model's, {absent[0]} among them.")
    return TransformersTowers(model, tokenizer, family, length)


def _vectors(given: Any) -> torch.Tensor:
    """What get_image_features and get_text_features return: the vectors, or since transformers 5 an output that holds them."""
    return given if isinstance(given, torch.Tensor) else given.pooler_output


def _why(error: BaseException | None, folder: Path, source: str) -> str:
    told, seen = error, error
    while seen is not None:
        if isinstance(seen, pickle.UnpicklingError):  # torch's own message recommends to run it
            return (
                f"The weights in {folder} contain code or objects other than weights, and dmkd does not run it: convert them to "
                "safetensors."
            )
        seen = seen.__cause__ or seen.__context__
    assert told is not None
    return f"The model of {source} could not be loaded: {named_line(told)}."
