"""Corrupts a finished store in every way that files go bad, and counts what `dmkd verify` finds and what readers accept.

    python benchmarks/corruptions.py            # small stores of random contents, 200 corruptions of each kind of store

Of a store of loose chunks; of a packed one (shards, and what is loose beside them: shard_corruptions.py); of a loader's cache
(cache_corruptions.py), where what counts is that an epoch hands out what the store holds, and that the cache is whole afterwards.

``found``: verify reports the corrupted array, as an error; or, if the deleted chunk is the one that marks a block as made,
reports the block as missing. ``read_as_good``: a reader got rows of the corrupted block, or rows that depend on it,
without an error. The last line is JSON.
"""

import argparse
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from dmkd.stores import DamagedChunkError, MissingBlockError, Store, create_store, open_store, parse_codec
from dmkd.stores.verifying.finding import ERROR, NOTE, Finding
from dmkd.stores.verifying.verifier import Verifier

kinds = ("bit flip", "truncated", "zeroed", "zeros with a right checksum", "deleted", "swapped")

CHUNK = re.compile(r"c\.(\d+)(?:\.0)*")


@dataclass(frozen=True)
class Corruption:
    """What was done: ``blocks`` of the array ``node`` are no longer what was written."""

    kind: str
    node: str
    blocks: tuple[int, ...]
    before: dict[Path, bytes | None]  # None: there was no such file
    deletion: bool = False  # what was there is missing now, rather than wrong

    def __str__(self) -> str:
        return f"{self.kind}: {self.node}, block {' and '.join(map(str, self.blocks))}"

    def undo(self) -> None:
        for file, content in self.before.items():
            self.put(file, content)

    @staticmethod
    def put(file: Path, content: bytes | None) -> None:
        if content is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(content)


def arrays_of(store_path: Path | str) -> list[str]:
    """The store's arrays that have chunks of blocks."""
    return sorted(open_store(store_path).array_nodes())


def corrupt(store_path: Path | str, rng: np.random.Generator, kind: str, node: str | None = None) -> Corruption:
    """Corrupt one chunk of ``node`` (None: of any array), or for "swapped" two whose bytes differ, in one of ``kinds``."""
    folder = Path(store_path) / (node := node or str(rng.choice(arrays_of(store_path))))
    chunks = {int(match[1]): file for file in folder.iterdir() if (match := CHUNK.fullmatch(file.name))}
    block, other = (int(number) for number in rng.permutation(sorted(chunks))[:2])
    file, content = chunks[block], chunks[block].read_bytes()
    before: dict[Path, bytes | None] = {file: content}
    if kind == "bit flip":
        place, bit = rng.integers(len(content)), rng.integers(8)
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
    elif kind == "truncated":
        file.write_bytes(content[: rng.integers(len(content))])
    elif kind == "zeroed":
        file.write_bytes(bytes(len(content)))
    elif kind == "zeros with a right checksum":
        zeros = bytes(len(content) - 4)
        file.write_bytes(zeros + google_crc32c.value(zeros).to_bytes(4, "little"))
    elif kind == "deleted":
        file.unlink()
    elif kind == "swapped":
        before[chunks[other]] = swapped = chunks[other].read_bytes()
        assert swapped != content, f"{node}: blocks {block} and {other} hold the same"
        file.write_bytes(swapped)
        chunks[other].write_bytes(content)
        return Corruption(kind, node, (block, other), before)
    else:
        raise ValueError(f"{kind!r} is not one of {', '.join(kinds)}.")
    return Corruption(kind, node, (block,), before, deletion=kind == "deleted")


def found_by_verify(store_path: Path | str, corruption: Corruption) -> bool:
    """Whether verify reports every corrupted block, naming the array or the label set that it belongs to."""
    verifier = Verifier(open_store(store_path))
    findings = list(verifier.attributes())
    for block in corruption.blocks:
        findings += verifier.block(block)
    findings += verifier.summary()
    errors = [finding for finding in findings if finding.severity == ERROR]
    if corruption.deletion and not errors:
        return any(finding.severity == NOTE and _concerns(finding, corruption.node) for finding in findings)
    return all(any(e.block == block and _concerns(e, corruption.node) for e in errors) for block in corruption.blocks)


def _concerns(finding: Finding, node: str) -> bool:
    """Class ids and checks prove each other: either name stands for both."""
    pair = {"class_ids", "checks"}
    return finding.node == node or {finding.node, node} <= pair or node.startswith(f"{finding.node}/")


def read_as_good(store_path: Path | str, corruption: Corruption) -> list[str]:
    """What a reader returns from the corrupted blocks without an error although it depends on the corrupted array."""
    return [
        f"{name} of block {block}"
        for block in corruption.blocks
        for name, read in readings(open_store(store_path), corruption.node, block).items()
        if not _refused(read)
    ]


def readings(store: Store, node: str, block: int) -> dict[str, Callable[[], object]]:
    """Every way to read what depends on one block of an array."""
    ids = np.array(store.block_ids(block))
    images: dict[str, Callable[[], object]] = {
        "images[ids]": lambda: store.images[ids],
        "images.block": lambda: store.images.block(block),
    }
    of_classes: dict[str, Callable[[], object]] = {
        "class_ids[ids]": lambda: store.class_ids[ids],
        "class_ids.block": lambda: store.class_ids.block(block),
        "checks.block": lambda: store.checks.block(block),
    }
    if node == "images":
        return images
    if node == "class_ids":
        return images | of_classes
    quality: dict[str, Callable[[], object]] = {}
    labels: dict[str, Callable[[], object]] = {}
    views: dict[str, Callable[[], object]] = {}
    for name, label_set in store.labels.items():
        if node in ("checks", label_set.checks_node, f"{label_set.node}/quality"):
            quality[f"quality of {name}"] = lambda label_set=label_set: label_set.quality[ids]  # type: ignore[misc]
        if node in ("checks", label_set.checks_node, label_set.views_node, *label_set.array_nodes.values()):
            labels[f"logits of {name}"] = lambda label_set=label_set: label_set.logits(ids)  # type: ignore[misc]
            labels[f"encoded of {name}"] = lambda label_set=label_set: label_set.encoded(ids)  # type: ignore[misc]
    if node == "checks":
        return images | of_classes | quality | labels
    for name, view_set in store.views.items():
        if node == view_set.node:
            views[f"views {name}"] = lambda view_set=view_set: view_set[ids]  # type: ignore[misc]
            views[f"views {name}.block"] = lambda view_set=view_set: view_set.rows.block(block)  # type: ignore[misc]
    return views | quality | labels


def _refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except (DamagedChunkError, MissingBlockError):
        return True
    return False


def make_store(path: Path | str, seed: int = 0, num_images: int = 40, block_size: int = 16) -> Store:
    """A finished store of random 8x8 images; two view sets, labels in float16 (one array) and top-k (more)."""
    store = create_store(
        str(path),
        recipe={"generator": "none", "seed": 0},
        num_images=num_images,
        image_shape=(8, 8, 3),
        class_names=[str(i) for i in range(10)],
        block_size=block_size,
        source="none",
    )
    for name, num_views in (("v2", 2), ("v3", 3)):
        store.add_view_set(name, num_views, ("top", "left", "height", "width", "flip"), {"policy": "test"})
    for name, view_set, codec in (("half", "v2", "float16"), ("top", "v3", "topk:4")):
        store.add_label_set(
            name, teacher={"name": name}, source=name, view_set=view_set, codec=parse_codec(codec), num_classes=10
        )
    rng = np.random.default_rng(seed)
    for block in range(store.num_blocks):
        store.write_block(block, **random_block(store, block, rng))
    return store


def random_block(store: Store, block: int, rng: np.random.Generator) -> dict[str, Any]:
    """What :meth:`dmkd.stores.Store.write_block` takes."""
    n = len(store.block_ids(block))
    views = {name: _views(rng, n, view_set.num_views) for name, view_set in store.views.items()}
    labels = {name: _labels(rng, n, label_set.num_views) for name, label_set in store.labels.items()}
    images = rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)
    class_ids = rng.integers(0, 10, n).astype(np.int32)
    return {"images": images, "class_ids": class_ids, "views": views, "labels": labels}


def _views(rng: np.random.Generator, n: int, num_views: int) -> np.ndarray:
    height, width = rng.uniform(0.2, 1, (2, n, num_views))
    top, left = rng.random((2, n, num_views)) * (1 - np.stack([height, width]))
    return np.stack([top, left, height, width, rng.integers(0, 2, (n, num_views))], -1).astype(np.float32)


def _labels(rng: np.random.Generator, n: int, num_views: int) -> tuple[np.ndarray, np.ndarray]:
    logits = rng.normal(size=(n, num_views, 10)).astype(np.float32)
    quality = np.stack([logits[:, 0].argmax(-1), rng.random(n), rng.random(n)], 1).astype(np.float32)
    return logits, quality


Result = tuple[Corruption, bool, list[str]]  # what was done, whether it was found, what was read as good


def run(store_path: Path | str, count: int, seed: int, kinds: Sequence[str] = kinds) -> list[Result]:
    """``count`` corruptions, all kinds and all arrays in turn, each on the sound store -> (what, found, read as good)."""
    rng, nodes = np.random.default_rng(seed), arrays_of(store_path)
    plan = [(kind, node) for node in nodes for kind in kinds]
    return [_result(store_path, corrupt(store_path, rng, *plan[number % len(plan)])) for number in range(count)]


def run_packed(folder: Path, count: int, seed: int) -> tuple[list[Result], dict[str, int]]:
    """The same of a packed store; and what bits of padding do, which belong to nothing."""
    import shard_corruptions

    store, other = (shard_corruptions.make_packed_store(folder / f"{n}.zarr", seed + n) for n in range(2))
    rng = np.random.default_rng(seed)
    results = [
        _result(store.path, shard_corruptions.corrupt(store, other, rng, kind, node))
        for kind, node in shard_corruptions.plan(arrays_of(store.path), count)
    ]
    return results, shard_corruptions.harmless(store, other, rng, everything)


def _result(store_path: Path | str, corruption: Corruption) -> Result:
    try:
        return corruption, found_by_verify(store_path, corruption), read_as_good(store_path, corruption)
    finally:
        corruption.undo()


def everything(store: Store) -> list[bytes]:
    """All that readers of a sound store get."""
    every = slice(None)
    found = [store.images[every], store.class_ids[every], *(views[every] for views in store.views.values())]
    for label_set in store.labels.values():
        found += [label_set.logits(every), label_set.quality[every]]
    return [rows.tobytes() for rows in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corruptions", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(measure(options.corruptions, options.seed)))


def measure(count: int, seed: int) -> dict[str, Any]:
    """All of it, with tables."""
    import cache_corruptions

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loose = _counts(run(make_store(folder / "s.zarr").path, count, seed))
        packed, harmless = run_packed(folder, count, seed)
        (folder / "cached").mkdir()
        cache = cache_corruptions.run(folder / "cached", count, seed)
        return {**loose, "packed": {**_counts(packed), **harmless}, "cache": cache}


def _counts(results: Sequence[Result]) -> dict[str, int]:
    """A table, and its sums."""
    done, found = Counter(c.kind for c, _, _ in results), Counter(c.kind for c, seen, _ in results if seen)
    good = Counter(c.kind for c, _, read in results if read)
    print(f"{'kind':<31}{'corruptions':>12}{'found':>8}{'read as good':>14}")
    for kind in done:
        print(f"{kind:<31}{done[kind]:>12}{found[kind]:>8}{good[kind]:>14}")
    for corruption, seen, read in results:
        if not seen or read:
            print(f"{corruption}: {'found' if seen else 'NOT FOUND'}; read as good: {', '.join(read) or 'nothing'}")
    return {"corruptions": len(results), "found": found.total(), "read_as_good": good.total()}


if __name__ == "__main__":
    main()
