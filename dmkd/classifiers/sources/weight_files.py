"""Files of weights: how they are named and read. Nothing in them is run."""

import pickle
from pathlib import Path
from typing import Any

from dmkd.stores.errors import DmkdError, UsageError

CHECKPOINTS = (".safetensors", ".pth", ".pt")
# What files of weights are called that say nothing of what they hold; their architecture says more.
NAMELESS = ("model", "weights", "pytorch_model", "checkpoint", "state_dict", "best", "last", "final")


def weight_file(file: str) -> Path:
    """Where it is. Raises ``UsageError`` if it is not there."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"There is no checkpoint {file}.")
    return path


def name_of_weights(architecture: str, file: Path) -> str:
    """What the labels of these weights are called: as their file, or as the architecture where its name says nothing."""
    return architecture if file.stem.lower() in NAMELESS else file.stem


def read_state_dict(file: Path, weights: bool) -> dict[str, Any]:
    """The state_dict in a file, also where training code put it beside other things; ``weights`` False: on the meta device.

    Raises ``DmkdError`` if the file holds more than weights, and what torch and safetensors do of a damaged one.
    """
    import torch

    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: dict[str, Any] = dict(load_file(file))
    else:
        try:
            state = torch.load(file, map_location="cpu" if weights else "meta", weights_only=True)
        except pickle.UnpicklingError as error:  # torch's own message recommends to run it
            raise holds_code(file) from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state.get(key), dict) else state
    return {key.removeprefix("module."): value for key, value in state.items()}


def holds_code(file: Path) -> DmkdError:
    """What to raise of a file that holds more than weights."""
    return DmkdError(
        f"{file} contains code or objects other than weights, and dmkd does not run it: save only the state_dict, or "
        "convert it to safetensors."
    )
