"""Ray actors make what one process makes, and outlive what happens to them. One Ray session for all tests."""

import os
import signal
import threading
import time

import pytest
from conftest import make_teacher, tree_bytes

import dmkd.dispatch
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.progress import Silent
from dmkd.stores import MismatchError, open_store


@pytest.fixture(scope="module", autouse=True)
def ray_session():
    import ray

    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    # fmt: off
    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20,
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
    from dmkd.stores import DmkdError

    monkeypatch.setattr(dmkd.dispatch, "BACK_OFF_SECONDS", 0.0)
    path = tmp_path / "s.zarr"
    make(path, tiny_generator, tiny_teacher, workers=0, images=32)
    damaged = path / "images/c.1.0.0.0"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    for block in range(4):
        (path / f"labels/tiny-resnet/logits/c.{block}.0.0").unlink()
    with pytest.raises(DmkdError, match="block 1 because of Chunk .* is damaged"):
        label(str(path), LabelOptions(), RunOptions(workers=2, device="cpu"), Silent())
    assert open_store(path).labels["tiny-resnet"].missing_blocks() == [1]


def test_models_that_can_not_be_loaded_end_the_run_after_some_tries(tiny_generator, tmp_path):
    from dmkd.stores import DmkdError

    make_teacher(tmp_path / "teacher")
    make(tmp_path / "s.zarr", tiny_generator, tmp_path / "teacher", workers=0, images=16)
    (tmp_path / "teacher/model.safetensors").write_bytes(b"no weights")
    (tmp_path / "s.zarr/labels/teacher/logits/c.1.0.0").unlink()
    with pytest.raises(DmkdError, match="the workers could not start, 3 times in a row.*could not be loaded"):
        label(str(tmp_path / "s.zarr"), LabelOptions(), RunOptions(workers=1, device="cpu"), Silent())
