"""What a model is known by: the hash of its weights."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module


def state_dict_sha256(model: "Module") -> str:
    """sha256 over the names, dtypes, shapes and little-endian bytes of all weights and buffers, sorted by name.

    Of the tensors, not of a file: the same weights have the same hash in whatever format they came.
    """
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
