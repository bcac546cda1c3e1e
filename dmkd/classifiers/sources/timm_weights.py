"""timm's pretrained weights: whether there are any of a name, and the models that have them."""

from contextlib import nullcontext
from typing import Any

import timm
import torch

from dmkd import digits
from dmkd.runtime.failures import named_line
from dmkd.runtime.hub_access import hub_access
from dmkd.runtime.spelling import nearest_names
from dmkd.stores.errors import DmkdError, UsageError


def pretrained_model(name: str, source: str, weights: bool = True, **arguments: Any) -> torch.nn.Module:
    """A timm model with pretrained weights; ``arguments`` go to timm's ``create_model``. ``source``: what errors call it.

    ``weights`` False: the shapes alone. Raises ``UsageError`` for a name without weights, ``DmkdError`` if they can't be had.
    """
    check_pretrained(name, source)
    try:
        with hub_access() if weights else nullcontext():
            return timm.create_model(name, pretrained=weights, **arguments)
    except Exception as error:  # the hub raises a dozen classes, and which ones changes between its versions
        from huggingface_hub.errors import LocalEntryNotFoundError

        offline = isinstance(error, LocalEntryNotFoundError)
        reason = "it is offline or does not answer, and its cache lacks them" if offline else named_line(error)
        repository = name.removeprefix("hf-hub:")
        raise DmkdError(
            f"The weights of {source} could not be downloaded from the hub ({reason}): download "
            f"model.safetensors of {repository} where there is a network and give ARCHITECTURE=FILE, or set HF_HOME "
            "to a cache that has it."
        ) from error


def check_pretrained(name: str, source: str) -> None:
    """Raise ``UsageError`` unless timm has weights of this name, or it is one of the hub's."""
    if name.startswith("hf-hub:"):
        return
    base = name.split(".")[0]
    if not timm.is_model(base):
        known = timm.list_models() + list(digits.TEACHERS)
        raise UsageError(f"There is no model {source!r}{nearest_names(base, known)}")
    tags = timm.list_pretrained(f"{base}.*")
    if not tags:
        raise UsageError(f"timm has no pretrained weights for {base}: give a checkpoint as {base}=FILE.")
    if "." in name and name not in tags:
        raise UsageError(f"timm has no pretrained weights {name!r}; there are {', '.join(tags)}.")
