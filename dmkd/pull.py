"""`dmkd pull`: a store from the Hugging Face hub to a local folder.

Files come by huggingface_hub's own downloads and are compared with the hash by which the hub knows them. Until all are there
the folder's root is marked as unfinished, and names the commit that an interrupted pull goes on with.
"""

import json
import shutil
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from dmkd.runtime.hub_access import quiet_hub
from dmkd.runtime.progress import Display
from dmkd.runtime.space import byte_size, free_disk
from dmkd.runtime.whole_files import write_file, writing
from dmkd.stores import Store, StoreError, UsageError, locations, open_store
from dmkd.stores.create import PULLING
from dmkd.stores.hub_repository import HubFile, HubRepository, hub_errors, nodes_among
from dmkd.stores.tags import Tag, read_tag, verify_tag
from dmkd.stores.verifying.finding import ERROR

ROOT = "zarr.json"
DOWNLOADS = 8  # at once
BOOKKEEPING = ".cache"  # of huggingface_hub, while files are coming


def pull_store(path: str, to: str, display: Display, *, tag: str | None = None) -> Store:
    """Copy the store at ``path`` (hf://datasets/USER/NAME, perhaps @REVISION) to the folder ``to`` -> the copy.

    With a ``tag`` the revision of that name is meant, unless the path names one, and the copy is compared with the store's tag
    of that name. If interrupted, the same call goes on, with the commit that it began with; a file that was coming is fetched
    again. Raises ``UsageError`` if ``to`` is taken or there is not enough room, ``StoreError`` if the hub fails, a file came
    damaged or the copy is not what was tagged.
    """
    if tag and "@" not in path:
        path = f"{path.rstrip('/')}@{tag}"
    if locations.scheme(path) != locations.HUB:
        raise UsageError(f"{path} is not on the hub: a store is pulled from hf://datasets/USER/NAME.")
    folder = Path(to)
    if locations.scheme(to) or to.lower().endswith((".h5", ".hdf5")):
        raise UsageError(f"{to}: a store is pulled to a local folder; `dmkd convert` copies it from there.")
    repository = HubRepository(path)
    commit = _begun(folder, path) or repository.head()
    open_store(f"hf://datasets/{repository.name}@{commit}")  # or says why not
    files = repository.files(commit)
    wanted = {name: file for name, file in files.items() if name.split("/")[0] in nodes_among(files)}
    _require_room(folder, wanted, path)
    _mark(folder, path, commit)
    with display.task("pull", len(wanted), unit="files") as advance, quiet_hub(), writing(folder):
        _fetch_all(repository, commit, wanted, folder, advance)
        shutil.rmtree(folder / BOOKKEEPING, ignore_errors=True)
        write_file(folder / ROOT, repository.read(commit, ROOT))
    copy = open_store(to)
    if tag:
        _hold_to(copy, read_tag(copy, tag), display)
    return copy


def _hold_to(store: Store, tag: Tag, display: Display) -> None:
    with display.task(f"compare with {tag.name}", tag.num_blocks, unit="blocks") as advance:
        findings = verify_tag(store, tag, advance)
    if wrong := [finding for finding in findings if finding.severity == ERROR]:
        raise StoreError(
            f"{store.path} came as it is on the hub, which is not what was tagged {tag.name} ({wrong[0].where}: "
            f"{wrong[0].sentence}): `dmkd verify {store.path} --tag {tag.name}` shows all that differs."
        )


def _begun(folder: Path, path: str) -> str | None:
    """The commit of a pull that was interrupted; None if nothing is there yet. Raises ``UsageError`` if the folder is taken."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        there: dict[str, Any] = json.loads((folder / ROOT).read_text())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        there = {}
    if there.get("state") != PULLING:
        raise UsageError(f"{folder} already exists: give the copy another name, or delete it.")
    if there["pulled_from"] != path:
        raise UsageError(
            f"{folder} holds the beginning of {there['pulled_from']}: finish that by pulling it again, or delete it."
        )
    return str(there["commit"])


def _mark(folder: Path, path: str, commit: str) -> None:
    attributes = {"state": PULLING, "pulled_from": path, "commit": commit}
    root = {"zarr_format": 3, "node_type": "group", "attributes": {"dmkd_format": 1, **attributes}}
    write_file(folder / ROOT, json.dumps(root).encode())


def _require_room(folder: Path, wanted: dict[str, HubFile], path: str) -> None:
    missing = sum(file.size for name, file in wanted.items() if not (folder / name).exists())
    free = free_disk(str(folder))
    if free is not None and free < missing:
        raise UsageError(
            f"{path} needs {byte_size(missing)} more, and the disk of {folder} has {byte_size(free)} free."
        )


def _fetch_all(repository: HubRepository, commit: str, wanted: dict[str, HubFile], folder: Path, advance: Any) -> None:
    def fetch(name: str) -> None:
        with hub_errors(locations.join(repository.path, name)):
            repository.api.hf_hub_download(
                repository.name, name, repo_type=repository.kind, revision=commit, local_dir=folder
            )
        if not wanted[name].is_at(folder / name):
            (folder / name).unlink()
            raise StoreError(
                f"{folder / name} did not come as it is on the hub: rerun the same command to fetch it again."
            )

    pool = ThreadPoolExecutor(DOWNLOADS)
    try:
        largest_first = sorted(wanted, key=lambda name: -wanted[name].size)
        coming = {pool.submit(fetch, name) for name in largest_first}
        while coming:
            done, coming = wait(coming, return_when=FIRST_EXCEPTION, timeout=0.5)
            for future in done:
                future.result()
                advance(1)
    finally:
        pool.shutdown(cancel_futures=True)
