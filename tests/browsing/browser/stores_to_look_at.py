"""Stores for the page: real digits, and teachers whose opinions are drawn by chance, so that each is made in a moment."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dmkd import digits
from dmkd.stores import Store, create_store, parse_codec

DIGITS = [str(one) for one in range(10)]
VIEWS = "rrc"
COMPONENTS = ("top", "left", "height", "width", "flip")


def new_store(
    path: Path,
    num_images: int,
    *,
    class_names: Sequence[str] = DIGITS,
    teachers: Sequence[str] = ("strong", "weak"),
    teacher_name: str | None = None,
    side: int = 32,
    num_views: int = 4,
    block_size: int = 64,
    image_codec: str = "raw",
) -> Store:
    """An empty store. ``teacher_name``: what the teachers say that they are."""
    store = create_store(
        str(path),
        recipe={"generator": "digits", "seed": 0, "name": path.stem},
        num_images=num_images,
        image_shape=(side, side, 3),
        class_names=class_names,
        block_size=block_size,
        image_codec=image_codec,
    )
    description = {"policy": f"rrc:{num_views}", "size": side, "interpolation": "bilinear"}
    store.add_view_set(VIEWS, num_views, COMPONENTS, {**description, "crop_pct": 1.0, "crop_mode": "center"})
    for name in teachers:
        teacher = {"name": name, "architecture": teacher_name or name}
        codec = parse_codec("float16")
        store.add_label_set(
            name, teacher=teacher, source=name, view_set=VIEWS, codec=codec, num_classes=len(class_names)
        )
    return store


def write_blocks(store: Store, blocks: Sequence[int] | None = None) -> Store:
    """Write some blocks, or all. The first teacher is right most often, the next less."""
    pixels, class_ids = digits.heldout()
    num_classes, num_views = store.num_classes, store.views[VIEWS].num_views
    for block in range(store.num_blocks) if blocks is None else blocks:
        rng, ids = np.random.default_rng(block), np.array(store.block_ids(block))
        asked = class_ids[ids % len(class_ids)] if num_classes <= 10 else rng.integers(0, num_classes, len(ids))
        views = np.zeros((len(ids), num_views, 5), np.float32)
        views[..., 2:4] = rng.uniform(0.5, 0.9, (len(ids), num_views, 2))
        views[..., :2] = rng.random((len(ids), num_views, 2)) * (1 - views[..., 2:4])
        views[:, 0] = [0, 0, 1, 1, 0]
        labels = {}
        for number, name in enumerate(store.labels):
            logits = rng.normal(size=(len(ids), num_views, num_classes)).astype(np.float32)
            logits += 2 * rng.normal(size=(len(ids), 1, num_classes)).astype(np.float32)
            logits[np.arange(len(ids)), :, asked] += 5 - number
            p = np.exp(logits)
            p = (p / p.sum(-1, keepdims=True)).mean(1)
            quality = np.stack([p.argmax(1), p[np.arange(len(ids)), asked], -(p * np.log(p)).sum(1)], 1)
            labels[name] = (logits, quality.astype(np.float32))
        repeats = store.image_shape[0] // 32
        images = pixels[ids % len(pixels)].repeat(repeats, 1).repeat(repeats, 2)
        store.write_block(block, images=images, class_ids=asked.astype(np.int32), views={VIEWS: views}, labels=labels)
    return store


@functools.cache
def two_stores(folder: Path) -> list[str]:
    """Two stores of one seed: 600 digits with two label sets, a column and a selection; 200 of them with one label set."""
    folder.mkdir()
    first = write_blocks(new_store(folder / "first.zarr", 600))
    first.add_column("score", np.random.default_rng(0).normal(size=600), "drawn by chance")
    first.save_selection("sure", "entropy < 0.1")
    second = write_blocks(new_store(folder / "second.zarr", 200, teachers=["other"]))
    return [first.path, second.path]


def damage(path: Path) -> None:
    """Change a byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
