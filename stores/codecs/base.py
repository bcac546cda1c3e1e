"""What a label codec is: the two protocols that every codec keeps, and the check that all of them begin with.

n images, V views, C classes, d features. A **codec** is configuration, the JSON in the store. Some codecs need
**constants** as well: small arrays, the same for all images, made once by :meth:`Codec.fit` before the first block and
never changed. Configuration, number of classes and constants together make a **coder**, which does the work:

    codec = parse_codec("klt:0.5")
    constants = codec.fit(C, sample=logits_of_some_blocks)     # {} for float16, uint8 and topk
    coder = codec.bind(C, constants)
    arrays = coder.encode(logits)                              # float32 (n, V, C) -> {name: (n, V, ...)}
    logits = coder.decode(arrays)                              # float32 (n, V, C)
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from ..errors import UsageError
from ..layout import ArraySpec

Constants = Mapping[str, np.ndarray]


class Codec(Protocol):
    """How logits are written: a frozen dataclass whose fields are its JSON."""

    @property
    def name(self) -> str:
        """What users and stores call it, without parameters."""

    @property
    def input(self) -> Literal["logits", "features"]:
        """What :meth:`Coder.encode` takes: the teacher's logits, or its penultimate features."""

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the arrays that :meth:`fit` makes, stored once for a label set."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What :meth:`fit` can't do without: of ``"sample"`` and ``"weight"``."""

    def to_json(self) -> dict[str, Any]:
        """The configuration, as written to the store."""

    def fit(
        self,
        num_classes: int,
        *,
        sample: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        bias: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """The constants, from float32 ``sample`` (m, C) logits of some views and the teacher's last linear layer,
        ``weight`` (C, d) and ``bias`` (C,). Deterministic. Raises ``UsageError`` if something needed is missing or bad."""

    def bind(self, num_classes: int, constants: Constants) -> "Coder":
        """The coder for C classes. Raises ``UsageError`` if the codec can't serve so many or so few."""


class Coder(Protocol):
    """A codec, ready to work."""

    num_classes: int

    def arrays(self, num_views: int) -> dict[str, ArraySpec]:
        """Name -> what one image takes, (V, ...), in the order of writing. The last is the block's marker."""

    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """float32 (n, V, C) logits, or (n, V, d) features if the codec's ``input`` says so -> name -> (n, V, ...).

        Raises ``UsageError`` on what the codec can't hold: wrong shape, NaN, infinities, out of range."""

    def decode(self, arrays: Mapping[str, np.ndarray], temperature: float = 1.0) -> np.ndarray:
        """name -> (n, V, ...) -> float32 (n, V, C): logits for use as softmax(logits / temperature).

        Only a codec that drops classes looks at the temperature: the tail's mass depends on it."""


def checked(values: np.ndarray, width: int, what: str, limit: float = float(np.finfo(np.float32).max)) -> np.ndarray:
    """``values`` if they are finite float32 (n, V, width) of magnitude at most ``limit``; else ``UsageError``."""
    if values.ndim != 3 or values.shape[2] != width or values.dtype != np.float32:
        raise UsageError(
            f"{what} must be float32 of shape (n, V, {width}), not {values.dtype} of shape {values.shape}."
        )
    largest = np.abs(values).max(initial=0)
    if not largest <= limit:  # also catches NaN
        problem = "NaN or infinite" if not np.isfinite(largest) else f"as large as {largest:g} (at most {limit:g} fits)"
        raise UsageError(f"{what} are {problem}: check the teacher, or write them with another codec.")
    return values


def named_constants(constants: Constants, names: tuple[str, ...], codec: str) -> list[np.ndarray]:
    """These constants in this order. Raises ``UsageError`` if one is missing."""
    if missing := [name for name in names if name not in constants]:
        raise UsageError(f"Codec {codec} lacks its constants {', '.join(missing)}: fit it before it is used.")
    return [constants[name] for name in names]


def matmul_rows(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(n, V, a) @ (a, b) -> (n, V, b) in one product: numpy multiplies stacks one by one, ten times slower here."""
    return (rows.reshape(-1, rows.shape[-1]) @ matrix).reshape(*rows.shape[:-1], matrix.shape[1])
