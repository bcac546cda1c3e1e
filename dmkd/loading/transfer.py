"""From pinned memory to the GPU, on a stream of its own, while the last batch is being computed with."""

from collections import deque
from collections.abc import Iterable
from threading import Lock

import torch

from dmkd.runtime.accelerators import upload


class Transfer:
    """Copies that background threads begin and the thread that trains waits for, on the GPU alone.

    Host memory is kept until its copy is done; device memory is not given to anybody else before the training stream has
    gone past what uses it.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.stream = torch.cuda.Stream(self.device)
        self._under_way: deque[tuple[torch.cuda.Event, list[torch.Tensor]]] = deque()
        self._beginning = Lock()

    def begin(self, tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.cuda.Event]:
        """The tensors on the device, and the event after which they hold what they should."""
        with self._beginning, torch.cuda.stream(self.stream):
            moved = {name: upload(tensor, self.device) for name, tensor in tensors.items()}
            done = torch.cuda.Event()
            done.record(self.stream)
            self._under_way.append((done, list(tensors.values())))
            while self._under_way and self._under_way[0][0].query():
                self._under_way.popleft()
        return moved, done

    def finish(self, tensors: Iterable[torch.Tensor], done: torch.cuda.Event) -> None:
        """Make the current stream wait for the copies; called by the thread that uses them."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(done)
        for tensor in tensors:
            tensor.record_stream(stream)

    def close(self) -> None:
        """Wait for the copies under way: their host memory must not go before."""
        self.stream.synchronize()
        self._under_way.clear()
