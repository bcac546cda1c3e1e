"""Corrupts what a loader's cache keeps, and changes the store under it; for corruptions.py."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from corruptions import make_store, random_block

from dmkd.loading import Loader
from dmkd.stores import Store, open_store
from dmkd.stores.trees.zarr_tree import ZarrTree

kinds = (
    "bit flip",
    "truncated",
    "empty",
    "zeroed",
    "deleted",
    "of another block",
    "of another array",
    "of another store",
    "all of another store",
    "store changed",
    "store changed, and damaged",
)


@contextmanager
def as_in_a_bucket(reads: list[str]) -> Iterator[None]:
    """Within this context no store is mapped. ``reads`` gets the array of each block that is read of a store."""
    plain, read = ZarrTree.has_plain_files, ZarrTree.read_block

    def counted(tree: ZarrTree, node: str, block: int) -> np.ndarray:
        reads.append(node)
        return read(tree, node, block)

    ZarrTree.has_plain_files, ZarrTree.read_block = lambda *_: False, counted  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ZarrTree.has_plain_files, ZarrTree.read_block = plain, read  # type: ignore[method-assign]


def epoch(path: str, cache: Path | None) -> list[bytes]:
    """All that an epoch hands out."""
    loader = Loader(open_store(path), labels={"top": 1.0}, batch_size=10, resident=None, threads=2, cache=cache)
    return [
        np.asarray(part).tobytes()
        for batch in loader.epoch(0)
        for part in (batch.ids, batch.images, batch.class_ids, batch.views, batch.logits(1))
    ]


def damage(kind: str, cache: Path, other_cache: Path, store: Store, rng: np.random.Generator) -> None:
    files = sorted(file for file in cache.rglob("*") if file.name.isdecimal() and file.is_file())
    file = files[int(rng.integers(len(files)))]
    content = file.read_bytes()
    mine, foreign = (next(below for below in where.iterdir() if below.is_dir()) for where in (cache, other_cache))
    twin = foreign / file.relative_to(mine)
    array = file.parent.parent
    if kind.startswith("store changed"):
        block = int(rng.integers(store.num_blocks))
        store.write_block(block, **random_block(store, block, rng))
        store.touch()
    if kind == "bit flip" or kind.endswith("and damaged"):
        at = int(rng.integers(len(content)))
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :])
    elif kind == "truncated":
        file.write_bytes(content[: int(rng.integers(len(content)))])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "zeroed":
        file.write_bytes(bytes(len(content)))
    elif kind == "deleted":
        file.unlink()
    elif kind == "of another block":
        others = [f for f in array.rglob("*") if f.name.isdecimal() and f.is_file() and f != file]
        shutil.copy(others[int(rng.integers(len(others)))], file)
    elif kind == "of another array":
        others = [f for f in files if f.name == file.name and f != file]
        shutil.copy(others[int(rng.integers(len(others)))], file)
    elif kind == "of another store":
        shutil.copy(twin, file)
    elif kind == "all of another store":
        shutil.copytree(twin.parent.parent, array, dirs_exist_ok=True)


def run(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """``count`` times, all kinds in turn -> after how many an epoch handed out something else than the store holds
    (``read_as_good``), and after how many the cache was whole again: the next epoch read nothing (``healed``)."""
    rng = np.random.default_rng(seed)
    reads: list[str] = []
    good: Counter[str] = Counter()
    healed: Counter[str] = Counter()
    with as_in_a_bucket(reads):
        other = make_store(folder / "other.zarr", seed + 1)
        epoch(other.path, folder / "other-cache")
        for number in range(count):
            kind, store = kinds[number % len(kinds)], make_store(folder / "s.zarr", seed)
            epoch(store.path, folder / "cache")
            damage(kind, folder / "cache", folder / "other-cache", store, rng)
            wanted = epoch(store.path, None)
            first = epoch(store.path, folder / "cache")
            reads.clear()
            good[kind] += not first == wanted == epoch(store.path, folder / "cache")
            healed[kind] += "images" not in reads
            for name in ("s.zarr", "cache"):
                shutil.rmtree(folder / name)
    done = Counter(kinds[number % len(kinds)] for number in range(count))
    print(f"{'kind, of a cache':<31}{'corruptions':>12}{'healed':>8}{'read as good':>14}")
    for kind in done:
        print(f"{kind:<31}{done[kind]:>12}{healed[kind]:>8}{good[kind]:>14}")
    return {"corruptions": count, "healed": healed.total(), "read_as_good": good.total()}
