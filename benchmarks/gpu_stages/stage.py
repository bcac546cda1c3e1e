"""One stage of ``gpu.py``: figures that are told as they come, failures that end nothing but themselves, and a time limit."""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import torch

from dmkd.generators.compiling import missing_for_compiling

TORCH = Path(torch.__file__).parent


class Unavailable(Exception):
    """This machine can't measure that; the message says why."""


@dataclass
class Stage:
    name: str
    device: str
    tiny: bool
    limit: float  # seconds
    lines: TextIO
    figures: list[dict[str, Any]] = field(default_factory=list)
    failed: bool = False
    begun: float = field(default_factory=time.monotonic)

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def figure(self, what: str, value: float, unit: str, at_most: float | None = None, **more: Any) -> None:
        """Tell one figure; ``at_most`` is its bound."""
        line = {"value": float(f"{value:.5g}"), "unit": unit, **more}
        if at_most is not None:
            line["ok"] = bool(value <= at_most)
            self.failed |= not line["ok"]
        self._tell(what, line)

    def attempt(
        self, what: str, measure: Callable[[], float | None], unit: str = "", needs: float = 0.0, **more: Any
    ) -> None:
        """Measure one thing, if the ``needs`` seconds that it takes on a GPU are left: ``measure`` returns the figure, or tells
        its figures itself."""
        left = self.limit - (time.monotonic() - self.begun)
        if not self.tiny and left < needs:
            self._tell(
                what, {"skipped": f"needs about {needs:.0f} s, and {max(0.0, left):.0f} s of this stage are left"}
            )
            return
        try:
            value = measure()
        except (Unavailable, torch.OutOfMemoryError) as error:
            self._tell(what, {"skipped": first_line(error)})
        except Exception as error:
            self.failed = True
            self._tell(what, {"failed": f"{type(error).__name__}: {first_line(error)}", "at": place_of(error)})
        else:
            if value is not None:
                self.figure(what, value, unit, **more)
        # Here the error is gone, and with it the frames that held its tensors.
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def seconds(self, call: Callable[[], object], repeats: int = 10) -> float:
        """The median of some calls after three that warm up; with ``tiny`` one after one."""
        warm_ups, repeats = (1, 1) if self.tiny else (3, repeats)
        for _ in range(warm_ups):
            call()
        if not self.on_gpu:
            return statistics.median(self.once(call) for _ in range(repeats))
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for start, end in events:
            start.record()
            call()
            end.record()
        torch.cuda.synchronize(self.device)
        return statistics.median(start.elapsed_time(end) / 1000 for start, end in events)

    def once(self, call: Callable[[], object]) -> float:
        """Seconds of one call, nothing being warm."""
        from device_time import seconds_of

        return seconds_of(call, self.device)

    def random(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, device=self.device, dtype=torch.float32).to(dtype)

    @contextmanager
    def compiler(self) -> Iterator[None]:
        """Within, ``torch.compile`` may be asked for. With tiny models on a CPU, where nothing is timed, it generates no code."""
        if self.tiny and not self.on_gpu:
            compile = torch.compile
            with mock.patch("torch.compile", lambda f, dynamic=None, **_: compile(f, dynamic=dynamic, backend="eager")):
                yield
            return
        if missing := missing_for_compiling(self.device):
            raise Unavailable(missing)
        yield

    def needs_fp8(self) -> None:
        if not self.on_gpu or torch.cuda.get_device_capability(self.device) < (8, 9):
            raise Unavailable("this device has no FP8")

    def _tell(self, what: str, line: dict[str, Any]) -> None:
        self.figures.append({"what": what, **line})
        print(json.dumps({"stage": self.name, "what": what, **line}), file=self.lines, flush=True)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def place_of(error: BaseException) -> str:
    """File and line of the innermost call outside torch."""
    trace, place = error.__traceback__, "?"
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if not file.is_relative_to(TORCH):
            place = f"{Path(*file.parts[-3:])}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def differing(a: torch.Tensor, b: torch.Tensor) -> int:
    """How many bytes differ of two tensors of one shape, wherever they are."""
    a, b = (x.detach().cpu().contiguous() for x in (a, b))
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"{a.dtype} {tuple(a.shape)} is compared with {b.dtype} {tuple(b.shape)}")
    return int((a.view(-1).view(torch.uint8) != b.view(-1).view(torch.uint8)).sum())
