"""Versions of what a run was made with: recorded with every run; a difference is a notice, never a refusal."""

import os
import platform
import re
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("dmkd", "torch", "diffusers", "transformers", "timm", "numpy", "pillow", "zarr", "ray")


def library_versions() -> dict[str, str]:
    """Name -> version of Python and of the installed packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # carried as a folder, or a package that this run did not need
            continue
    return found


def hardware(device: str | None = None) -> str:
    """The name of a device, ``cuda:1`` or ``cpu``; None: the first GPU's, or the processor's."""
    import torch

    if torch.cuda.is_available() and device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(device: str) -> dict[str, Any]:
    """Where a worker runs, JSON-able: host, process, device and its name, torch threads, CUDA, driver, versions."""
    import torch

    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": device,
        "hardware": hardware(device),
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if device != "cpu" else None,
        "driver": _nvidia_driver() if device != "cpu" else None,
        "versions": library_versions(),
    }


def _nvidia_driver() -> str | None:
    """The kernel module's version, such as ``550.54.15``."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            found = re.search(r"\b\d+\.\d+(\.\d+)?\b", file.readline())
    except OSError:
        return None
    return found[0] if found else None
