"""The outputs of a text-to-image pipeline's text encoders, computed once a prompt."""

import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from dmkd.stores.errors import DmkdError

# Embeddings kept, on the CPU. Without room for all of them prompts are encoded again: a hundredth of an image's time.
_CACHE_BYTES = 4 * 2**30


class PromptCache:
    """A pipeline's ``encode_prompt`` that encodes each prompt once, alone, and then remembers.

    It takes the place of the method, so that the pipeline itself says which embeddings it needs (pooled ones, masks,
    those of negative prompts) and in which order. Prompts are encoded one by one: an embedding must not depend on which
    other prompts are in its batch.
    """

    def __init__(self, encode: Callable[..., Any], device: torch.device, max_bytes: int = _CACHE_BYTES) -> None:
        self.encode, self.device, self.max_bytes = encode, device, max_bytes
        self._signature = inspect.signature(encode)
        self._kept: OrderedDict[str, Any] = OrderedDict()  # least recently used first
        self._bytes = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = self._signature.bind(*args, **kwargs).arguments
        # prompt, prompt_2, negative_prompt, …: everything with one entry for each image.
        texts = {name: value for name, value in arguments.items() if "prompt" in name and isinstance(value, list)}
        rest = {name: value for name, value in arguments.items() if name not in texts}
        return _join(
            [self._one({**rest, **{n: t[i : i + 1] for n, t in texts.items()}}) for i in range(len(texts["prompt"]))]
        )

    def _one(self, arguments: dict[str, Any]) -> Any:
        key = repr(sorted(arguments.items()))
        if key not in self._kept:
            self._kept[key] = _moved(self.encode(**arguments), torch.device("cpu"))
            self._bytes += _size(self._kept[key])
        self._kept.move_to_end(key)
        value = _moved(self._kept[key], self.device)
        while self._bytes > self.max_bytes:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return value


def _join(parts: list[Any]) -> Any:
    """Results of ``encode_prompt`` for single prompts -> its result for all of them at once."""
    first = parts[0]
    if isinstance(first, tuple):
        return tuple(_join(list(group)) for group in zip(*parts, strict=True))
    if isinstance(first, list):  # one tensor a prompt, of its own length
        return [item for part in parts for item in part]
    if isinstance(first, torch.Tensor):
        if all(part.shape == first.shape and len(part) == 1 for part in parts):
            return torch.cat(parts)
        if all(torch.equal(part, first) for part in parts):  # positions, which all prompts share
            return first
        raise DmkdError(
            "The pipeline's embeddings of different prompts have different lengths, so an image would depend on the "
            "other ones sampled with it; dmkd does not sample such pipelines."
        )
    return first


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _size(value: Any) -> int:
    """Bytes."""
    if isinstance(value, tuple | list):
        return sum(_size(item) for item in value)
    return value.nbytes if isinstance(value, torch.Tensor) else 0
