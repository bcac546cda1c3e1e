"""A reader of stores that knows nothing of dmkd: written from stores/FORMAT.md alone, for Zarr stores in a folder.

Its purpose is to show that the page says enough. Needs numpy, and libraries for crc32c, Zstd, Blosc, WebP and JPEG.
"""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np

crc32c = google_crc32c.value


class Store:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.attributes = self.node("")["attributes"]
        known = {"state", "recipe", "identity"} <= self.attributes.keys()
        if self.attributes.get("dmkd_format", 1 if known else None) != 1 or self.attributes["state"] != "ready":
            raise ValueError(f"{path} is no finished store of format 1")
        self.block_size = self.attributes["block_size"]
        self.num_images = self.node("images")["shape"][0]

    def node(self, node: str) -> dict[str, Any]:
        return json.loads((self.path / node / "zarr.json").read_text())

    def chunk(self, node: str, block: int) -> bytes | None:
        """A block's chunk; None if it is missing."""
        zeros = ".0" * (len(self.node(node)["shape"]) - 1)
        loose = self.path / node / f"c.{block}{zeros}"
        if loose.exists():
            content = loose.read_bytes()
            return None if content == b"deleted" else content
        sharding = self._sharding(node)
        if not sharding:
            return None
        each = self.node(node)["chunk_grid"]["configuration"]["chunk_shape"][0] // sharding["chunk_shape"][0]
        shard = self.path / node / f"{block // each}{zeros}"
        if not shard.exists():
            return None
        content = shard.read_bytes()
        index = verified(content[-16 * each - 4 :])
        offset, length = np.frombuffer(index, "<u8").reshape(each, 2)[block % each].tolist()
        return None if offset == 2**64 - 1 else content[offset : offset + length]

    def rows(self, node: str, block: int) -> np.ndarray | None:
        """A block's rows, without those past the last image; None if it is missing."""
        content = self.chunk(node, block)
        if content is None:
            return None
        rows = self._decoded(node, verified(content))
        return rows[: self.num_images - block * self.block_size]

    def constant(self, node: str) -> np.ndarray:
        content = (self.path / node / ("c" + ".0" * len(self.node(node)["shape"]))).read_bytes()
        return self._decoded(node, verified(content))

    def _sharding(self, node: str) -> dict[str, Any] | None:
        first = self.node(node)["codecs"][0]
        return first["configuration"] if first["name"] == "sharding_indexed" else None

    def _decoded(self, node: str, content: bytes) -> np.ndarray:
        metadata = self.node(node)
        inner = self._sharding(node) or {**metadata["chunk_grid"]["configuration"], "codecs": metadata["codecs"]}
        shape, order = inner["chunk_shape"], None
        for codec in reversed(inner["codecs"]):
            match codec["name"]:
                case "zstd" | "blosc":
                    content = numcodecs.get_codec({"id": codec["name"]}).decode(content)
                case "dmkd.webp" | "dmkd.jpeg":
                    return decoded_images(content, codec["name"], shape)
                case "transpose":
                    order = codec["configuration"]["order"]
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        if order is None:
            return np.frombuffer(content, dtype).reshape(shape)
        return np.frombuffer(content, dtype).reshape([shape[axis] for axis in order]).transpose(np.argsort(order))

    # Rows that are proved

    def images(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and class ids of a block that is there."""
        images, class_ids, checks = (self.rows(node, block) for node in ("images", "class_ids", "checks"))
        assert images is not None and class_ids is not None and checks is not None
        for row, (image, class_id, check) in enumerate(zip(images, class_ids, checks, strict=True)):
            assert image_checks(block * self.block_size + row, class_id, image) == check.tolist()
        return images, class_ids

    def labelled(self, name: str, block: int) -> bool:
        codec = self.node(f"labels/{name}")["attributes"]["codec"]["name"]
        return self.chunk(f"labels/{name}/{ARRAYS[codec][-1]}", block) is not None

    def labels(self, name: str, block: int, temperature: float = 1.0) -> np.ndarray:
        """Logits of a block that is labelled, (n, V, C)."""
        node = f"labels/{name}"
        about = self.node(node)["attributes"]
        views, quality, checks, image_checks = (
            self.rows(one, block)
            for one in (f"views/{about['view_set']}", f"{node}/quality", f"{node}/checks", "checks")
        )
        codec = about["codec"]
        arrays = {part: self.rows(f"{node}/{part}", block) for part in ARRAYS[codec["name"]]}
        constants = {part: self.constant(f"{node}/constants/{part}") for part in CONSTANTS.get(codec["name"], ())}
        for row, check in enumerate(checks):
            i, parts = block * self.block_size + row, [part[row] for part in arrays.values()]
            assert (views[row, :, -1] == i % 2**24).all()
            assert (
                label_checks(about["identity"], i, image_checks[row, 1], views[row], quality[row], parts)
                == check.tolist()
            )
        return logits(codec, about["num_classes"], constants, arrays, temperature)


def verified(content: bytes) -> bytes:
    assert crc32c(content[:-4]) == int.from_bytes(content[-4:], "little"), "damaged"
    return content[:-4]


def decoded_images(content: bytes, codec: str, shape: list[int]) -> np.ndarray:
    import io

    import simplejpeg
    from PIL import Image

    offsets = np.frombuffer(content[: 8 * (shape[0] + 1)], "<u8")
    files = [content[start:end] for start, end in pairwise(offsets.tolist())]
    if codec == "dmkd.jpeg":
        return np.stack([simplejpeg.decode_jpeg(file, fastdct=False, fastupsample=False) for file in files])
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


# Checks


def little(value: Any, dtype: str) -> bytes:
    return np.asarray(value, dtype).tobytes()


def row_bytes(row: np.ndarray) -> bytes:
    return np.ascontiguousarray(row, row.dtype.newbyteorder("<")).tobytes()


def image_checks(i: int, class_id: int, image: np.ndarray) -> list[int]:
    head = little(i, "<i8") + little(class_id, "<i4")
    return [crc32c(head), crc32c(head + row_bytes(image))]


def label_checks(
    identity: str, i: int, check: int, views: np.ndarray, quality: np.ndarray, arrays: list[np.ndarray]
) -> list[int]:
    head = identity.encode() + little(i, "<i8") + little(check, "<u4")
    return [crc32c(head + row_bytes(quality)), crc32c(b"".join([head, row_bytes(views), *map(row_bytes, arrays)]))]


def column_check(identity: str, i: int, check: int, number: float) -> int:
    return crc32c(identity.encode() + little(i, "<i8") + little(check, "<u4") + little(number, "<f8"))


# Logits

ARRAYS = {
    "float16": ("logits",),
    "uint8": ("affine", "logits"),
    "features": ("affine", "features"),
    "klt": ("exact", "coefficients"),
    "topk": ("tail", "ids", "logits"),
}
CONSTANTS = {"features": ("weight", "bias"), "klt": ("mean", "basis", "pull")}


def logits(codec: dict[str, Any], num_classes: int, constants: Any, arrays: Any, temperature: float) -> np.ndarray:
    """(n, V, C)"""
    match codec["name"]:
        case "float16":
            return arrays["logits"].astype(np.float32)
        case "uint8":
            return arrays["affine"][..., :1] + arrays["affine"][..., 1:] * arrays["logits"]
        case "features":
            features = arrays["affine"][..., :1] + arrays["affine"][..., 1:] * arrays["features"]
            return features @ constants["weight"].T + constants["bias"]
        case "klt":
            u = arrays["coefficients"].astype(np.int64)
            q = (u >> 1) ^ -(u & 1)
            z = constants["mean"] + (q - constants["pull"] * np.sign(q)) * codec["step"] @ constants["basis"]
            return np.where(u[..., :1] == 65535, arrays["exact"], z)
        case "topk":
            return topk(num_classes, codec["k"], arrays, temperature)
    raise ValueError(f"unknown codec {codec}")


def topk(num_classes: int, k: int, arrays: Any, temperature: float) -> np.ndarray:
    kept, ids = arrays["logits"].astype(np.float64), arrays["ids"].astype(np.int64)
    (ell, m, s), n, beta = np.moveaxis(arrays["tail"].astype(np.float64), -1, 0), num_classes - k, 1 / temperature
    dense = np.zeros((*kept.shape[:-1], num_classes))
    if n:
        a = ell - math.log(n)
        low, high = (m, a) if temperature >= 1 else (a, np.maximum(a, kept[..., -1]))
        mass = np.clip(beta * m + beta**2 * s / 2 + beta**3 * (a - m - s / 2), beta * low, beta * high)
        dense[...] = (temperature * mass)[..., None]
    np.put_along_axis(dense, ids, kept, -1)
    return dense


# Views


def sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0


def cubic(x: float) -> float:
    x, a = abs(x), -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


FILTERS = {
    "box": (0.5, lambda x: float(-0.5 < x <= 0.5)),
    "bilinear": (1, lambda x: max(0.0, 1 - abs(x))),
    "hamming": (1, lambda x: sinc(x) * (0.54 + 0.46 * math.cos(math.pi * x)) if abs(x) < 1 else 0.0),
    "bicubic": (2, cubic),
    "lanczos": (3, lambda x: sinc(x) * sinc(x / 3) if -3 <= x < 3 else 0.0),
}


def box_in_pixels(s: float, e: float, length: int, size: int) -> tuple[float, float]:
    """Where it begins, and its scale."""
    t = 2.0**-24
    a, n, r = round(s * length), round(e * length), size / e
    if abs(s * length - a) <= t * length and abs(e * length - n) <= t * length:
        return a, n / size
    resized = round(r)
    if abs(r - resized) <= t * r and abs(s * resized - round(s * resized)) <= t * resized:
        return round(s * resized) * (length / resized), length / resized
    return s * length, e * length / size


def resample(lines: np.ndarray, s: float, e: float, size: int, interpolation: str) -> np.ndarray:
    """uint8 (L, ...) -> (S, ...)"""
    length = len(lines)
    begin, scale = box_in_pixels(s, e, length, size)
    leaves = begin < -1e-5 * length or begin + scale * size > length * (1 + 1e-5)
    first, end = (-math.inf, math.inf) if leaves else (0, length)
    out, centre = [], begin + scale / 2
    for j in range(size):
        if interpolation == "nearest":
            weights = {min(max(math.floor(centre), first), end - 1): 2**22}
            centre += scale
        else:
            support, function = FILTERS[interpolation]
            f, c = max(scale, 1.0), begin + (j + 0.5) * scale
            low, high = max(math.floor(c - support * f + 0.5), first), min(math.floor(c + support * f + 0.5), end)
            raw = {k: function((k - c + 0.5) / f) for k in range(low, high)}
            exact = {k: w / sum(raw.values()) * 2**22 for k, w in raw.items()}
            weights = {k: math.trunc(w + math.copysign(0.5, w)) for k, w in exact.items()}
        total = sum(w * lines[k].astype(np.int64) for k, w in weights.items() if 0 <= k < length)
        out.append(np.clip((total + 2**21) >> 22, 0, 255) + np.zeros(lines.shape[1:], np.int64))
    return np.stack(out).astype(np.uint8)


def render(images: np.ndarray, views: np.ndarray, components: list[str], size: int, interpolation: str) -> np.ndarray:
    """One view, (m, P), of each image of a block, uint8 (m, H, W, 3) -> uint8 (m, S, S, 3)."""
    part = {name: views[:, place].astype(np.float64) for place, name in enumerate(components)}
    own = []
    for row, image in enumerate(images):
        top, left, height, width, flip = (part[name][row] for name in ("top", "left", "height", "width", "flip"))
        narrowed = resample(image.transpose(1, 0, 2), left, width, size, interpolation).transpose(1, 0, 2)
        seen = resample(narrowed, top, height, size, interpolation)
        own.append(seen[:, ::-1] if flip else seen)
    mixed = [image.copy() for image in own]
    for row, partner in enumerate(part.get("partner", np.zeros(0)).astype(int).tolist()):
        if "weight" in part:
            k = round(part["weight"][row] * 256)
            mixed[row] = ((own[row].astype(int) * k + own[partner].astype(int) * (256 - k) + 128) >> 8).astype(np.uint8)
        else:
            top, left, height, width = (
                round(part[f"mix_{name}"][row] * size) for name in ("top", "left", "height", "width")
            )
            inside = np.s_[top : top + height, left : left + width]
            mixed[row][inside] = own[partner][inside]
    return np.stack(mixed)
