"""What a codec costs and what it loses, on given logits: bytes a view, and distances to the exact softmax.

The numbers behind ``dmkd codec-report`` and ``benchmarks/codecs.py``.
"""

import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..layout import ArraySpec
from .base import Codec, Coder

TEMPERATURES = (1, 4, 10, 20)


def log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """float (..., C) -> float64 (..., C): log softmax(logits / temperature)."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def total_variation(exact: np.ndarray, decoded: np.ndarray, temperature: float) -> np.ndarray:
    """Logits (..., C) twice -> (...): half the L1 distance of their softmax at T, in [0, 1]."""
    return 0.5 * np.abs(np.exp(log_softmax(exact, temperature)) - np.exp(log_softmax(decoded, temperature))).sum(-1)


def kl_divergence(exact: np.ndarray, decoded: np.ndarray, temperature: float) -> np.ndarray:
    """Logits (..., C) twice -> (...): KL(softmax(exact / T) ‖ softmax(decoded / T)) in nats."""
    log_p, log_q = log_softmax(exact, temperature), log_softmax(decoded, temperature)
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def top1_agreement(exact: np.ndarray, decoded: np.ndarray) -> float:
    """Logits (..., C) twice -> share of rows whose largest logit belongs to the same class."""
    return float((exact.argmax(-1) == decoded.argmax(-1)).mean())


def logit_rmse(exact: np.ndarray, decoded: np.ndarray) -> float:
    """Root-mean-square difference of two (..., C) logits after subtracting each row's mean, which softmax ignores."""
    difference = decoded.astype(np.float64) - exact
    return float((difference - difference.mean(-1, keepdims=True)).std())


def stored_bytes(specs: Mapping[str, ArraySpec], arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes on disk of one block's arrays, checksums included: they are actually written, and measured."""
    from ..trees.zarr_tree import ZarrTree

    with tempfile.TemporaryDirectory() as folder:
        tree = ZarrTree(f"{folder}/block.zarr")
        tree.create_root()
        for name, spec in specs.items():
            tree.create_array(name, spec, len(arrays[name]), len(arrays[name]))
            tree.write_block(name, 0, arrays[name])
        return sum(Path(tree.chunk_path(name, 0)).stat().st_size for name in specs)


def measure(
    coder: Coder, values: np.ndarray, logits: np.ndarray, *, temperatures: Iterable[float] = TEMPERATURES
) -> dict[str, Any]:
    """One block's ``values`` float32 (n, V, ...), as the coder takes them, and exact ``logits`` float32 (n, V, C) -> a dict:

    ``bytes_per_view`` on disk and ``bytes_per_view_raw`` before compression; ``tv`` and ``kl`` by temperature, means over
    views; ``top1_agreement`` and ``rmse`` at T = 1; ``encode_views_per_s`` and ``decode_views_per_s``, compression excluded.
    """
    num_views = values.shape[0] * values.shape[1]
    start = time.perf_counter()
    arrays = coder.encode(values)
    encoded = time.perf_counter()
    decoded = {temperature: coder.decode(arrays, temperature) for temperature in (1, *temperatures)}
    end = time.perf_counter()
    return {
        "bytes_per_view": stored_bytes(coder.arrays(values.shape[1]), arrays) / num_views,
        "bytes_per_view_raw": sum(rows.nbytes for rows in arrays.values()) / num_views,
        "tv": {str(t): float(total_variation(logits, decoded[t], t).mean()) for t in temperatures},
        "kl": {str(t): float(kl_divergence(logits, decoded[t], t).mean()) for t in temperatures},
        "top1_agreement": top1_agreement(logits, decoded[1]),
        "rmse": logit_rmse(logits, decoded[1]),
        "encode_views_per_s": num_views / (encoded - start),
        "decode_views_per_s": num_views * len(decoded) / (end - encoded),
    }


def compare(
    codecs: Mapping[str, Codec],
    logits: np.ndarray,
    sample: np.ndarray,
    *,
    features: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """:func:`measure` for every codec that can serve these logits, by the names given.

    ``logits`` float32 (n, V, C), one block; ``sample`` (m, C), other logits, which codecs are fitted on; ``features`` (n, V, d)
    of the same views with ``weight`` (C, d) and ``bias`` (C,), without which codecs that take features are left out, as are
    those that keep more classes than there are.
    """
    num_classes = logits.shape[-1]
    results = {}
    for name, codec in codecs.items():
        if (codec.input == "features" and features is None) or ("weight" in codec.needs and weight is None):
            continue
        constants = codec.fit(num_classes, sample=sample, weight=weight, bias=bias)
        try:
            coder = codec.bind(num_classes, constants)
        except UsageError:
            continue
        values = features if codec.input == "features" and features is not None else logits
        results[name] = measure(coder, values, logits) | {
            "constants_bytes": sum(array.nbytes for array in constants.values()),
            **coder.facts,
        }
    return results
