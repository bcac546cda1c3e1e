"""Stores and students to the Hugging Face hub and back, against a hub of the tests' own: what is sent, that nothing is sent
twice, what a killed push and an interrupted pull leave behind, and what users are told when it fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner
from conftest import block_arrays, filled_store, make_teacher, new_store
from hub_server import HubServer
from huggingface_hub import DatasetCard
from stores_with_rounds import add_round, store_with_rounds

from dmkd.cli.main import main
from dmkd.runtime import hub_upload
from dmkd.stores import NotAStoreError, open_store
from dmkd.stores.packing import pack
from dmkd.stores.tags import read_tag
from dmkd.stores.trees import shards

PLACE = "hf://datasets/user/digits"
REPOSITORY = "datasets/user/digits"
COMMAND = [sys.executable, "-m", "dmkd.cli.main"]


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def pushed(source, *options, place=PLACE) -> dict:
    result = dmkd("push", source, place, "--json", *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def refused(*arguments, code: int = 2) -> str:
    result = dmkd(*arguments)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output.splitlines()[-1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A packed store in which every shard holds one block, so that it is many files."""
    made = filled_store(tmp_path / "s.zarr", num_images=600, block_size=32)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 1)
        pack(made)
    return made


def test_a_store_is_packed_first(hub: HubServer, tmp_path):
    loose = filled_store(tmp_path / "s.zarr", num_images=600, block_size=32)
    pushed(loose.path, "--create")
    names = [name for name in hub.files(REPOSITORY) if name.startswith("images/")]
    assert names == ["images/0.0.0.0", "images/zarr.json"]
    assert (open_store(PLACE).images[:] == loose.images[:]).all()


def test_a_pushed_store_is_its_files_a_card_and_a_preview(hub: HubServer, store):
    report = pushed(store.path, "--create", "--licence", "cc-by-4.0", "--tag", "v1")
    there = hub.files(REPOSITORY)
    added = {".gitattributes", "README.md", "preview/train-000000.parquet"}
    assert there.keys() - added == contents(Path(store.path)).keys()
    assert {name: there[name] for name in there.keys() - added} == contents(Path(store.path))
    assert (
        report["files"] == report["sent"] == len(there) - 1
        and report["commit"] == hub.repositories[REPOSITORY].tags["v1"]
    )
    assert not hub.repositories[REPOSITORY].private


def test_the_card_names_licence_and_preview_and_where_to_read_it(hub: HubServer, store, tmp_path):
    pushed(store.path, "--private", "--licence", "cc-by-4.0")
    card = DatasetCard(hub.files(REPOSITORY)["README.md"].decode())
    assert card.data.license == "cc-by-4.0" and {"dmkd", "knowledge-distillation"} <= set(card.data.tags)
    assert card.data.configs == [
        {"config_name": "preview", "data_files": [{"split": "train", "path": "preview/*.parquet"}]}
    ]
    assert f'open_store("{PLACE}")' in card.text and f"dmkd pull {PLACE}" in card.text
    (tmp_path / "p.parquet").write_bytes(hub.files(REPOSITORY)["preview/train-000000.parquet"])
    table = parquet.read_table(tmp_path / "p.parquet").to_pydict()
    assert table["id"] == list(range(300)) and table["label"] == store.class_ids[np.arange(300)].tolist()
    assert np.allclose(table["teacher_logits"], store.labels["teacher"].logits(np.arange(300), view=0), atol=1e-3)
    assert all(image["bytes"][:2] == b"\xff\xd8" for image in table["image"])


def test_nothing_is_sent_twice(hub: HubServer, store):
    pushed(store.path, "--create")
    commits, sent = len(hub.repositories[REPOSITORY].commits), len(hub.uploaded)
    assert pushed(store.path)["sent"] == 0
    assert (len(hub.repositories[REPOSITORY].commits), len(hub.uploaded)) == (commits, sent)

    store.write_block(3, **block_arrays(store, 3, seed=1000))
    before = hub.files(REPOSITORY)
    report = pushed(store.path)
    after = hub.files(REPOSITORY)
    changed = {name for name in after if before.get(name) != after[name]}
    assert any(name.startswith("images/") for name in changed) and report["sent"] == len(changed)
    assert len(hub.uploaded) - sent == sum(not name.endswith((".json", ".md")) for name in changed)
    assert len(hub.repositories[REPOSITORY].commits) == commits + 1  # one: nobody sees half of the change


def test_what_the_store_no_longer_has_is_deleted_and_what_is_not_its_own_stays(hub: HubServer, store):
    store.add_column("score", np.arange(600.0))
    pushed(store.path, "--create")
    repository = hub.repositories[REPOSITORY]
    tree = repository.commits[repository.branches["main"]]
    repository.commit("main", {**tree, "LICENSE": tree["README.md"], "docs/more.md": tree["README.md"]})
    shutil.rmtree(Path(store.path) / "columns")
    pushed(store.path)
    added = {".gitattributes", "README.md", "preview/train-000000.parquet", "LICENSE", "docs/more.md"}
    assert hub.files(REPOSITORY).keys() == contents(Path(store.path)).keys() | added


def test_a_store_with_rounds_goes_there_and_comes_back_and_other_rounds_do_not(hub: HubServer, tmp_path):
    made = store_with_rounds(tmp_path / "s.zarr")
    shutil.copytree(made.path, tmp_path / "other.zarr")
    pushed(made.path, "--create")
    assert dmkd("pull", PLACE, tmp_path / "t.zarr").exit_code == 0
    copy = open_store(str(tmp_path / "t.zarr"))
    assert copy.lineage == made.lineage and dmkd("verify", copy.path).exit_code == 0
    add_round(made, 20)
    other = open_store(str(tmp_path / "other.zarr"))
    add_round(other, 20, b"another student")
    pushed(made.path)
    assert open_store(PLACE).lineage == made.lineage
    assert "Round 3 of the store at hf://" in refused("push", other.path, PLACE)
    add_round(made, 20)
    pushed(made.path)


def test_the_run_log_stays_at_home_unless_asked_for(hub: HubServer, store):
    with store.log_run(command="generate") as log:
        log.add_block(0, log.add_worker({"host": "secret-host"}), 1.0, 1.0)
    pushed(store.path, "--create")
    assert not any(b"secret-host" in content or "secret" in name for name, content in hub.files(REPOSITORY).items())
    pushed(store.path, "--runs")
    assert any(b"secret-host" in content for content in hub.files(REPOSITORY).values())
    pushed(store.path)
    assert not any(name.startswith("runs/") for name in hub.files(REPOSITORY))


def test_local_paths_in_what_is_published_are_told(hub: HubServer, store):
    store.chunks.tree.set_attributes({"source": "/home/me/my-dit"})
    assert "/home/me/my-dit" in dmkd("push", store.path, PLACE, "--create").output


def test_a_branch_and_a_tag(hub: HubServer, store):
    pushed(store.path, "--create")
    first = hub.repositories[REPOSITORY].branches["main"]
    store.write_block(3, **block_arrays(store, 3, seed=1000))
    second = pushed(store.path, "--tag", "v2", place=f"{PLACE}@next")["commit"]
    repository = hub.repositories[REPOSITORY]
    assert repository.branches == {"main": first, "next": second} and repository.tags == {"v2": second}
    assert pushed(store.path, "--tag", "v2", place=f"{PLACE}@next")["commit"] == second
    store.write_block(3, **block_arrays(store, 3, seed=1001))
    shutil.rmtree(Path(store.path) / "tags")
    assert "has a tag v2 already" in refused("push", store.path, f"{PLACE}@next", "--tag", "v2")
    assert repository.branches["next"] == second
    assert "names a tag" in refused("push", store.path, f"{PLACE}@v2")
    assert (open_store(f"{PLACE}@v2").images[[100]] != open_store(PLACE).images[[100]]).any()


def test_large_files_go_in_parts(hub: HubServer, store):
    hub.part_bytes = 1000
    pushed(store.path, "--create")
    assert max(size for _, size in hub.uploaded) == 1000
    assert contents(Path(store.path)).items() <= hub.files(REPOSITORY).items()


def test_a_killed_push_goes_on_where_it_was(hub: HubServer, store):
    hub.pause = 0.05
    process = subprocess.Popen([*COMMAND, "push", store.path, PLACE, "--create"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(hub.uploaded) < 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)  # what had arrived
    assert "zarr.json" not in hub.files(REPOSITORY)
    with pytest.raises(NotAStoreError, match="is not a dmkd store"):
        open_store(PLACE)
    hub.pause = 0.0
    pushed(store.path)
    assert contents(Path(store.path)).items() <= hub.files(REPOSITORY).items()
    assert len({oid for oid, _ in hub.uploaded}) == len(hub.uploaded)


def test_a_first_push_is_several_commits_of_which_the_last_has_the_root(hub: HubServer, store, monkeypatch):
    monkeypatch.setattr(hub_upload, "BATCH_FILES", 10)
    pushed(store.path, "--create")
    *before, last = hub.repositories[REPOSITORY].commits.values()
    assert len(before) > 5 and "zarr.json" in last and not any("zarr.json" in tree for tree in before)
    store.write_block(3, **block_arrays(store, 3, seed=1000))
    for block in range(10, 19):
        store.write_block(block, **block_arrays(store, block, seed=1000 + block))
    pushed(store.path)
    assert len(hub.repositories[REPOSITORY].commits) == len(before) + 2  # at once: there is a store to be read


def test_pull_gives_the_same_store(hub: HubServer, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pushed(store.path, "--create")
    result = dmkd("pull", PLACE)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "digits.zarr") == contents(Path(store.path))
    fetched = [name for name, _ in hub.downloaded if name != "zarr.json"]
    assert len(set(fetched)) == len(fetched) == len(contents(Path(store.path))) - 1
    assert "already exists" in refused("pull", PLACE)


def test_a_tag_is_the_stores_and_the_hubs_and_a_pull_is_held_to_it(hub: HubServer, store, tmp_path):
    pushed(store.path, "--create", "--tag", "v1")
    tag = read_tag(open_store(store.path), "v1")
    assert read_tag(open_store(f"{PLACE}@v1"), "v1").sha256 == tag.sha256
    store.write_block(3, **block_arrays(store, 3, seed=1000))
    assert "has another tag v1" in refused("push", store.path, PLACE, "--tag", "v1")
    pushed(store.path)  # under the store's tag, which no longer holds
    result = dmkd("pull", PLACE, tmp_path / "v1.zarr", "--tag", "v1")
    assert result.exit_code == 0, result.output
    message = refused("pull", f"{PLACE}@main", tmp_path / "main.zarr", "--tag", "v1", code=1)
    assert "is not what was tagged v1" in message and "block 3" in message
    assert "has no tag 'main'" in refused("pull", PLACE, tmp_path / "none.zarr", "--tag", "main")


def test_an_interrupted_pull_does_not_open_and_goes_on_with_its_commit(hub: HubServer, store, tmp_path):
    pushed(store.path, "--create")
    wanted = contents(Path(store.path))
    hub.pause = 0.1
    process = subprocess.Popen([*COMMAND, "pull", PLACE, tmp_path / "p.zarr"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(hub.downloaded) < 40:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(NotAStoreError, match="rerun the same `dmkd pull`"):
        open_store(tmp_path / "p.zarr")
    assert "was not pulled to its end" in refused("train-student", "--store", tmp_path / "p.zarr")
    hub.pause = 0.0
    done = len(contents(tmp_path / "p.zarr").keys() & wanted.keys())
    store.write_block(3, **block_arrays(store, 3, seed=1000))
    pushed(store.path)  # the branch moves on meanwhile
    fetched = len(hub.downloaded)
    assert "holds the beginning of" in refused("pull", f"{PLACE}@main", tmp_path / "p.zarr")
    assert dmkd("pull", PLACE, tmp_path / "p.zarr").exit_code == 0
    assert contents(tmp_path / "p.zarr") == wanted
    again = {name for name, _ in hub.downloaded[fetched:]}
    assert len(again) < len(wanted) and len(wanted) - len(again) >= done - 9  # but for files on the way, and the root


def test_a_file_that_comes_damaged_is_refused_and_fetched_again(hub: HubServer, store, tmp_path):
    pushed(store.path, "--create")
    name = next(name for name in hub.files(REPOSITORY) if name.startswith("images/3."))
    hub.falsify = {name}
    message = refused("pull", PLACE, tmp_path / "p.zarr", code=1)
    assert name in message and "did not come as it is on the hub" in message
    assert not (tmp_path / "p.zarr" / name).exists()
    hub.falsify = set()
    assert dmkd("pull", PLACE, tmp_path / "p.zarr").exit_code == 0
    assert contents(tmp_path / "p.zarr") == contents(Path(store.path))


def test_a_student_is_a_timm_model_on_the_hub(hub: HubServer, tmp_path):
    model = make_teacher(tmp_path / "model")
    (model / "README.md").write_text("---\nlibrary_name: timm\n---\n\n# A student\n")
    pushed(model, "--create", "--tag", "v1", place="hf://user/student")
    assert hub.files("models/user/student").keys() == {".gitattributes", *contents(model)}
    assert pushed(model, place="hf://user/student")["sent"] == 0
    code = (
        "import timm; print(sum(p.sum().item() for p in "
        "timm.create_model('hf-hub:user/student', pretrained=True).state_dict().values()))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    loaded = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    local = code.replace("hf-hub:user/student", f"local-dir:{model}")
    assert loaded.stdout == subprocess.run([sys.executable, "-c", local], capture_output=True, text=True).stdout != ""
    assert "hf-hub:user/student" in refused("pull", "hf://user/student", tmp_path / "x")


def test_what_can_not_be_pushed_is_refused_before_anything_is_sent(hub: HubServer, store, tmp_path, monkeypatch):
    other = filled_store(tmp_path / "other.zarr", num_images=64, recipe={"generator": "another", "seed": 0})
    empty = new_store(tmp_path / "empty.zarr")
    dmkd("convert", store.path, tmp_path / "s.h5")
    assert "add --create" in refused("push", store.path, PLACE)
    assert "is not a folder" in refused("push", tmp_path / "s.h5", PLACE, "--create")
    assert "names no repository" in refused("push", store.path, "hf://datasets/digits", "--create")
    assert "names no repository" in refused("push", store.path, "s3://bucket/digits", "--create")
    assert "There is no store" in refused("push", tmp_path / "none.zarr", PLACE, "--create")
    assert not hub.repositories
    assert "no images yet" in refused("push", empty.path, "hf://datasets/user/empty", "--create")
    pushed(store.path, "--create")
    commits = len(hub.repositories[REPOSITORY].commits)
    assert "differs from what was asked for" in refused("push", other.path, PLACE)
    assert "is public" in refused("push", store.path, PLACE, "--private")
    assert "--which is for students" in refused("push", store.path, PLACE, "--which", "best")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    store.write_block(3, **block_arrays(store, 3, seed=1000))
    assert "access is denied (403)" in refused("push", store.path, PLACE, code=1)
    monkeypatch.delenv("HF_TOKEN")
    assert "without a token" in refused("push", store.path, PLACE)
    assert len(hub.repositories[REPOSITORY].commits) == commits


def test_two_pushes_at_once_do_not_mix(hub: HubServer, store, tmp_path, monkeypatch):
    pushed(store.path, "--create")
    shutil.copytree(store.path, tmp_path / "t.zarr")
    store.write_block(3, **block_arrays(store, 3, seed=1000))
    repository, upload = hub.repositories[REPOSITORY], hub_upload.Branch.upload

    def overtaken(self, *arguments):
        repository.commit("main", {**repository.commits[repository.branches["main"]], "new.md": ("regular", "0")})
        upload(self, *arguments)

    monkeypatch.setattr(hub_upload.Branch, "upload", overtaken)
    assert "was changed by somebody else" in refused("push", store.path, PLACE, code=1)
