"""What a label codec is: two base classes, and the check that all of them start with.

n images, V views, C classes, d features. A **codec** is configuration, the JSON in the store. Some codecs need
**constants** as well: small arrays, the same for all images, made once by :meth:`Codec.fit` before the first block and
never changed. Configuration, number of classes and constants together make a **coder**, which does the work:

    codec = parse_codec("klt:0.5")
    constants = codec.fit(C, sample=logits_of_some_blocks)     # {} for float16, uint8 and topk
    coder = codec.bind(C, constants)
    arrays = coder.encode(logits)                              # float32 (n, V, C) -> {name: (n, V, ...)}
    logits = coder.decode(arrays)                              # float32 (n, V, C)

Decoding is written once, for numpy and for torch, with any axes in front: the array API of ``array_namespace(array)``. It runs
in every training step, so on a GPU it must not wait for the device: no ``.item()``, no boolean indices.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from ..errors import UsageError
from ..layout import ArraySpec, Share

Constants = Mapping[str, np.ndarray]
Array = Any  # numpy's, or torch's on any device
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Codec(ABC):
    """How logits are written. ``str(codec)`` is how users write it.

    A codec is a frozen dataclass of one field at most, which has a default; the field is its parameter and its JSON. The class
    sets what follows; only the first three are required.
    """

    name: ClassVar[str]  # what users and stores call it, without parameter
    help: ClassVar[str]  # what it keeps, in a few words
    example: ClassVar[str]  # as users may write it, for help and completion
    usual: ClassVar[tuple[str, ...]] = ()  # what a report measures, if not just the example
    parameter: ClassVar[str] = ""  # what messages call the field's value
    input: ClassVar[Literal["logits", "features"]] = (
        "logits"  # what encode takes: the teacher's, or its penultimate features
    )
    constants: ClassVar[tuple[str, ...]] = ()  # names of the arrays that fit makes, stored once for a label set
    needs: ClassVar[tuple[str, ...]] = ()  # what fit can't do without: of "sample" and "weight"

    def __str__(self) -> str:
        return ":".join([self.name, *(repr(getattr(self, field.name)).removesuffix(".0") for field in fields(self))])

    def to_json(self) -> dict[str, Any]:
        """The configuration, as written to the store."""
        return {"name": self.name} | {field.name: getattr(self, field.name) for field in fields(self)}

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
        return {}

    def largest_constants(self, num_classes: int, num_features: int) -> dict[str, np.ndarray]:
        """Zeros of the largest shapes that :meth:`fit` can give for a teacher of d features: to plan with before the fit."""
        return {}

    def expected_share(self, part: str, spec: ArraySpec) -> Share:
        """The share of its raw bytes that the coder's array ``part`` takes on disk."""
        return Share("exact" if spec.compression is None else "at most", 1.0)

    @abstractmethod
    def bind(self, num_classes: int, constants: Constants) -> "Coder":
        """The coder for C classes. Raises ``UsageError`` if the codec can't serve that many or that few."""


@dataclass(frozen=True, eq=False)
class Coder(ABC):
    """A codec, ready to work: a frozen dataclass with a field for each constant, of the same name."""

    is_sparse: ClassVar[bool] = False  # whether it has the sparse form: sparse and tail_log_mass

    num_classes: int

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The constants that it was bound with, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    @property
    def facts(self) -> dict[str, float]:
        """What is known of the fit's quality, by name: for reports."""
        return {}

    def notices(self, label_set: str) -> list[str]:
        """Sentences worth showing after the fit for this label set."""
        return []

    @abstractmethod
    def arrays(self, num_views: int) -> dict[str, ArraySpec]:
        """Name -> what one image takes, (V, ...), in the order of writing. The last is the block's marker."""

    @abstractmethod
    def encode(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """float32 (n, V, C) logits, or (n, V, d) features if the codec's ``input`` says so -> name -> (n, V, ...).

        Raises ``UsageError`` on what the codec can't hold: wrong shape, NaN, infinities, out of range."""

    @abstractmethod
    def decode(self, arrays: Arrays, temperature: float = 1.0) -> Array:
        """name -> (..., that view's) -> float32 (..., C): logits for use as softmax(logits / temperature).

        Only a codec that drops classes looks at the temperature: the tail's mass depends on it."""

    def decode_features(self, arrays: Arrays) -> Array:
        """float32 (..., d): the teacher's penultimate features, for codecs that store them."""
        raise TypeError(f"{type(self).__name__} holds no features")

    def sparse(self, arrays: Arrays) -> tuple[Array, Array]:
        """Of sparse coders: class ids int64 and logits float32 of the classes kept, (..., k) each, likeliest first; for losses
        that need no dense row."""
        raise TypeError(f"{type(self).__name__} has no sparse form")

    def tail_log_mass(self, arrays: Arrays, temperature: float = 1.0) -> Array:
        """Of sparse coders: log Σ exp(z / T) over the classes left out, float32 (...); -inf if none is.

        softmax(z / T) of class i is exp(z_i / T) / (Σ over the kept exp(z / T) + exp of this)."""
        raise TypeError(f"{type(self).__name__} has no sparse form")


def checked(values: np.ndarray, width: int, what: str, limit: float = float(np.finfo(np.float32).max)) -> np.ndarray:
    """``values`` if they are finite float32 (n, V, width) of magnitude at most ``limit``; else ``UsageError``."""
    if values.ndim != 3 or values.shape[2] != width or values.dtype != np.float32:
        raise UsageError(
            f"{what} must be float32 of shape (n, V, {width}), not {values.dtype} of shape {values.shape}."
        )
    largest = np.abs(values).max(initial=0)
    if not largest <= limit:  # also catches NaN
        problem = "NaN or infinite" if not np.isfinite(largest) else f"as large as {largest:g} (at most {limit:g} fits)"
        raise UsageError(f"{what} are {problem}: check the teacher, or choose another codec.")
    return values


def named_constants(constants: Constants, names: tuple[str, ...], codec: str) -> list[np.ndarray]:
    """These constants in this order. Raises ``UsageError`` if one is missing."""
    if missing := [name for name in names if name not in constants]:
        raise UsageError(f"Codec {codec} lacks its constants {', '.join(missing)}: fit it before it is used.")
    return [constants[name] for name in names]


def matmul_rows(rows: Array, matrix: Array) -> Array:
    """(..., a) @ (a, b) -> (..., b) in one product: numpy multiplies stacks one by one, ten times slower here."""
    return (rows.reshape(-1, rows.shape[-1]) @ matrix).reshape(*rows.shape[:-1], matrix.shape[1])
