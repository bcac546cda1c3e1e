"""A GPU that is not there: its tensors have shapes and no values, and whoever waits for one is told.

Made of torch's ``FakeTensorMode``, which knows what each operation would give on a GPU without having one. The CPU's
tensors stay real, so that code runs as it would beside a GPU. What is not noticed: waiting inside a CUDA kernel's own
host code, such as ``torch.linalg.solve``'s look at its status.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from unittest import mock

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

from dmkd.runtime.accelerators import upload

aten = torch.ops.aten


class WaitsForGpuError(AssertionError):
    """The CPU would have waited for the GPU."""


@contextlib.contextmanager
def absent_gpu(waits: list[str] | None = None, kind: str = "cuda") -> Iterator[None]:
    """Within, ``cuda`` is a device; ``WaitsForGpuError`` is raised where the CPU would wait for it.

    With ``waits``, that is written down there instead, and what is waited for comes as zeros. Of ``kind`` ``mps`` it has
    neither float64 nor page-locked memory, and waiting is no fault (torch knows Apple's own device on their machines only).
    """
    watch = _Watch(kind, waits)
    with (
        mock.patch("torch.Tensor.backward", _backward),
        mock.patch("torch.Tensor.record_stream"),
        mock.patch("torch.cuda.stream", return_value=contextlib.nullcontext()),
        mock.patch("torch.cuda.synchronize", watch.wait),
        mock.patch("torch.cuda.current_stream", return_value=_Queue(watch)),
        mock.patch("torch.cuda.Stream", return_value=_Queue(watch)),
        mock.patch("torch.cuda.Event", side_effect=lambda: _Queue(watch)),
        mock.patch("torch.Generator", _Generator),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        FakeTensorMode(allow_non_fake_inputs=True),
        watch,
        mock.patch("dmkd.runtime.accelerators.device_type", lambda device: _kind(device, kind)),
    ):
        yield


class _Queue:
    """A stream, or an event of one, that the CPU may ask about but not wait for."""

    def __init__(self, watch: "_Watch") -> None:
        self._watch, self._passed = watch, False

    def wait_event(self, _: "_Queue") -> None: ...

    def record(self, _: "_Queue | None" = None) -> None: ...

    def query(self) -> bool:
        self._passed = True
        return True

    def synchronize(self) -> None:
        if not self._passed:
            self._watch.wait()


class _Generator(torch.Generator):
    """Of random numbers for a GPU."""

    def __new__(cls, device: torch.device | str = "cpu") -> "_Generator":
        return super().__new__(cls)


def _kind(device: torch.device | str, kind: str) -> str:
    found = torch.device(device).type
    return kind if found == "cuda" else found


def to_absent_gpu(module: torch.nn.Module, trained: bool = False) -> torch.nn.Module:
    """Move a module there, within ``absent_gpu``; it can't come back. ``trained``: its weights want gradients."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = torch.nn.Parameter(upload(weight.detach(), "cuda"), requires_grad=trained)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = upload(buffer, "cuda")
    return module


class _Watch(TorchDispatchMode):
    def __init__(self, kind: str, waits: list[str] | None) -> None:
        super().__init__()
        self.kind, self.waits = kind, waits
        self.pinned: dict[int, torch.Tensor] = {}  # by address; kept, so that no address comes twice

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (
            torch.is_inference_mode_enabled() and func.namespace == "aten" and func._can_decompose()
        ):  # what autograd would have done before
            with self:
                return func.decompose(*args, **kwargs)
        if func is aten.is_pinned.default:
            return self._is_pinned(args[0])
        if func is aten._pin_memory.default:
            assert self.kind == "cuda", "Only CUDA copies from page-locked memory."
            with unset_fake_temporarily():
                copy = args[0].clone()
            self.pinned[copy.untyped_storage().data_ptr()] = copy
            return copy
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func is aten.empty.memory_format and kwargs.pop("pin_memory", False):
            with unset_fake_temporarily():
                memory = func(*args, **kwargs)
            self.pinned[memory.untyped_storage().data_ptr()] = memory
            return memory
        on_gpu = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not on_gpu and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is aten._to_copy.default:
            source, target = args[0], torch.device(kwargs.get("device") or args[0].device)
            # Copied to the CPU asynchronously, torch takes page-locked memory for the copy.
            if source.device.type != target.type:
                self._check_copy(source, target, kwargs.get("non_blocking", False), target.type == "cpu")
            if source.device.type != "cpu" and target.type == "cpu":
                with unset_fake_temporarily():
                    return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        elif func is aten.copy_.default and args[0].device.type != args[1].device.type:
            self._check_copy(args[1], args[0].device, args[2] if len(args) > 2 else False, self._is_pinned(args[0]))
            if args[0].device.type == "cpu":
                return args[0]
        elif func in (aten.where.self, aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            # These move numbers and indices of the CPU to the GPU themselves.
            for tensor in tensors:
                if tensor.device.type == "cpu":
                    self._waits(f"{func} uploads {tuple(tensor.shape)} of its own and waits.")
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            self._waits(f"{func} needs values that are on the GPU.", error)
            if func is not aten._local_scalar_dense.default:
                raise
            return 0.0 if args[0].is_floating_point() else 0
        if self.kind == "mps" and any(
            isinstance(leaf, FakeTensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)
        ):
            raise TypeError(f"{func} makes float64, which MPS does not have.")
        return result

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in self.pinned

    def _check_copy(self, source: torch.Tensor, target: torch.device, non_blocking: bool, to_pinned: bool) -> None:
        if not (non_blocking and (to_pinned or self._is_pinned(source))):
            self._waits(f"A copy of {tuple(source.shape)} from {source.device} to {target} is waited for.")

    def wait(self, *_: object) -> None:
        self._waits("All that was queued is waited for.")

    def _waits(self, message: str, cause: Exception | None = None) -> None:
        if self.kind == "mps":
            return
        if self.waits is None:
            raise WaitsForGpuError(message) from cause
        self.waits.append(message)


def _backward(loss: torch.Tensor) -> None:
    """``loss.backward()``: autograd's own engine wants a thread for each GPU, which it can't have. Walks the same graph."""
    order: list[torch.autograd.graph.Node] = []
    seen, left = set(), [(loss.grad_fn, False)]
    while left:
        node, inputs_done = left.pop()
        if inputs_done:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            left += [(node, True), *((before, False) for before, _ in node.next_functions)]
    gradients: dict[torch.autograd.graph.Node, dict[int, torch.Tensor]] = defaultdict(dict)
    with torch.no_grad():
        gradients[loss.grad_fn][0] = torch.ones_like(loss)
        for node in reversed(order):
            given = gradients.pop(node, {})
            if not given:
                continue
            if hasattr(node, "variable"):
                weight, gradient = node.variable, given[0]
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
            else:
                found = node(*(given.get(place) for place in range(len(node._input_metadata))))
                found = found if isinstance(found, tuple) else (found,)
                for gradient, (before, place) in zip(found, node.next_functions, strict=True):
                    if before is not None and gradient is not None:
                        expected, there = before._input_metadata[place], gradients[before]
                        gradient = gradient.sum_to_size(expected.shape).to(expected.dtype)
                        there[place] = there[place] + gradient if place in there else gradient
