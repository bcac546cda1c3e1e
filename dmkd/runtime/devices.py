"""Where models run, and how to make them run the same way twice."""

import gc
import os

from dmkd.runtime.memory import keep_freed_memory
from dmkd.runtime.precision import set_tf32
from dmkd.runtime.space import available_memory, byte_size
from dmkd.stores.errors import UsageError

CPU_THREADS = "DMKD_CPU_THREADS"
DEVICE_TYPES = ("cpu", "cuda", "mps")
MPS_TORCH = "2.10"  # the first that has embedding_bag there

# What a worker's process takes on a CPU before its first block: torch, the libraries of models, and Ray's own part.
WORKER_BYTES = 10**9
# More than this share a core to no purpose: each has as many threads as the recipe says, by default one a core.
WORKERS_PER_CORE = 4


def choose_device(asked: str | None) -> str:
    """``asked``, or the first GPU if there is one, or the CPU. Raises ``UsageError`` if this machine has no such device.

    AMD's GPUs are torch's ``cuda``. Apple's, ``mps``, are used only if asked for."""
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UsageError(f"--device {asked!r} is not a device: use cpu, cuda or cuda:1, or mps.") from error
    if device.type not in DEVICE_TYPES:
        raise UsageError(f"--device {asked}: dmkd runs on {', '.join(DEVICE_TYPES)}.")
    if device.type == "mps":
        _require_mps(asked)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {asked}: this machine has {torch.cuda.device_count()} GPUs that torch can use.")
    return asked


def _require_mps(asked: str) -> None:
    import torch

    if not torch.backends.mps.is_available():
        raise UsageError(f"--device {asked}: this machine has no Apple GPU that torch can use.")
    if (version := torch.__version__) < MPS_TORCH:
        raise UsageError(
            f"--device {asked} needs torch {MPS_TORCH}, whose Apple GPUs can do what views are resampled with; this is {version}."
        )


def release_gpu_memory() -> None:
    """Give memory that this process no longer uses back to the GPU: others may be about to use it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def default_cpu_threads() -> int:
    """Threads that a CPU run uses, unless the recipe says otherwise: $DMKD_CPU_THREADS, or the cores it may run on."""
    if wanted := os.environ.get(CPU_THREADS):
        if not wanted.isdecimal() or int(wanted) < 1:
            raise UsageError(f"${CPU_THREADS} must be a number of threads, 1 or more, not {wanted!r}.")
        return int(wanted)
    return cpu_cores()


def cpu_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_workers(workers: int, device: str) -> None:
    """Raise ``UsageError`` for more worker processes than this machine can hold: one a GPU, or on a CPU what its cores and its
    memory allow."""
    import torch

    if device == "mps":
        if workers > 1:
            raise UsageError(f"--workers {workers}: they would share the one Apple GPU; leave --workers out.")
        return
    if device.startswith("cuda"):
        if workers > (gpus := torch.cuda.device_count()):
            raise UsageError(f"--workers {workers}: each takes a GPU of its own, and this machine has {gpus}.")
        return
    cores, available = cpu_cores(), available_memory()
    most = max(1, min(WORKERS_PER_CORE * cores, available // WORKER_BYTES))
    if workers > most:
        raise UsageError(
            f"--workers {workers} is more than this machine can hold: with {cores} cores and {byte_size(available)} of memory "
            f"available, at most {most}."
        )


def make_deterministic(device: str, cpu_threads: int | None) -> None:
    """Choose kernels that give the same bits for the same shapes, float32 that is float32 (a GPU's convolutions would round it to
    TF32), and on a CPU the recipe's number of threads.

    One thread against two changes some 4 in 100,000 pixel values by one grey level.
    """
    import torch

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    set_tf32(False)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device == "cpu":
        keep_freed_memory()
        if cpu_threads:
            torch.set_num_threads(cpu_threads)
