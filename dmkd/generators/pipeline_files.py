"""The files of a diffusers pipeline folder: configurations as JSON, and components with all their weights."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from dmkd.stores.errors import DmkdError, UsageError, first_line


def read_json(path: Path) -> dict[str, Any]:
    """A configuration. Raises ``UsageError`` if the file can't be read or is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no configuration.")
    return content


def load_model(model_class: Any, folder: Path, dtype: torch.dtype, variant: str | None = None) -> torch.nn.Module:
    """The component of a pipeline in this folder with all its weights, on the CPU; ``DmkdError`` if any is missing or damaged."""
    try:
        model, report = model_class.from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            local_files_only=True,
            low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, pickle, zip, json and torch each have their own
        raise DmkdError(
            f"The weights in {folder} can't be loaded: {first_line(error)}. Download them again if they are damaged."
        ) from error
    # diffusers and transformers leave missing weights at random values, with only a warning.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise DmkdError(
            f"The weights in {folder} are incomplete: {len(missing)} tensors are missing, such as {missing[0]}."
        )
    return model
