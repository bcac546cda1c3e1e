"""Checkpoints of DiT's own code (Peebles & Xie 2023, github.com/facebookresearch/DiT): one file of weights, no configuration.

The layout of the weights says what the model is, but for the number of attention heads, which goes with its width. diffusers'
``DiTTransformer2DModel`` computes the same, once it is given the original's time frequencies and epsilon.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dmkd.stores.errors import DmkdError, UsageError, first_line

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the paper's S, B, L and XL (table 1), by width

_DIRECT = {  # of the whole model: diffusers' name -> the original's
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_OF_BLOCK = {  # within transformer_blocks.N -> within blocks.N
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_SHARED = {  # within transformer_blocks.N, where diffusers keeps a copy in each block -> the original's one
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
}
_CLASSES = "y_embedder.embedding_table.weight"


@dataclass(frozen=True)
class DiTCheckpoint:
    """A file with the weights of one DiT, by their original names; those of its moving average, where it has one."""

    file: Path
    state: Mapping[str, torch.Tensor]  # on disk until they are used

    @property
    def config(self) -> dict[str, Any]:
        """The same model as diffusers configures it. Raises ``UsageError`` if the weights are not laid out as a DiT's."""
        width, channels, patch, _ = self._shape("x_embedder.proj.weight", 4)
        _, patches, _ = self._shape("pos_embed", 3)
        classes = self._shape(_CLASSES, 2)[0] - 1  # the last row stands for no class
        out_channels = self._shape("final_layer.linear.weight", 2)[0] // patch**2
        if width not in HEADS:
            known = ", ".join(map(str, HEADS))
            raise UsageError(
                f"{self.file} is a DiT of width {width}, and how many attention heads it has is not in it: widths {known} are "
                "known. Convert it to a diffusers pipeline folder."
            )
        return {
            "num_layers": 1 + max(int(found[1]) for key in self.state if (found := re.match(r"blocks\.(\d+)\.", key))),
            "num_attention_heads": HEADS[width],
            "attention_head_dim": width // HEADS[width],
            "patch_size": patch,
            "sample_size": round(patches**0.5) * patch,
            "in_channels": channels,
            "out_channels": out_channels,
            "num_embeds_ada_norm": classes,
            "norm_type": "ada_norm_zero",
            "norm_eps": 1e-6,
        }

    def model(self, dtype: torch.dtype) -> torch.nn.Module:
        """The ``DiTTransformer2DModel`` with these weights, on the CPU. Raises ``DmkdError`` if any is missing or of another
        shape, or if the places of patches are not the sines and cosines that DiTs have."""
        from diffusers import DiTTransformer2DModel

        model: Any = DiTTransformer2DModel(**self.config)
        for block in model.transformer_blocks:
            # As the original: diffusers' own spacing of frequencies ends one step later.
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        try:
            model.load_state_dict(self._translated(len(model.transformer_blocks)))
        except (KeyError, RuntimeError) as error:
            raise DmkdError(
                f"The weights in {self.file} are incomplete, or not a DiT's: {first_line(error)}."
            ) from error
        if not torch.allclose(self.state["pos_embed"].float(), model.pos_embed.pos_embed, atol=1e-4):
            raise DmkdError(f"{self.file} has position embeddings of its own, unlike a DiT: dmkd can't sample it.")
        return torch.nn.Module.to(model, dtype)  # diffusers' own warns of parts that a DiT has none of

    def _shape(self, key: str, axes: int) -> tuple[int, ...]:
        found = self.state.get(key)
        if found is None or found.ndim != axes:
            raise UsageError(
                f"{self.file} holds no DiT as its authors' code saves it (it lacks {key}). A diffusers pipeline is given by its "
                "folder."
            )
        return tuple(found.shape)

    def _translated(self, blocks: int) -> dict[str, torch.Tensor]:
        """The weights by diffusers' names. Raises ``KeyError`` for one that is missing."""
        state: dict[str, torch.Tensor] = {}

        def take(name: str, original: str) -> None:
            for kind in ("weight", "bias"):
                state[f"{name}.{kind}"] = self.state[f"{original}.{kind}"]

        for name, original in _DIRECT.items():
            take(name, original)
        for number in range(blocks):
            block, its = f"transformer_blocks.{number}", f"blocks.{number}"
            for name, original in _OF_BLOCK.items():
                take(f"{block}.{name}", f"{its}.{original}")
            for name, original in _SHARED.items():
                take(f"{block}.{name}", original)
            state[f"{block}.norm1.emb.class_embedder.embedding_table.weight"] = self.state[_CLASSES]
            for kind in ("weight", "bias"):
                parts = self.state[f"{its}.attn.qkv.{kind}"].chunk(3)
                for name, part in zip(("to_q", "to_k", "to_v"), parts, strict=True):
                    state[f"{block}.attn1.{name}.{kind}"] = part
        return state


def read_checkpoint(path: str) -> DiTCheckpoint:
    """The checkpoint in a ``.pt``, ``.pth`` or ``.safetensors`` file. No code in it is run: it is read with ``weights_only``, and
    beside tensors only the options of the training that wrote it (an ``argparse.Namespace`` of plain values) are let in.

    Raises ``UsageError`` for a file that is not there, ``DmkdError`` for one that holds anything else or is damaged."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"There is no checkpoint {path}.")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(file)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                found = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except Exception as error:  # pickle, zip, safetensors and torch each have their own
        reason = "it contains code or objects other than weights" if "weights_only" in str(error) else first_line(error)
        raise DmkdError(f"The checkpoint {path} can't be read: {reason}. Save only its weights.") from error
    for key in ("ema", "model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    state = {
        str(key).removeprefix("module."): value
        for key, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(value, torch.Tensor)
    }
    return DiTCheckpoint(file.resolve(), state)


def _is_zip(file: Path) -> bool:
    """Whether torch can map it: it is not of a version before 1.6."""
    with open(file, "rb") as content:
        return content.read(2) == b"PK"
