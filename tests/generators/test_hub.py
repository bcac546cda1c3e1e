"""dmkd.generators.hub: folders and hub repositories; every way in which they can be missing; the sha256 of weights."""

import errno
import shutil
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from dmkd.generators.hub import resolve_folder, weights_sha256
from dmkd.stores.errors import DmkdError, UsageError

NEEDS = ("config.json", "part/model.safetensors|part/model.bin")


def make_folder(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub whose repositories hold the named files; returns what was asked for."""
    contents = {"org/safe": ["config.json", "part/model.safetensors", "part/model.bin", "part/model.fp16.safetensors"]}
    contents["org/bin"] = ["config.json", "part/model.bin", "README.md"]
    contents["org/none"] = ["config.json"]
    asked = []

    def snapshot_download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        folder = tmp_path / "cache" / repository
        folder.mkdir(parents=True, exist_ok=True)
        return str(make_folder(folder, *[name for name in contents[repository] if name in allow_patterns]))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def failing_hub(monkeypatch, error):
    def snapshot_download(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def hub_error(kind):
    """One of huggingface_hub's errors, without the HTTP response that its constructor wants."""
    return kind.__new__(kind)


def test_a_folder_with_all_files_is_itself(tmp_path):
    assert resolve_folder(str(make_folder(tmp_path, "config.json", "part/model.bin")), needs=NEEDS) == tmp_path


def test_a_folder_that_lacks_files_is_refused_by_their_names(tmp_path):
    make_folder(tmp_path, "config.json", "part/other.bin")
    with pytest.raises(UsageError, match=r"lacks part/model.safetensors or part/model.bin\.$"):
        resolve_folder(str(tmp_path), needs=NEEDS)


def test_a_file_is_refused(tmp_path):
    make_folder(tmp_path, "config.json")
    with pytest.raises(UsageError, match="is a file; give the folder"):
        resolve_folder(str(tmp_path / "config.json"), needs=NEEDS)


@pytest.mark.parametrize("source", ["/no/such/folder", "./org/name", "dit", "a/b/c", "org/name@"])
def test_what_is_neither_folder_nor_hub_id_is_refused(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="There is no folder .* not a Hugging Face hub id"):
        resolve_folder(source, needs=NEEDS)


def test_a_folder_wins_over_a_repository_of_the_same_name(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "org/safe", "config.json", "part/model.bin")
    assert resolve_folder("org/safe", needs=NEEDS) == Path("org/safe")
    assert hub == []


def test_only_the_best_alternative_is_downloaded(hub):
    folder = resolve_folder("org/safe", needs=NEEDS)
    assert sorted(path.name for path in folder.rglob("*.*")) == ["config.json", "model.safetensors"]
    assert hub == [("org/safe", None, ["config.json", "part/model.safetensors"])]


def test_the_second_alternative_is_downloaded_if_there_is_no_first(hub):
    folder = resolve_folder("org/bin@v1.0", needs=NEEDS)
    assert sorted(path.name for path in folder.rglob("*.*")) == ["config.json", "model.bin"]
    assert hub == [
        ("org/bin", "v1.0", ["config.json", "part/model.safetensors"]),
        ("org/bin", "v1.0", ["part/model.bin"]),
    ]


def test_a_repository_that_lacks_a_file_is_refused_by_its_name(hub):
    with pytest.raises(UsageError, match=r"repository org/none lacks part/model.safetensors or part/model.bin\.$"):
        resolve_folder("org/none", needs=NEEDS)


def test_offline_says_which_repository_which_files_and_what_to_do(monkeypatch, tmp_path):
    # HF_HUB_OFFLINE itself is read once, when huggingface_hub is imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DmkdError) as caught:
        resolve_folder("facebook/DiT-XL-2-256@main", needs=NEEDS)
    message = str(caught.value)
    for part in (
        "facebook/DiT-XL-2-256",
        "config.json",
        "part/model.bin",
        "hf download facebook/DiT-XL-2-256",
        "HF_HOME",
    ):
        assert part in message
    assert "--revision main" in message
    assert "\n" not in message


def test_an_unreachable_hub_says_the_same(monkeypatch):
    failing_hub(monkeypatch, ConnectionError("Name or service not known"))
    with pytest.raises(DmkdError, match="offline or unreachable.*hf download org/safe`"):
        resolve_folder("org/safe", needs=NEEDS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RepositoryNotFoundError", "no such repository on the Hugging Face hub"),
        ("GatedRepoError", "gated"),
        ("RevisionNotFoundError", "org/safe has no revision 'v9'"),
    ],
)
def test_errors_of_the_hub_are_told_apart(monkeypatch, name, message):
    failing_hub(monkeypatch, hub_error(getattr(huggingface_hub.errors, name)))
    with pytest.raises(UsageError, match=message):
        resolve_folder("org/safe@v9", needs=NEEDS)


def test_a_full_disk_is_no_network_problem(monkeypatch):
    failing_hub(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/cache/blob"))
    with pytest.raises(DmkdError, match=r"/cache/blob: No space left on device; free some space or set HF_HOME"):
        resolve_folder("org/safe", needs=NEEDS)


def files_of(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def test_sha256_is_the_contents_and_names_and_nothing_else(tmp_path):
    folder = make_folder(tmp_path / "a", "config.json", "part/model.bin")
    before = weights_sha256(files_of(folder))
    moved = shutil.move(folder, tmp_path / "elsewhere")
    (moved / "config.json").touch()
    assert weights_sha256(files_of(moved)) == before
    assert weights_sha256(dict(reversed(files_of(moved).items()))) == before

    weights = bytearray((moved / "part/model.bin").read_bytes())
    weights[3] ^= 1
    (moved / "part/model.bin").write_bytes(weights)
    assert weights_sha256(files_of(moved)) != before
    weights[3] ^= 1
    (moved / "part/model.bin").write_bytes(weights)
    assert weights_sha256(files_of(moved)) == before
    (moved / "part/model.bin").rename(moved / "part/model2.bin")
    assert weights_sha256(files_of(moved)) != before


def test_sha256_can_be_had_with_coreutils(tmp_path):
    import hashlib

    (tmp_path / "b").write_bytes(b"weights")
    line = f"{hashlib.sha256(b'weights').hexdigest()}  b\n"
    assert weights_sha256({"b": tmp_path / "b"}) == hashlib.sha256(line.encode()).hexdigest()
