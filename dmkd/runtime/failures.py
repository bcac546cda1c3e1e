"""What kind of failure it is, and its reason in one line."""

import sys

from dmkd.stores import DmkdError, StoreWriteError, UsageError
from dmkd.stores.errors import first_line

# Trying again can't help: the run ends at once with the error's own sentence.
FATAL = (UsageError, StoreWriteError)


class DeviceLostError(DmkdError):
    """The GPU has stopped working. Every later call fails too, until the process is another one."""


class WorkerStartError(DmkdError):
    """A worker could not load its models."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU's memory ran out: with another batch, or when others have freed theirs, the same process can go on.

    torch has a type for its own allocations; the driver says it in words, and cuBLAS and cuDNN in words of their own when
    they find no room for their handles and workspaces.
    """
    torch = sys.modules.get("torch")  # if nobody has imported it, the error is none of its errors
    if torch is None:
        return False
    said = isinstance(error, RuntimeError) and ("out of memory" in str(error) or "ALLOC_FAILED" in str(error))
    return said or isinstance(error, torch.OutOfMemoryError)


def is_device_lost(error: BaseException) -> bool:
    """Whether this CUDA error stays: after an illegal address or a failed assertion a process can't use its GPU again.

    Newer torch has a type for it, older ones a RuntimeError that begins with "CUDA error".
    """
    torch = sys.modules.get("torch")
    if torch is None or is_out_of_memory(error):
        return False
    typed = getattr(torch, "AcceleratorError", ())
    return isinstance(error, typed) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def reason_of(error: BaseException) -> str:
    """One line for a person: ``ValueError: what it said``; a GPU that runs out of memory gets plain words."""
    said = first_line(error)
    if is_out_of_memory(error):
        return (
            "the GPU's memory does not hold a sub-batch: use a GPU with more memory, stop what else runs on it, or begin "
            f"another store with a smaller --sub-batch ({said if str(error) else 'out of memory'})"
        )
    if isinstance(error, DmkdError):
        return str(error)
    return named_line(error)


def without_frames(error: BaseException) -> BaseException:
    """The error, and those that led to it, without their frames: these hold the tensors of what failed for as long as the error
    is kept."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return error


def named_line(error: BaseException) -> str:
    """An error of another library in one line: its class and what it says first."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__
