"""A CUDA device that is not there: its tensors have shapes and no values, and whoever waits for one is told.

Made of torch's ``FakeTensorMode``, which knows what each operation would give on a GPU without having one. The CPU's
tensors stay real, so that code runs as it would beside a GPU. What is not noticed: waiting inside a CUDA kernel's own
host code, such as ``torch.linalg.solve``'s look at its status.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class WaitsForGpuError(AssertionError):
    """The CPU would have waited for the GPU."""


@contextlib.contextmanager
def absent_gpu() -> Iterator[None]:
    """Within, ``cuda`` is a device; ``WaitsForGpuError`` is raised where the CPU would wait for it."""
    with FakeTensorMode(allow_non_fake_inputs=True), _Watch():
        yield


def to_absent_gpu(module: torch.nn.Module) -> torch.nn.Module:
    """Move a module there, within ``absent_gpu``; it can't come back."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                moved = weight.detach().pin_memory().to("cuda", non_blocking=True)
                part._parameters[name] = torch.nn.Parameter(moved, requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.pin_memory().to("cuda", non_blocking=True)
    return module


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.pinned: dict[int, torch.Tensor] = {}  # by address; kept, so that no address comes twice

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is aten.is_pinned.default:
            return self._is_pinned(args[0])
        if func is aten._pin_memory.default:
            with unset_fake_temporarily():
                copy = args[0].clone()
            self.pinned[copy.untyped_storage().data_ptr()] = copy
            return copy
        on_gpu = any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs)))
        if not on_gpu and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is aten._to_copy.default:
            self._check_copy(args[0], kwargs.get("device") or args[0].device, kwargs.get("non_blocking", False))
        if func is aten.copy_.default:
            self._check_copy(args[1], args[0].device, args[2] if len(args) > 2 else False)
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise WaitsForGpuError(f"{func} needs values that are on the GPU.") from error

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in self.pinned

    def _check_copy(self, source: torch.Tensor, target: torch.device, non_blocking: bool) -> None:
        if source.device.type != target.type and not (non_blocking and self._is_pinned(source)):
            raise WaitsForGpuError(f"A copy of {tuple(source.shape)} from {source.device} to {target} is waited for.")
