"""Matrix products in float8, by torchao: on GPUs that have them, about 1.3 times as fast as bfloat16 for a large DiT.

Weights and activations are float8 (e4m3) with one scale a row, activations' found as they come, so an image does not depend on
the others in its batch. Everything but the products over tokens, and what is too small to gain, stays bfloat16.
"""

from typing import Any

import torch

from dmkd.stores.errors import UsageError

_OF_TOKENS = (".attn1.", ".ff.")  # the layers of a block that every token goes through


def require_float8(device: torch.device | str) -> None:
    """Raise ``UsageError`` unless this machine's GPU has float8 products (NVIDIA Ada, Hopper or later; AMD MI300) and torchao is
    installed."""
    where = torch.device(device)
    if where.type != "cuda":
        raise UsageError(
            f"--dtype float8 needs a GPU with float8 products, and the device is {device}: use bfloat16 or float32."
        )
    if torch.version.hip is None and torch.cuda.get_device_capability(where) < (8, 9):
        name = torch.cuda.get_device_name(where)
        raise UsageError(
            f"--dtype float8: {name} has no float8 products (compute capability 8.9 or more): use bfloat16."
        )
    try:
        import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise UsageError("--dtype float8 needs torchao: pip install 'dmkd[float8]'.") from error


def to_float8(transformer: torch.nn.Module) -> None:
    """Replace the weights of a bfloat16 DiT's matrix products over tokens. Raises what :func:`require_float8` does."""
    require_float8(next(transformer.parameters()).device)
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    def over_tokens(module: torch.nn.Module, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and any(part in f".{name}." for part in _OF_TOKENS)

    blocks: Any = transformer.transformer_blocks
    # Inductor's settings stay: torchao's would time kernels, and two workers might choose two.
    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    quantize_(blocks, config, filter_fn=over_tokens)
