"""What code that runs on any device has to mind: copies that nobody waits for, and what not every device can do."""

import numpy as np
import torch


def device_type(device: torch.device | str) -> str:
    """``cpu``, ``cuda``, ``mps`` and so on."""
    return torch.device(device).type


def upload(values: torch.Tensor | np.ndarray, device: torch.device | str) -> torch.Tensor:
    """A tensor or array on the device, if it is not there yet, without waiting for work that is queued there.

    Only copies from page-locked memory to a GPU are asynchronous. torch keeps such memory, and reuses it when the
    copy from it is over: there are as many buffers as steps queued.
    """
    tensor = torch.as_tensor(values)
    if device_type(device) != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """A tensor on its way from its device, where the work that makes it may still be queued: to be read when it has come."""

    def __init__(self, tensor: torch.Tensor) -> None:
        on_gpu = device_type(tensor.device) == "cuda"
        self._values = tensor.to("cpu", non_blocking=on_gpu)  # into page-locked memory
        self._done = torch.cuda.Event() if on_gpu else None
        if self._done:
            self._done.record(torch.cuda.current_stream(tensor.device))

    def has_come(self) -> bool:
        """Whether it can be read without waiting."""
        return self._done is None or self._done.query()

    def read(self) -> list[float]:
        """Its values, waited for if they have not come."""
        if self._done:
            self._done.synchronize()
        return self._values.tolist()


def has_float64(device: torch.device | str) -> bool:
    """Whether a device computes in double precision; Apple's GPUs don't."""
    return device_type(device) != "mps"
