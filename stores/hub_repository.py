"""A repository on the Hugging Face hub: what is in it, and whatever goes wrong there as one sentence."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, HfFileSystem, errors

from . import locations
from .errors import (
    DmkdError,
    NotAStoreError,
    StoreError,
    StoreUnreachableError,
    StoreWriteError,
    UsageError,
    first_line,
    write_error,
)

ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class HubFile:
    """A file of a commit, and the hash by which the hub knows it: the sha256 of a large file, or git's of a small one."""

    size: int
    sha256: str | None
    git_sha1: str

    def is_at(self, path: Path) -> bool:
        """Whether the file at ``path`` is this one, byte for byte."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            if self.sha256:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
            return hashlib.sha1(b"blob %d\0" % self.size + file.read()).hexdigest() == self.git_sha1


class HubRepository:
    """The repository that ``hf://…`` names, by the token of the environment or of `hf auth login`, if there is one."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.place = locations.hub_path(path)
        self.name, self.kind = self.place.name, self.place.kind

    @cached_property
    def api(self) -> HfApi:
        return HfApi()

    @cached_property
    def file_system(self) -> HfFileSystem:
        return HfFileSystem()

    def head(self) -> str:
        """The commit that the path means now. Raises ``NotAStoreError`` if there is no such repository or revision,
        ``StoreError`` if it may not be read, ``StoreUnreachableError`` if the hub does not answer."""
        with hub_errors(self.path):
            return str(self.fact("sha", self.place.revision))

    def fact(self, name: str, revision: str | None = None) -> Any:
        """One fact of the repository, as the hub names it. Raises what huggingface_hub does."""
        asked: Any = [name]
        info = self.api.repo_info(
            self.name, repo_type=self.kind, revision=revision, timeout=ANSWER_SECONDS, expand=asked
        )
        return getattr(info, name)

    def root(self, commit: str) -> str:
        """The path of a commit for :class:`HfFileSystem`."""
        return f"{'datasets/' if self.kind == 'dataset' else ''}{self.name}@{commit}"

    def files(self, commit: str) -> dict[str, HubFile]:
        """All files of a commit, by name: one request for a thousand of them."""
        root = self.root(commit)
        with hub_errors(self.path):
            found: Any = self.file_system.find(root, detail=True)
        return {
            name.removeprefix(f"{root}/"): HubFile(
                info["size"], info["lfs"]["sha256"] if info["lfs"] else None, info["blob_id"]
            )
            for name, info in found.items()
        }

    def read(self, commit: str, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """A file of a commit, or these bytes of it, by one request; ``start`` may count from its end."""
        with hub_errors(locations.join(self.path, name)):
            # By default the file system would read megabytes beyond what is asked for.
            content: bytes = self.file_system.cat_file(f"{self.root(commit)}/{name}", start, stop, cache_type="none")
        return content


def nodes_among(files: dict[str, HubFile]) -> set[str]:
    """Names of the folders at the root of a repository that are nodes of a store; what else is there is for people."""
    return {name.split("/")[0] for name in files if name.count("/") == 1 and name.endswith("/zarr.json")}


@contextmanager
def hub_errors(path: str, *, writing: bool = False) -> Iterator[None]:
    """Whatever huggingface_hub raises within becomes an error that names ``path``. What is ours or the disk's passes."""
    try:
        yield
    except DmkdError:
        raise
    except Exception as error:  # it has changed its HTTP library, and with it the errors, twice
        raise _as_store_error(error, path, writing) from error


def _as_store_error(error: Exception, path: str, writing: bool) -> DmkdError:
    cause: BaseException = error
    while _status(cause) is None and not isinstance(cause, _TELLING) and cause.__cause__ is not None:
        cause = cause.__cause__
    status, failed = _status(cause), StoreWriteError if writing else StoreError
    verb = "be written" if writing else "be read"
    repository = path.partition("@")[0]
    if isinstance(cause, errors.HFValidationError):
        return UsageError(f"{path} can't be the name of a repository on the hub ({first_line(cause)}).")
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return StoreUnreachableError(f"{path} can't {verb}: HF_HUB_OFFLINE is set; unset it where there is a network.")
    if isinstance(cause, errors.GatedRepoError):
        return StoreError(
            f"{path} is gated: ask for access on its page, then log in (`hf auth login`) or set HF_TOKEN."
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return NotAStoreError(f"{repository} has no revision {locations.hub_path(path).revision or 'main'}.")
    if isinstance(cause, errors.RepositoryNotFoundError):
        return NotAStoreError(
            f"There is no {repository} on the hub that you may read: correct the name, or, if it is private, log in "
            "(`hf auth login`) or set HF_TOKEN."
        )
    if status == 429:
        return StoreUnreachableError(
            f"{path} can't {verb} just now: too many requests (429); wait five minutes, then rerun the same command to resume. "
            "With HF_TOKEN set the hub allows more."
        )
    if status in (401, 403):
        return failed(f"{path} can't {verb}: access is denied ({status}); check HF_TOKEN and what it permits.")
    if status == 412:
        return failed(
            f"{repository} was changed by somebody else meanwhile: rerun the same command to compare it again."
        )
    if status is not None and status < 500:
        return failed(f"{path} can't {verb}: the hub refused the request ({status}: {_said(cause)}).")
    if status is None and isinstance(cause, OSError) and cause.errno and cause.filename:
        return write_error(str(cause.filename), cause)
    reason = f"answers {status}" if status else f"can't be reached ({type(cause).__name__})"
    return StoreUnreachableError(
        f"{path} can't {verb}: the hub {reason}; once it is back, rerun the same command to resume."
    )


# Errors of huggingface_hub that say enough; others are wrapped around what happened.
_TELLING = (errors.HFValidationError, errors.OfflineModeIsEnabled)


def _status(error: BaseException) -> int | None:
    """The HTTP status that this error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _said(error: BaseException) -> str:
    return str(getattr(error, "server_message", None) or first_line(error))
