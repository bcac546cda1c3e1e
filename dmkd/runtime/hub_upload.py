"""Files to a repository on the Hugging Face hub, so that an interrupted upload goes on and nothing is sent twice.

What the repository has is compared first, by size and hash: the same files are not sent. Files are content to the hub before
they belong to a commit, so what an interrupted run has sent is known to it for a day, and longer where it was committed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, errors, get_token

from dmkd.runtime.hub_access import quiet_hub
from dmkd.stores.errors import UsageError
from dmkd.stores.hub_repository import HubRepository, hub_errors

BATCH_BYTES, BATCH_FILES = 8 * 2**30, 250  # of one commit


@dataclass(frozen=True)
class Visibility:
    """Whether a repository may be made, and for whom."""

    create: bool = False
    private: bool = False  # makes one as well


class Branch:
    """The branch of a repository that files go to: main, or the path's ``@REVISION``."""

    def __init__(self, repository: HubRepository, tags: Mapping[str, str], head: str) -> None:
        self.repository, self.tags, self.head = repository, tags, head
        self.name = repository.place.revision or "main"
        self.files = repository.files(head)

    def changes(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Those of the files that the branch does not have as they are. Reads what may be the same."""
        return {
            name: path for name, path in files.items() if name not in self.files or not self.files[name].is_at(path)
        }

    def check_tag(self, tag: str | None, changing: bool) -> None:
        """Raise ``UsageError`` if the tag is taken: tags do not move."""
        if tag and tag in self.tags and (changing or self.tags[tag] != self.head):
            raise UsageError(
                f"{self.repository.path} has a tag {tag} already, of another state, and tags stay where they are: choose another."
            )

    def upload(
        self,
        files: Mapping[str, Path],
        delete: Iterable[str],
        message: str,
        last: str,
        advance: Callable[[int], object] = lambda files: None,
    ) -> None:
        """Send these files and delete others, as one commit if the branch has the file ``last``, whose presence says that all
        is there; else in several, of which the last one has it."""
        whole = last in self.files
        waiting: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationDelete(name) for name in delete]
        with hub_errors(self.repository.path, writing=True), quiet_hub():
            batches = list(_batches(sorted(files.items(), key=lambda file: (file[0] == last, file[0]))))
            for number, batch in enumerate(batches, 1):
                additions = [CommitOperationAdd(name, str(path)) for name, path in batch]
                self.repository.api.preupload_lfs_files(
                    self.repository.name, additions, repo_type=self.repository.kind, revision=self.name
                )
                waiting += additions
                if not whole and number < len(batches):
                    self._commit(waiting, f"{message} (part {number} of {len(batches)})")
                    waiting = []
                advance(len(batch))
            if waiting:
                self._commit(waiting, message)

    def tag(self, tag: str) -> None:
        """Give the head a name that stays."""
        if tag not in self.tags:
            with hub_errors(self.repository.path, writing=True):
                self.repository.api.create_tag(
                    self.repository.name, tag=tag, revision=self.head, repo_type=self.repository.kind
                )

    def _commit(self, operations: list[CommitOperationAdd | CommitOperationDelete], message: str) -> None:
        done = self.repository.api.create_commit(
            self.repository.name,
            operations,
            commit_message=message,
            repo_type=self.repository.kind,
            revision=self.name,
            parent_commit=self.head,  # what was compared
        )
        self.head = done.oid


def open_branch(path: str, visibility: Visibility) -> Branch:
    """The branch to upload to, made if need be. Raises ``UsageError`` if there is no repository and none may be made, if it is
    public and should not be, without a token, or for a revision that is a tag."""
    repository = HubRepository(path)
    if get_token() is None:
        raise UsageError(
            f"{path} can't be written without a token: log in (`hf auth login`) or set HF_TOKEN to one that may write."
        )
    name, kind = repository.name, repository.kind
    with hub_errors(path, writing=True):
        try:
            private = repository.fact("private")
        except errors.RepositoryNotFoundError as error:
            if isinstance(error, errors.GatedRepoError):
                raise
            if not (visibility.create or visibility.private):
                raise UsageError(
                    f"There is no {path} on the hub: correct the name, or add --create to make it for everybody to see, or "
                    "--private."
                ) from error
            repository.api.create_repo(name, repo_type=kind, private=visibility.private or None)
        else:
            if visibility.private and not private:
                raise UsageError(f"{path} is public: make it private on its page, or leave --private out.")
        refs = repository.api.list_repo_refs(name, repo_type=kind)
        tags = {tag.name: tag.target_commit for tag in refs.tags}
        heads = {branch.name: branch.target_commit for branch in refs.branches}
        branch = repository.place.revision or "main"
        if branch in tags:
            raise UsageError(f"{path} names a tag, which stays as it is: name a branch, or none.")
        if branch not in heads:
            repository.api.create_branch(name, branch=branch, repo_type=kind)
            heads[branch] = heads["main"]
    return Branch(repository, tags, heads[branch])


def _batches(files: Iterable[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    batch: list[tuple[str, Path]] = []
    size = 0
    for name, path in files:
        batch.append((name, path))
        size += path.stat().st_size
        if size >= BATCH_BYTES or len(batch) == BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
