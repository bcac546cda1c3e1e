"""Where weights come from: a folder, or a repository on the Hugging Face hub; and what identifies them, a sha256."""

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from dmkd.runtime.hub_access import hub_access
from dmkd.stores.errors import DmkdError, UsageError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def resolve_folder(source: str, *, needs: tuple[str, ...], wanted: tuple[str, ...] | None = None) -> Path:
    """The folder that holds what ``source`` names: ``source`` itself, or a downloaded copy of a hub repository.

    ``source`` is a local folder, or a hub id such as ``facebook/DiT-XL-2-256`` with an optional ``@revision``. A folder
    that exists wins over a repository of the same name.

    ``needs`` are glob patterns of file names relative to the folder, with forward slashes; nothing else is downloaded.
    A need may list alternatives, best first: ``vae/model.safetensors|vae/model.bin`` downloads the second only if
    there is no first. Every need must be met by at least one file. ``wanted`` is what a message about an unreachable
    hub lists, for callers who will need more in a second call; None: the needs.

    Raises ``UsageError`` if there is no such folder or repository, or if it lacks a file; ``DmkdError`` if the hub can't
    be reached and the files are not in its cache.
    """
    check_source(source)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return _download(source, needs, wanted or needs)
    if missing := _unmet(folder, needs):
        raise UsageError(f"The folder {source} lacks {_listed(missing)}.")
    return folder


def check_source(source: str) -> None:
    """Raise ``UsageError`` unless this is a folder or may be a hub id."""
    folder = Path(source).expanduser()
    if folder.is_file():
        raise UsageError(f"{source} is a file; give the folder that holds model_index.json.")
    if not folder.is_dir() and not _HUB_ID.fullmatch(source):
        raise UsageError(
            f"There is no folder {source!r}, and it is not a Hugging Face hub id either (like facebook/DiT-XL-2-256)."
        )


def weights_sha256(files: Mapping[str, Path]) -> str:
    """One sha256, 64 hex digits, of a model's files, given by their names relative to its folder.

    It is the hash of the lines ``<sha256 of the content>  <name>``, sorted by name (as ``sha256sum`` prints them): it
    changes with any byte of any file, but not with the folder's location or the files' dates.
    """
    lines = []
    for name in sorted(files):
        with open(files[name], "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _download(source: str, needs: tuple[str, ...], wanted: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = source.partition("@")
    folder, missing, rank = None, list(needs), 0
    # First the best alternative of everything, then the second one of whatever the repository lacks, and so on.
    while missing and rank < max(need.count("|") + 1 for need in missing):
        patterns = [need.split("|")[rank] for need in missing if rank < need.count("|") + 1]
        try:
            with hub_access():
                folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
        except Exception as error:  # huggingface_hub has changed its HTTP library, and with it the errors, twice
            _explain(error, source, _listed(wanted))
        missing, rank = _unmet(folder, needs), rank + 1
    if folder is None or missing:
        raise UsageError(f"The hub repository {source} lacks {_listed(missing)}.")
    return folder


def _explain(error: Exception, source: str, wanted: str) -> NoReturn:
    """Translate whatever ``snapshot_download`` raised."""
    from huggingface_hub import errors

    repository, _, revision = source.partition("@")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        where = error.filename or "the hub's cache"
        raise DmkdError(
            f"Downloading {source} failed at {where}: {os.strerror(error.errno)}; free some space or set HF_HOME to another "
            "folder."
        ) from error
    if isinstance(error, errors.GatedRepoError):
        raise UsageError(
            f"{source} is a gated hub repository: request access on its page, log in (`hf auth login`) and run again."
        ) from error
    if isinstance(error, errors.RevisionNotFoundError):
        raise UsageError(f"The hub repository {repository} has no revision {revision!r}.") from error
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        raise UsageError(
            f"There is no folder {source}, and no such repository on the Hugging Face hub that you may read "
            f"(wanted: {wanted}); check the name, or log in if it is private."
        ) from error
    option = f" --revision {revision}" if revision else ""
    raise DmkdError(
        f"{source} is not a local folder and could not be fetched from the Hugging Face hub, which is offline or unreachable, "
        f"nor found in its cache (wanted: {wanted}); on a connected machine run `hf download {repository}{option}` (or "
        f"`huggingface-cli download {repository}{option}`), copy its cache here and point HF_HOME to it, or give a folder."
    ) from error


def _unmet(folder: Path, needs: tuple[str, ...]) -> list[str]:
    """Those needs that no file of the folder meets."""
    return [
        need
        for need in needs
        if not any(path.is_file() for pattern in need.split("|") for path in folder.glob(pattern))
    ]


def _listed(needs: list[str] | tuple[str, ...]) -> str:
    return ", ".join(need.replace("|", " or ") for need in needs)
