"""Stores that are read where they lie on the Hugging Face hub: by few requests, never written, and what users are told."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from conftest import filled_store
from hub_server import HubServer, Repository, git_sha1

from dmkd.cli.main import main
from dmkd.stores import NotAStoreError, StoreError, StoreUnreachableError, UsageError, locations, open_store
from dmkd.stores.packing import pack
from dmkd.stores.showing.facts import store_facts

PLACE = "hf://datasets/user/digits"


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def publish(hub: HubServer, folder: Path, branch: str = "main") -> Repository:
    """A folder as it is, without dmkd's push."""
    tree = {}
    for file in folder.rglob("*"):
        if file.is_file():
            content, large = file.read_bytes(), file.suffix != ".json"
            key = hashlib.sha256(content).hexdigest() if large else git_sha1(content)
            hub.contents[key] = content
            tree[str(file.relative_to(folder))] = ("lfs" if large else "regular", key)
    repository = hub.repositories.setdefault("datasets/user/digits", Repository())
    repository.commit(branch, tree)
    return repository


@pytest.fixture
def store(tmp_path, hub):
    made = filled_store(tmp_path / "s.zarr", num_images=600, block_size=32)
    publish(hub, tmp_path / "s.zarr")
    return made


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
def test_it_reads_as_it_does_on_a_disk(hub: HubServer, store, packed):
    if packed:
        pack(store)
        publish(hub, Path(store.path))
    there = open_store(PLACE)
    ids = np.random.default_rng(0).permutation(600)[:100]
    assert (there.images[ids] == store.images[ids]).all() and (there.class_ids[ids] == store.class_ids[ids]).all()
    assert (there.views["views"][ids] == store.views["views"][ids]).all()
    assert (there.labels["teacher"].logits(ids) == store.labels["teacher"].logits(ids)).all()
    facts, local = store_facts(there), store_facts(store)
    assert {k: v for k, v in facts.items() if k != "path"} == {k: v for k, v in local.items() if k != "path"}
    again = pickle.loads(pickle.dumps(there))
    assert (again.images[ids] == store.images[ids]).all()
    result = dmkd("verify", PLACE)
    assert result.exit_code == 0, result.output


def test_plain_zarr_reads_it(hub: HubServer, store):
    pytest.importorskip("fsspec.implementations.asyn_wrapper", reason="of fsspec 2024.12")
    assert (zarr.open(PLACE, mode="r")["images"][:64] == store.images[:64]).all()


def test_opening_and_reading_take_few_requests(hub: HubServer, store):
    there = open_store(PLACE)
    names = r"/api/datasets|/resolve/"
    assert hub.counted(names) == 4  # commit, its existence, its files, zarr.json
    assert there.labels["teacher"].num_views == 2 and not there.missing_blocks()
    nodes = hub.counted(names)
    there.images[[0, 1, 31]]
    assert hub.counted(names) - nodes == 5  # metadata of two arrays, and three chunks: images, class ids, checks
    there.images[[2]]
    assert hub.counted(names) - nodes == 6  # what is small is kept
    assert hub.counted("/tree/") == 1


def test_a_packed_store_takes_fewer(hub: HubServer, store):
    pack(store)
    publish(hub, Path(store.path))
    there = open_store(PLACE)
    hub.requests.clear()
    there.images[[0]]
    # Of images, class ids and checks each: metadata, the shard's index, and all its small chunks at once.
    assert hub.counted("/resolve/") == len(hub.requests) == 9
    assert (there.images[:] == store.images[:]).all() and len(hub.requests) == 9


def test_more_files_than_a_listing_has(hub: HubServer, tmp_path):
    made = filled_store(tmp_path / "s.zarr", num_images=800, block_size=4)
    publish(hub, tmp_path / "s.zarr")
    assert len(hub.files("datasets/user/digits")) > 1000
    there = open_store(PLACE)
    assert not there.missing_blocks() and hub.counted("/tree/") == 2
    assert (there.images[[799]] == made.images[[799]]).all()


def test_a_range_is_read_as_such(hub: HubServer, store):
    there = open_store(PLACE)
    place = there.chunks.tree.place
    whole = (Path(store.path) / "images/c.0.0.0.0").read_bytes()
    hub.downloaded.clear()
    assert place.read_bytes("images/c.0.0.0.0", 100, 200) == whole[100:200]
    assert place.read_bytes("images/c.0.0.0.0", -20) == whole[-20:]
    assert place.read_bytes("images/c.0.0.0.0") == whole and place.read_bytes("images/c.99.0.0.0") is None
    assert [size for _, size in hub.downloaded] == [100, 20, len(whole)]


def test_a_revision_is_read_and_an_open_store_stays_at_its_commit(hub: HubServer, store, tmp_path):
    before = open_store(PLACE)
    other = filled_store(tmp_path / "t.zarr", num_images=64, block_size=32)
    repository = publish(hub, tmp_path / "t.zarr")
    repository.tags["v1"] = next(iter(repository.commits))
    assert open_store(PLACE).num_images == other.num_images == 64
    assert open_store(f"{PLACE}@v1").num_images == 600
    assert open_store(f"{PLACE}@{repository.tags['v1']}").num_images == 600
    assert (before.images[[599]] == store.images[[599]]).all()


@pytest.mark.parametrize(
    "arguments",
    [
        ("select", "entropy<1", "--store", PLACE, "--labels", "teacher", "--save", "sure"),
        ("card", PLACE),
        ("label", "--store", PLACE, "--teacher", "digits-resnet", "--name", "more"),
        ("verify", PLACE, "--repair"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_write_say_to_pull_it(hub: HubServer, store, arguments):
    result = dmkd(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    assert "can only be read" in result.output and "dmkd pull" in result.output


def test_nothing_is_made_on_the_hub_but_by_push(hub: HubServer, store):
    result = dmkd("convert", store.path, f"{PLACE}-new")
    assert result.exit_code == 2 and "There is no hf://datasets/user/digits-new" in result.output
    hub.repositories["datasets/user/digits"].commit("main", {})
    for arguments in (
        ("convert", store.path, PLACE),
        ("generate", "--store", PLACE, "--generator", "digits", "--images", "8"),
    ):
        result = dmkd(*arguments)
        assert result.exit_code == 2 and "can only be read" in result.output, result.output


@pytest.mark.parametrize(
    ("change", "path", "error", "words"),
    [
        (
            {},
            "hf://datasets/user/none",
            NotAStoreError,
            "There is no hf://datasets/user/none on the hub that you may read",
        ),
        ({}, f"{PLACE}@v9", NotAStoreError, "has no revision v9"),
        ({"private": True}, PLACE, NotAStoreError, "if it is private, log in"),
        ({"gated": True}, PLACE, StoreError, "is gated: ask for access on its page"),
        ({"answer": 429}, PLACE, StoreUnreachableError, r"too many requests \(429\)"),
        ({"answer": 503}, PLACE, StoreUnreachableError, "the hub answers 503"),
        ({"answer": 400}, PLACE, StoreError, "refused the request"),
    ],
)
def test_failures_are_one_sentence(hub: HubServer, store, monkeypatch, change, path, error, words):
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    for name, value in change.items():
        setattr(hub if name == "answer" else hub.repositories["datasets/user/digits"], name, value)
    with pytest.raises(error, match=words) as caught:
        open_store(path)
    assert "\n" not in str(caught.value)


def test_a_failure_while_reading_names_the_file(hub: HubServer, store, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub tries several times
    there = open_store(PLACE)
    there.images[[0]]
    hub.answer = 429
    with pytest.raises(StoreUnreachableError, match=r"images/c\.3\.0\.0\.0 can't be read just now"):
        there.images[[100]]


def test_no_network_and_offline(hub: HubServer, store, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StoreUnreachableError, match="HF_HUB_OFFLINE is set"):
        open_store(PLACE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.stop()
    with pytest.raises(StoreUnreachableError, match="the hub can't be reached"):
        open_store(PLACE)


def test_a_damaged_chunk_is_an_error(hub: HubServer, store):
    hub.falsify = {"images/c.3.0.0.0"}
    there = open_store(PLACE)
    with pytest.raises(StoreError, match=r"Chunk hf://datasets/user/digits/images/c\.3\.0\.0\.0 is damaged"):
        there.images[[100]]


def test_a_repository_that_is_no_store(hub: HubServer, store):
    hub.repositories["datasets/user/digits"].commit("main", {"README.md": ("regular", next(iter(hub.contents)))})
    with pytest.raises(NotAStoreError, match="is not a dmkd store: it holds no Zarr v3 group"):
        open_store(PLACE)


@pytest.mark.parametrize(
    ("path", "kind", "name", "revision"),
    [
        ("hf://datasets/user/digits", "dataset", "user/digits", None),
        ("hf://datasets/user/digits.v2@v1.0/", "dataset", "user/digits.v2", "v1.0"),
        ("hf://datasets/user/digits@refs%2Fpr%2F1", "dataset", "user/digits", "refs/pr/1"),
        ("hf://user/student@main", "model", "user/student", "main"),
    ],
)
def test_paths(path, kind, name, revision):
    assert locations.hub_path(path) == locations.HubPath(kind, name, revision)


@pytest.mark.parametrize(
    "path", ["hf://digits", "hf://datasets/digits", "hf://datasets/user/digits/sub", "hf://spaces/user/x/y", "hf://"]
)
def test_paths_that_name_no_repository(path):
    with pytest.raises(UsageError, match="names no repository on the hub"):
        open_store(path)


def test_a_model_is_no_store():
    with pytest.raises(UsageError, match="is a model's repository"):
        open_store("hf://user/student")
