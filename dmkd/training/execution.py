"""How a training run is carried out: what may differ between two runs of one recipe, and between a run and its resumption."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dmkd.runtime.precision import AUTOCAST
from dmkd.stores.errors import UsageError

if TYPE_CHECKING:
    import torch

AMP = (*AUTOCAST, "tf32", "off")


@dataclass(frozen=True)
class Execution:
    """Precision, layout, and how often to save and to measure."""

    amp: str | None = None  # bfloat16, float16, tf32 or off; None: bfloat16 on a GPU that has it, else off
    channels_last: bool | None = None  # None: on a GPU
    compile: bool = False  # torch.compile of the student
    checkpoint_minutes: float = 10.0  # between two checkpoints within an epoch; each epoch ends with one
    evaluate_every: int = 1  # epochs; the last one is always measured
    data_workers: int | None = None  # threads that decode the images to evaluate on; None: one a core, at most 8
    memory: float | None = None  # GiB of the store that each worker may hold; None: the loader's default
    cache: str | None = None  # a folder on a local disk that keeps what can't be mapped where it is
    cache_gb: float | None = None  # of that folder at most, 10^9 bytes; None: most of what is free
    log: tuple[str, ...] = ()  # trackers, by their names in dmkd.training.trackers
    group: str | None = None  # what these call the runs that belong together; None: this one is alone

    def __post_init__(self) -> None:
        if self.amp not in (None, *AMP):
            raise UsageError(f"--amp must be one of {', '.join(AMP)}, not {self.amp!r}.")
        if not self.checkpoint_minutes >= 0:
            raise UsageError(f"--checkpoint-every must be 0 minutes or more, not {self.checkpoint_minutes}.")
        if self.evaluate_every < 1:
            raise UsageError(f"--evaluate-every must be at least 1 epoch, not {self.evaluate_every}.")
        if self.data_workers is not None and self.data_workers < 0:
            raise UsageError(f"--data-workers must be 0 or more, not {self.data_workers}.")
        if self.memory is not None and not self.memory > 0:
            raise UsageError(f"--memory must be greater than 0 GiB, not {self.memory:g}.")
        if self.cache_gb is not None and not (self.cache_gb > 0 and self.cache):
            raise UsageError("--cache-gb is the size of --cache DIR: greater than 0, and not without it.")
        if self.log:
            from dmkd.training.trackers import TRACKERS

            for name in self.log:
                if name not in TRACKERS:
                    raise UsageError(f"--log must be one of {', '.join(TRACKERS)}, not {name!r}.")
                TRACKERS[name].check()

    def precision(self, device: str) -> str:
        """The arithmetic of the student on a device: bfloat16, float16, tf32 or off."""
        import torch

        on_gpu = torch.device(device).type == "cuda"
        if self.amp in ("float16", "tf32") and not on_gpu:
            raise UsageError(f"--amp {self.amp} needs a GPU with CUDA: use bfloat16 or off on {device}.")
        return self.amp or ("bfloat16" if on_gpu and torch.cuda.is_bf16_supported() else "off")

    def layout(self, device: str) -> "torch.memory_format":
        """The memory layout of weights and images on a device."""
        import torch

        on_gpu = torch.device(device).type == "cuda"
        wanted = on_gpu if self.channels_last is None else self.channels_last
        return torch.channels_last if wanted else torch.contiguous_format


def classifier_precision(amp: str) -> str:
    """What a student's precision is called where it is a classifier among others."""
    return "float32" if amp == "off" else amp
