"""Versions of what a run was made with: recorded with every run, told when they differ, refusing nothing."""

import platform
from importlib.metadata import PackageNotFoundError, version

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


def hardware() -> str:
    """The GPU's name, or the processor's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
