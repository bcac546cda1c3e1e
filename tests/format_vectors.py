"""Writes stores/schema/vectors-1.json: bytes and numbers that a reader of the format, in whatever language, can be tested with.

``python tests/format_vectors.py`` after the format has gained something; what is there must not change. Numbers are chosen
so that sums are exact in float32, in whatever order.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from dmkd.stores import checks, parse_codec
from dmkd.stores.codecs import codec_from_json
from dmkd.stores.identity import fingerprint
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.views.render import render_block

VECTORS = Path(__file__).resolve().parent.parent / "stores/schema/vectors-1.json"
IDENTITY = fingerprint({"teacher": "ü", "steps": [1, 0.5, 1e-05, 2.0], "none": None})
IDS = np.array([0, 7, 2**24 + 5], np.int64)
CLASS_IDS = np.array([1, 0, 999], np.int32)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 2, 2, 3)).astype(np.uint8)
VIEWS = np.array([[[0, 0, 1, 1, 0]], [[0.25, 0.5, 0.5, 0.25, 1]], [[0, 0.125, 1, 0.5, 0]]], np.float32)
LOGITS = np.array([[[4, -1, 0.5, 2]], [[-3, 8, 1.25, 1]], [[2, 1, -1, -2]]], np.float32)
QUALITY = np.array([[0, 0.75, 0.5], [1, 0.25, 0.125], [3, 0.5, 1]], np.float32)
# Constants of a codec, and the values that it is given, where these are not the logits.
HALVES = np.array([[0.5, 0.5, -0.5, -0.5], [0.5, -0.5, 0.5, -0.5]], np.float32)
CONSTANTS: dict[str, dict[str, np.ndarray]] = {
    "features": {
        "weight": np.array([[1, 0.5], [0, -1], [2, 0.25], [-0.5, 0]], np.float32),
        "bias": np.array([0, 1, -1, 0.5], np.float32),
    },
    "klt:0.5": {
        "mean": np.array([0.5, 0.25, -0.25, -0.5], np.float32),
        "basis": HALVES,
        "pull": np.array([0.125, 0.25], np.float32),
        "fit": np.array([0.25, 1, 8], np.float32),
    },
}
FEATURES = np.array([[[0, 255]], [[-255, 0]], [[3, 3]]], np.float32)


def array(values: np.ndarray) -> dict[str, Any]:
    """Dtype, shape and base64 of the values in C order, little-endian."""
    content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return {"dtype": str(values.dtype), "shape": list(values.shape), "base64": base64.b64encode(content).decode()}


def values_of(written: dict[str, Any]) -> np.ndarray:
    """What :func:`array` wrote."""
    content = base64.b64decode(written["base64"])
    return np.frombuffer(content, np.dtype(written["dtype"]).newbyteorder("<")).reshape(written["shape"])


def vectors() -> dict[str, Any]:
    of_images = checks.image_checks(IDS, CLASS_IDS, IMAGES)
    stored_views = checks.bind_views(IDS, VIEWS)
    half = {"logits": LOGITS.astype(np.float16)}
    scores = np.array([0.5, -1, 1e300])
    return {
        "format": 1,
        "about": "See FORMAT.md. Arrays are base64 of their values in C order, little-endian.",
        "crc32c": {"bytes": "123456789", "crc32c": int(google_crc32c.value(b"123456789"))},
        "canonical_json": [canonical({"b": [1, 0.5, 1e-05, 2.0], "ü": None, "a": {"z": True, "y": "𝄞"}})],
        "rows": {
            "about": "Rows of three images, as a reader gets them, and what binds them to these.",
            "ids": IDS.tolist(),
            "class_ids": array(CLASS_IDS),
            "images": array(IMAGES),
            "checks": array(of_images),
            "views": array(stored_views),
            "label_set": {
                "identity": IDENTITY,
                "quality": array(QUALITY),
                "arrays": {name: array(rows) for name, rows in half.items()},
                "checks": array(checks.label_checks(IDENTITY, IDS, of_images, stored_views, QUALITY, half)),
            },
            "column": {
                "identity": IDENTITY,
                "numbers": scores.tolist(),
                "checks": checks.column_checks(IDENTITY, IDS, of_images, scores).tolist(),
            },
        },
        "chunk": chunk(),
        "image_codecs": [image_codec(name) for name in ("webp", "jpeg:90")],
        "label_codecs": [label_codec(name) for name in ("float16", "uint8", "features", "klt:0.5", "topk:2")],
        "views": [view(*case) for case in RENDERED],
        "digest": {"rows": array(half["logits"]), "sha256": hashlib.sha256(half["logits"].tobytes()).hexdigest()},
    }


def canonical(value: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return {"value": value, "text": text, "sha256": fingerprint(value)}


def chunk() -> dict[str, Any]:
    """The last block of class ids, of which two are there: a whole file."""
    content = np.array([3, 1, -1, -1], "<i4").tobytes()
    file = content + int(google_crc32c.value(content)).to_bytes(4, "little")
    return {"node": "class_ids", "block_size": 4, "values": [3, 1], "file": file.hex()}


def image_codec(name: str) -> dict[str, Any]:
    """Smooth images, which JPEG keeps well; the chunk without its crc32c."""
    ramp = np.add.outer(np.arange(8) * 9, np.arange(8) * 7)[..., None] + np.arange(3) * 20
    images = np.stack([ramp, 255 - ramp]).astype(np.uint8)
    serializer = parse_image_codec(name).serializer()
    assert serializer is not None
    encoded = serializer.encode_images(images)
    return {
        "image_codec": name,
        "images": array(serializer.as_stored(images)),
        "chunk": base64.b64encode(encoded).decode(),
    }


def label_codec(name: str) -> dict[str, Any]:
    constants = CONSTANTS.get(name, {})
    codec = parse_codec(name)
    coder = codec.bind(LOGITS.shape[-1], constants)
    values = FEATURES if codec.input == "features" else LOGITS
    arrays = coder.encode(values)
    assert codec_from_json(codec.to_json()) == codec
    return {
        "codec": codec.to_json(),
        "num_classes": coder.num_classes,
        "constants": {part: array(rows) for part, rows in constants.items()},
        "arrays": {part: array(rows) for part, rows in arrays.items()},
        "logits": {str(t): coder.decode(arrays, t).tolist() for t in (0.5, 1, 4)},
    }


WHOLE = (0, 0, 1, 1, 0)
RENDERED = [
    ("bilinear", 2, 0, None, [WHOLE, (0.25, 0, 0.5, 1, 1)]),
    ("bicubic", 5, 0, None, [WHOLE, (0.1, 0.2, 0.6, 0.7, 0)]),
    ("lanczos", 3, 0, None, [WHOLE, (0, 0.5, 0.75, 0.5, 1)]),
    ("box", 2, 0, None, [WHOLE, (0.25, 0.25, 0.75, 0.75, 0)]),
    ("hamming", 3, 0, None, [WHOLE, (0, 0, 1, 0.5, 0)]),
    ("nearest", 3, 0, None, [WHOLE, (0.25, 0, 0.5, 1, 1)]),
    ("bilinear", 4, 1, None, [(-0.25, 0.25, 1, 1, 0), (0, -0.25, 1, 1, 1)]),
    ("bilinear", 4, 0, "cutmix", [(*WHOLE, 1, 0.25, 0, 0.5, 0.5), (*WHOLE[:4], 1, 0, 0, 0, 0, 0)]),
    ("bilinear", 4, 0, "mixup", [(*WHOLE, 1, 0.75), (*WHOLE[:4], 1, 0, 1)]),
]


def view(
    interpolation: str, size: int, padding: int, mix: str | None, views: list[tuple[float, ...]]
) -> dict[str, Any]:
    """One view of each of the two images of a block."""
    from dmkd.views.policy import MIX_COMPONENTS, VIEW_COMPONENTS

    images = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    components = VIEW_COMPONENTS + MIX_COMPONENTS[mix]
    rows = np.array(views, np.float32)[:, None]
    options = {"size": size, "interpolation": interpolation, "padding": padding}
    pixels = render_block(images, rows, components=components, **options)[:, 0].permute(0, 2, 3, 1).numpy()
    return {
        **options,
        "components": list(components),
        "images": array(images),
        "views": array(rows),
        "pixels": array(pixels),
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n")
