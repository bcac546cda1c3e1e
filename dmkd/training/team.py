"""Several processes that train one student: who this one is, what they add up, and how they are started and fail.

torch's own means: DistributedDataParallel for gradients, torchrun's environment variables for who is who, its elastic agent
for starting and watching the processes of one machine.
"""

import inspect
import json
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import record

from dmkd.stores import errors
from dmkd.stores.errors import DmkdError, UsageError

# A worker that died is found by the agent that started it, within a second. This is for those who wait while others decode
# images, or rank 0 writes.
PATIENCE = timedelta(hours=4)


class Team:
    """The processes that train together. Alone, everything here is free of cost.

    ``rank`` 0 is the one that writes and reports. Made from torchrun's RANK, WORLD_SIZE and LOCAL_RANK.
    """

    def __init__(self, device: str) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self.device = device
        self.control: Any = None
        if self.world_size == 1:
            return
        if torch.device(device).type == "cuda":
            local_rank = int(os.environ.get("LOCAL_RANK", 0))
            if local_rank >= torch.cuda.device_count():
                raise UsageError(f"Worker {local_rank} has no GPU: this machine has {torch.cuda.device_count()}.")
            self.device = f"cuda:{local_rank}"
            torch.cuda.set_device(local_rank)
        elif device != "cpu":
            raise UsageError(
                f"--device {device}: several workers train on CUDA's GPUs or on a CPU; leave --workers out."
            )
        distributed.init_process_group("nccl" if self.device != "cpu" else "gloo", timeout=PATIENCE)
        # Numbers that the host needs are added up on the host, so that no GPU is waited for.
        self.control = distributed.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module whose gradients are averaged over the team in the backward pass; its batch statistics stay local."""
        if self.world_size == 1:
            return module
        wrapper = torch.nn.parallel.DistributedDataParallel
        # The second name is that of older versions of torch.
        names = ("forward_sync_buffers", "broadcast_buffers")
        no_broadcast: dict[str, Any] = {
            next(name for name in names if name in inspect.signature(wrapper.__init__).parameters): False
        }
        return wrapper(module, gradient_as_bucket_view=True, **no_broadcast)

    def synchronise_batch_norm(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module with batch statistics of the whole team. Raises ``UsageError`` on a CPU, where torch has none."""
        if self.world_size == 1:
            return module
        if torch.device(self.device).type != "cuda":
            raise UsageError("--sync-bn needs GPUs: torch has no synchronised batch norm for CPUs.")
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(module)

    def sum(self, *numbers: float) -> list[float]:
        """Each number added up over the team, the same on every rank."""
        if self.control is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(total, group=self.control)
        return total.tolist()

    def add_counts(self, counts: np.ndarray) -> np.ndarray:
        """An int64 array of one shape on every rank, added up over the team."""
        if self.control is None:
            return counts
        total = torch.from_numpy(counts)
        distributed.all_reduce(total, group=self.control)
        return total.numpy()

    def follow(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors on this rank's device with those of rank 0."""
        if self.control is not None:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def leave(self) -> None:
        if self.control is not None:
            distributed.destroy_process_group()


def keep_gradients_here(module: torch.nn.Module, wanted: bool) -> Any:
    """A context in which the backward passes of a shared module only add to this rank's gradients."""
    if wanted and isinstance(module, torch.nn.parallel.DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def in_team() -> bool:
    """Whether this process was started as one of several, by :func:`launch` or by torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@record
def _work(function: Callable[..., Any], *arguments: Any) -> Any:
    # Ctrl-C reaches every process of a terminal; the parent reports it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    return function(*arguments)


def launch(workers: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run ``function(*arguments)`` in ``workers`` processes of this machine, as torchrun would -> what rank 0 returned.

    ``function`` is one that a new process can import; it makes its :class:`Team`. When a worker fails, the others are
    ended, and its ``DmkdError`` is raised here, or one that says how it died.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # a sentence below says what they would
        if name.startswith(("torch.distributed", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        start_method="spawn",
    )
    try:
        return elastic_launch(config, _work)(function, *arguments)[0]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise _error_of_worker(rank, workers, failure) from error
    except SignalException as error:
        raise KeyboardInterrupt from error


def _error_of_worker(rank: int, workers: int, failure: Any) -> DmkdError:
    """What to raise for a worker's failure: an error of the same kind with the same sentence, or how the worker died."""
    message = failure.message
    if isinstance(message, dict):  # what ``record`` wrote: "MismatchError: the sentence"
        message = str(message.get("message", json.dumps(message)))
        kind, _, sentence = message.partition(": ")
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, DmkdError):
            return known(sentence)
        reason = message.splitlines()[0]
    elif failure.exitcode < 0:
        reason = f"killed by {failure.signal_name()}"
    else:
        reason = f"exit code {failure.exitcode}"
    return DmkdError(
        f"Worker {rank} of {workers} died ({reason.rstrip('.')}), and the others were ended: "
        "rerun the same command to resume from the last checkpoint."
    )
