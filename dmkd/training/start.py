"""Weights that a student begins with: those of another one, trained before."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from dmkd.runtime.failures import named_line
from dmkd.stores import UsageError
from dmkd.training.run_folder import STUDENT

if TYPE_CHECKING:
    from torch.nn import Module

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Start:
    """A file of weights, and the sha256 that it had when it was named."""

    file: str
    sha256: str

    @classmethod
    def of(cls, folder: str) -> "Start":
        """From the folder of a student, or of the run that trained it. Raises ``UsageError`` if it has no weights."""
        for file in (Path(folder) / WEIGHTS, Path(folder) / STUDENT / WEIGHTS):
            if file.is_file():
                return cls(str(file), sha256(file.read_bytes()).hexdigest())
        raise UsageError(f"--start-from {folder}: there is no {WEIGHTS}; give the folder of a student, or of its run.")

    def load_into(self, model: "Module", architecture: str) -> None:
        """Raises ``UsageError`` if the weights are another architecture's, or have changed."""
        from safetensors.torch import load

        content = Path(self.file).read_bytes()
        if sha256(content).hexdigest() != self.sha256:
            raise UsageError(f"--start-from: {self.file} has changed since this run was begun.")
        try:
            model.load_state_dict(load(content))
        except Exception as error:  # of safetensors, or of torch where they don't fit
            raise UsageError(f"--start-from: {self.file} does not fit {architecture}: {named_line(error)}.") from error
