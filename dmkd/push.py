"""`dmkd push`: a store, or a student, as a repository on the Hugging Face hub.

A store is packed first. At the repository's root are the store's own files, so that the repository opens as a store, the card
as README.md, and ``preview/``, Parquet files of some images that the hub's viewer shows. The run log, which names machines, stays
at home unless it is asked for. The root's zarr.json is in the last commit of a first push: before it, nothing opens.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dmkd.cards.dataset_card import hub_card, write_card
from dmkd.formats.parquet import ParquetExport
from dmkd.formats.samples import ImageFormat, SampleReader
from dmkd.runtime.hub_upload import Branch, Visibility, open_branch
from dmkd.runtime.progress import Display
from dmkd.runtime.whole_files import PARTIAL
from dmkd.stores import Store, UsageError, locations, open_store
from dmkd.stores.hub_repository import nodes_among
from dmkd.stores.identity import refuse_mismatch
from dmkd.stores.packing import chunks_to_pack, is_packed, pack
from dmkd.stores.run_log import RUNS
from dmkd.stores.tags import write_tag

ROOT, CARD, PREVIEW = "zarr.json", "README.md", "preview"
PREVIEW_IMAGES, PREVIEW_JPEG = 300, 90
MODEL = "model.safetensors"


@dataclass(frozen=True)
class Pushed:
    """What a repository holds now."""

    path: str
    commit: str
    tag: str | None
    files: int  # of the store or student
    sent: int  # of them, by this run
    sent_bytes: int

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def push_store(
    source: str,
    path: str,
    visibility: Visibility,
    display: Display,
    *,
    tag: str | None = None,
    licence: str | None = None,
    runs: bool = False,
) -> Pushed:
    """Publish the store ``source``, a local folder, at ``path`` (hf://datasets/USER/NAME, @BRANCH if it is not main).

    Packs the store, tags it and writes its card. ``tag`` is a name for what is pushed, in the store and on the hub; what it
    covers is proved to be sound first. ``runs``: the run log too. Files of a store that are there and no longer here are
    deleted. Raises ``UsageError`` for what can't be pushed or a place that is taken, ``StoreError`` as the store and the hub do.
    If interrupted, the same call goes on.
    """
    if locations.scheme(source) or not Path(source).is_dir():
        raise UsageError(f"{source} is not a folder: copy it to one first (`dmkd convert {source} NAME.zarr`).")
    if locations.scheme(path) != locations.HUB:
        raise UsageError(f"{path} is not on the hub: a store goes to hf://datasets/USER/NAME.")
    if find_spec("pyarrow") is None:
        raise UsageError("The preview that a pushed store has needs pyarrow: pip install 'dmkd[export]'.")
    store = open_store(source)
    branch = open_branch(path, visibility)
    _refuse_another(store, branch)
    if missing := store.missing_blocks():
        display.notice(f"{source} is unfinished: {len(missing):,} of {store.num_blocks:,} blocks are missing.")
    if local := _local_paths(store):
        display.notice(
            f"What is published names paths of this machine, as where weights were found: {', '.join(local)}."
        )
    if not is_packed(store):
        with display.task("pack", chunks_to_pack(store), unit="chunks") as advance:
            pack(store, advance)
    if tag:
        with display.task(f"tag {tag}", store.num_blocks, unit="blocks") as advance:
            write_tag(store, tag, advance)
    write_card(store, licence)
    with tempfile.TemporaryDirectory() as folder:
        files = _store_files(Path(source), runs) | _made_files(store, path, Path(folder))
        return _push(branch, files, display, last=ROOT, tag=tag, clean=True)


def push_student(
    folder: Path, path: str, visibility: Visibility, display: Display, *, tag: str | None = None
) -> Pushed:
    """Publish a student that was exported to ``folder`` at ``path`` (hf://USER/NAME), for timm's ``hf-hub:USER/NAME``."""
    branch = open_branch(path, visibility)
    files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}
    return _push(branch, files, display, last=MODEL, tag=tag, clean=False)


# Below: what is sent


def _push(
    branch: Branch, files: dict[str, Path], display: Display, *, last: str, tag: str | None, clean: bool
) -> Pushed:
    changes = branch.changes(files)
    own = nodes_among(branch.files) | {PREVIEW}
    gone = [name for name in branch.files if clean and name.split("/")[0] in own and name not in files]
    branch.check_tag(tag, bool(changes or gone))
    size = sum(path.stat().st_size for path in changes.values())
    with display.task("push", len(files), len(files) - len(changes), unit="files") as advance:
        branch.upload(changes, gone, "Push with dmkd", last, advance)
    if tag:
        branch.tag(tag)
    return Pushed(branch.repository.path, branch.head, tag, len(files), len(changes), size)


def _store_files(root: Path, runs: bool) -> dict[str, Path]:
    """The store's files by name, without what is half-written or hidden."""
    found: dict[str, Path] = {}
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            file = Path(folder) / name
            relative = file.relative_to(root).as_posix()
            if (
                not name.startswith(".")
                and not name.endswith(PARTIAL)
                and (runs or not relative.startswith(f"{RUNS}/"))
            ):
                found[relative] = file
    return found


def _made_files(store: Store, path: str, folder: Path) -> dict[str, Path]:
    """Preview and card, written to ``folder``. The same store gives the same bytes."""
    made = [block for block in range(store.num_blocks) if block not in set(store.missing_blocks())]
    if not made:
        raise UsageError(f"{store.path} has no images yet: there is nothing to push.")
    shown = made[: -(-PREVIEW_IMAGES // store.block_size)]
    ids = np.concatenate([np.asarray(store.block_ids(block)) for block in shown])[:PREVIEW_IMAGES]
    labelled = [
        label_set
        for label_set in store.labels.values()
        if label_set.fitted and not set(shown) & set(label_set.missing_blocks())
    ]
    reader = SampleReader(store, labelled, [], ImageFormat(PREVIEW_JPEG))
    export = ParquetExport(folder, reader, PREVIEW_IMAGES)
    export.write(0, reader(ids), lambda images: None)
    (folder / CARD).write_text(hub_card(store, path, f"{PREVIEW}/{export.data_files()}", len(ids)))
    parquet = str(export.part_name(0))
    return {CARD: folder / CARD, f"{PREVIEW}/{parquet}": folder / parquet}


def _refuse_another(store: Store, branch: Branch) -> None:
    """Raise ``MismatchError`` if the repository holds another store: another recipe's, or one that went on in other rounds."""
    if ROOT not in branch.files:
        return
    path = branch.repository.path
    way_out = "Push to another repository, or to a branch of its own (@BRANCH)."

    def refuse(whose: str, metadata: str, identity: str) -> None:
        there = json.loads(branch.repository.read(branch.head, metadata)).get("attributes", {})
        refuse_mismatch(whose, {"identity": there.get("identity")}, {"identity": identity}, way_out, holder=path)

    refuse(f"The store at {path}", ROOT, store.identity)
    common = [one for one in store.rounds if f"{one.node}/{ROOT}" in branch.files]
    for last in common[-1:]:  # those before it are part of its identity
        refuse(f"Round {last.number} of the store at {path}", f"{last.node}/{ROOT}", last.identity)


def _local_paths(store: Store) -> list[str]:
    """What the metadata says of folders and files of this machine."""
    sources = [store.source, *(label_set.source for label_set in store.labels.values())]
    return sorted({source for source in sources if source and Path(source).expanduser().is_absolute()})
