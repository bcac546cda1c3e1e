"""Ray actors make what one process makes, and outlive what happens to them. One Ray session for all tests."""

import os
import signal
import threading
import time

import pytest
from conftest import TESTS, make_teacher, tree_bytes
from fake_orders import FakeOrder, fake_store

import dmkd.engine.scheduler
from dmkd.engine.sharing import Todo
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.runtime.progress import Silent
from dmkd.stores import DmkdError, MismatchError, open_store
from dmkd.stores.convert import convert

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module", autouse=True)
def ray_session():
    import ray

    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    # fmt: off
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20,
             runtime_env={"env_vars": {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}})
    # fmt: on
    yield ray
    ray.shutdown()


def make(path, generator, teacher, workers, images=64, display=None):
    options = ImageOptions(generator=str(generator), images=images, sampler="ddpm", steps=3, block_size=8)
    run = RunOptions(workers=workers, device="cpu")
    return generate(str(path), options, LabelOptions((str(teacher),), "rrc:2"), run, display or Silent())[0]


@pytest.fixture(scope="module")
def in_process(tmp_path_factory, tiny_generator, tiny_teacher):
    path = tmp_path_factory.mktemp("in-process") / "s.zarr"
    make(path, tiny_generator, tiny_teacher, workers=0)
    return tree_bytes(path)


def test_two_actors_make_the_bytes_that_one_process_makes(in_process, tiny_generator, tiny_teacher, tmp_path):
    make(tmp_path / "s.zarr", tiny_generator, tiny_teacher, workers=2)
    assert tree_bytes(tmp_path / "s.zarr") == in_process


@pytest.mark.slow
def test_one_actor_writes_the_hdf5_file_that_two_make(tiny_generator, tiny_teacher, tmp_path, in_process):
    made = make(tmp_path / "s.h5", tiny_generator, tiny_teacher, workers=2)
    convert(made, str(tmp_path / "s.zarr"))
    assert tree_bytes(tmp_path / "s.zarr") == in_process
    run = RunOptions(workers=2, device="cpu")
    labelled, _ = label(made.path, LabelOptions((str(tiny_teacher),), name="again", codec="uint8"), run, Silent())
    assert labelled.labels["again"].missing_blocks() == [] and len(labelled.runs()) == 2


def test_an_actor_that_is_killed_is_replaced_and_nothing_is_lost(in_process, tiny_generator, tiny_teacher, tmp_path):
    path, killed = tmp_path / "s.zarr", []

    def kill_when_begun():
        while len(list(path.rglob("images/c.*"))) < 2:
            time.sleep(0.01)
        for pid in ray_worker_pids():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return

    watcher = threading.Thread(target=kill_when_begun)
    watcher.start()
    make(path, tiny_generator, tiny_teacher, workers=2)
    watcher.join()
    assert killed
    assert tree_bytes(path) == in_process


def ray_worker_pids():
    """Processes that hold a RayBlockWorker."""
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    if b"ray::RayBlockWorker" in file.read():
                        pids.append(int(entry))
            except OSError:
                continue
    return pids


@pytest.mark.slow
def test_labels_too_are_made_by_actors(in_process, tiny_generator, tiny_teacher, tmp_path):
    options = ImageOptions(generator=str(tiny_generator), images=64, sampler="ddpm", steps=3, block_size=8)
    here = RunOptions(workers=0, device="cpu")
    generate(str(tmp_path / "s.zarr"), options, LabelOptions(("none",)), here, Silent())
    two = RunOptions(workers=2, device="cpu")
    label(str(tmp_path / "s.zarr"), LabelOptions((str(tiny_teacher),), "rrc:2"), two, Silent())
    assert tree_bytes(tmp_path / "s.zarr") == in_process


def test_an_actor_that_can_not_start_ends_the_run_with_its_reason(tiny_generator, tmp_path):
    make_teacher(tmp_path / "teacher")
    make(tmp_path / "s.zarr", tiny_generator, tmp_path / "teacher", workers=0, images=16)
    make_teacher(tmp_path / "teacher", seed=3)
    (tmp_path / "s.zarr/labels/teacher/logits/c.1.0.0").unlink()
    run = RunOptions(workers=1, device="cpu")
    with pytest.raises(MismatchError, match="weights of teacher .* have changed"):
        label(str(tmp_path / "s.zarr"), LabelOptions(), run, Silent())


def test_a_block_that_always_fails_is_set_aside_and_the_others_are_made(
    tiny_generator, tiny_teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr(dmkd.engine.scheduler, "BACK_OFF_SECONDS", 0.0)
    path = tmp_path / "s.zarr"
    make(path, tiny_generator, tiny_teacher, workers=0, images=32)
    damaged = path / "images/c.1.0.0.0"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    for block in range(4):
        (path / f"labels/tiny-resnet/logits/c.{block}.0.0").unlink()
    with pytest.raises(DmkdError, match="block 1 because of Chunk .* is damaged"):
        label(str(path), LabelOptions(), RunOptions(workers=2, device="cpu"), Silent())
    assert open_store(path).labels["tiny-resnet"].missing_blocks() == [1]


@pytest.mark.slow
def test_models_that_can_not_be_loaded_end_the_run_after_some_tries(tiny_generator, tmp_path):
    make_teacher(tmp_path / "teacher")
    make(tmp_path / "s.zarr", tiny_generator, tmp_path / "teacher", workers=0, images=16)
    (tmp_path / "teacher/model.safetensors").write_bytes(b"no weights")
    (tmp_path / "s.zarr/labels/teacher/logits/c.1.0.0").unlink()
    with pytest.raises(DmkdError, match="the workers could not start, 3 times in a row.*could not be loaded"):
        label(str(tmp_path / "s.zarr"), LabelOptions(), RunOptions(workers=1, device="cpu"), Silent())


# Faults of workers, with fakes that take no time to load


class Notices(Silent):
    def __init__(self):
        self.texts = []

    def notice(self, text):
        self.texts.append(text)


def run_fakes(tmp_path, workers=2, num_images=64, name="s.zarr", **order):
    from dmkd.engine.engine import Engine

    store, told = fake_store(tmp_path / name, num_images), Notices()
    with Engine(store, RunOptions(workers=workers), "cpu", told, "test", {}) as engine:
        engine.run(FakeOrder(store.path, str(tmp_path), **order), Todo(store.missing_blocks), "test")
    return store, told.texts


def test_a_block_that_kills_its_worker_is_set_aside_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(dmkd.engine.scheduler, "BACK_OFF_SECONDS", 0.01)
    with pytest.raises(DmkdError, match=r"1 blocks .* left out \(5\)"):
        run_fakes(tmp_path, trouble={5: "kill"})
    store = open_store(tmp_path / "s.zarr")
    assert store.missing_blocks() == [5]
    (run,) = store.runs()
    assert len(run["workers"]) >= 4 and len({worker["pid"] for worker in run["workers"].values()}) >= 4
    assert sorted(row[0] for row in run["blocks"]) == [block for block in range(16) if block != 5]


def test_a_worker_that_lost_its_device_is_replaced_by_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(dmkd.engine.scheduler, "BACK_OFF_SECONDS", 0.01)
    store, notices = run_fakes(tmp_path, workers=1, trouble={5: "device lost"}, once=True)
    assert store.missing_blocks() == []
    assert "Block 5 failed on w0 (AcceleratorError: CUDA error: an illegal memory access" in notices[0]
    assert "Worker w0 is gone" in notices[1]
    (run,) = store.runs()
    assert len({worker["pid"] for worker in run["workers"].values()}) == 2


def test_workers_for_which_there_is_no_room_hold_nothing_up(tmp_path):
    store, notices = run_fakes(tmp_path, workers=5)  # the session has two places
    assert store.missing_blocks() == []
    assert [notice for notice in notices if not notice.startswith("More workers (5) than cores")] == []
    assert len(store.runs()[0]["workers"]) <= 2


def test_a_start_that_fails_is_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(dmkd.engine.scheduler, "BACK_OFF_SECONDS", 0.01)
    store, notices = run_fakes(tmp_path, failing_starts=2)
    assert store.missing_blocks() == []
    assert notices == ["A worker could not start: RuntimeError: the weights are on their way."] * 2
    failures = store.runs()[0]["failures"]
    assert failures["count"] == 2 and {(one["block"], one["worker"]) for one in failures["last"]} == {(None, None)}


def test_one_process_writes_a_store_that_is_one_file_for_all_workers(tmp_path):
    store, notices = run_fakes(tmp_path, name="s.h5", seconds=(0.0, 0.5, 0.0))
    assert store.missing_blocks() == [] and notices == [] and store.images[17].max() == 17
    assert len(store.runs()[0]["workers"]) == 2 and (tmp_path / "writer").exists()


def test_a_block_is_written_while_the_next_is_made(tmp_path):
    store, _ = run_fakes(tmp_path, workers=1, num_images=40, seconds=(0.0, 0.4, 0.4))
    finished = [row[4] for row in store.runs()[0]["blocks"]]
    assert finished[-1] - finished[0] < 9 * 0.7, "9 blocks of 0.8 seconds each, one after the other"
