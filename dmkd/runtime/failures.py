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


def is_device_lost(error: BaseException) -> bool:
    """Whether this CUDA error stays: after an illegal address or a failed assertion a process can't use its GPU again.

    Newer torch has a type for it, older ones a RuntimeError that begins with "CUDA error". Memory that runs out does not
    stay, whichever call it hits.
    """
    torch = sys.modules.get("torch")  # if nobody has imported it, the error is none of its errors
    if torch is None or isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
        return False
    typed = getattr(torch, "AcceleratorError", ())
    return isinstance(error, typed) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def reason_of(error: BaseException) -> str:
    """One line for a person: ``ValueError: what it said``; a GPU that runs out of memory gets plain words."""
    torch = sys.modules.get("torch")
    said = first_line(error)
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU's memory does not hold a sub-batch: use a GPU with more memory, stop what else runs on it, or begin "
            f"another store with a smaller --sub-batch ({said if str(error) else 'out of memory'})"
        )
    if isinstance(error, DmkdError):
        return str(error)
    return named_line(error)


def named_line(error: BaseException) -> str:
    """An error of another library in one line: its class and what it says first."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__
