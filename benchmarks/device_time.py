"""How long a call takes on a device, what it spends the time on, and how much of it the GPU is busy."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def busy_seconds(events: Iterable[Any]) -> float:
    """How long at least one kernel ran on the GPU, of the profiler's events: neither copies nor the spans that annotate several
    kernels, and no moment twice."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type.name == "CUDA"
        and not event.is_user_annotation
        and not event.name.startswith(("Memcpy", "Memset"))
    )
    busy, until = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e6


def profile(call: Callable[[], object], device: str, rows: int = 12) -> dict[str, Any]:
    """The operations that take longest, and the share of the time that the device is busy."""
    from torch.profiler import ProfilerActivity

    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        wall = seconds_of(call, device)

    def own_time(event: Any) -> float:
        return event.self_device_time_total if on_gpu else event.self_cpu_time_total

    events = sorted(
        (
            event
            for event in profiler.key_averages()
            if not on_gpu or (event.device_type.name == "CUDA" and not event.is_user_annotation)
        ),
        key=own_time,
        reverse=True,
    )
    total = sum(map(own_time, events))
    top = [
        {"name": event.key, "calls": event.count, "share": own_time(event) / total if total else 0.0}
        for event in events[:rows]
    ]
    return {"busy": busy_seconds(profiler.events()) / wall if on_gpu else None, "top": top}


def print_profile(name: str, made: dict[str, Any]) -> None:
    busy = "" if made["busy"] is None else f", GPU busy {made['busy']:.0%} of the time under the profiler"
    print(f"\n{name}: where the time goes{busy}")
    for row in made["top"]:
        print(f"  {row['share']:6.1%} {row['calls']:7} x  {row['name'][:90]}")
