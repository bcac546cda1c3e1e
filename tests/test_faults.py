"""Real processes, killed for real: what they leave behind is whole, and the same command goes on from there."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tree_bytes
from fake_orders import fake_store

from dmkd.stores import open_store

pytestmark = pytest.mark.xdist_group("ray")


def dmkd(*arguments, **options):
    command = [sys.executable, "-m", "dmkd.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for_chunks(path, count, process, timeout=400):
    """Wait until a running process has written so many chunks."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(path.rglob("c.*"))) >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"the process ended or stalled: {process.communicate()[1]}")


def generate(path, generator, teacher):
    # fmt: off
    return dmkd("generate", "--store", path, "--generator", generator, "--teacher", teacher, "--images", 96,
                "--block-size", 8, "--steps", 4, "--sampler", "ddpm", "--views", "rrc:2", "--device", "cpu")
    # fmt: on


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_generator, tiny_teacher):
    path = tmp_path_factory.mktemp("uninterrupted") / "s.zarr"
    process = generate(path, tiny_generator, tiny_teacher)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return tree_bytes(path)


def test_killed_at_any_moment_and_started_again_the_store_is_the_same(
    uninterrupted, tiny_generator, tiny_teacher, tmp_path
):
    path, rng = tmp_path / "s.zarr", random.Random(0)
    for chunks in (1, 17, 38):  # in the first block, and further on; then a moment more
        process = generate(path, tiny_generator, tiny_teacher)
        wait_for_chunks(path, chunks, process)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(open_store(path).missing_blocks()) > 0
    process = generate(path, tiny_generator, tiny_teacher)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert tree_bytes(path) == uninterrupted
    assert not list(path.rglob("*.partial"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_by_the_user_it_finishes_what_is_in_hand_and_says_how_to_resume(
    uninterrupted, tiny_generator, tiny_teacher, tmp_path, number, code
):
    path = tmp_path / "s.zarr"
    process = generate(path, tiny_generator, tiny_teacher)
    wait_for_chunks(path, 6, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == code, errors
    assert "in progress; press Ctrl-C again to stop at once" in errors
    assert "rerun the same command to resume" in errors and "Traceback" not in errors
    store = open_store(path)
    assert 0 < len(store.missing_blocks()) < store.num_blocks
    assert store.labels["tiny-resnet"].missing_blocks() == store.missing_blocks()
    assert not list(path.rglob("*.partial"))
    assert store.runs()[0]["outcome"] == "interrupted"
    assert set(tree_bytes(path).items()) <= set(uninterrupted.items())


# A driver of Ray actors, with fakes that take no time to load


def fake_driver(path, folder, workers):
    script = str(Path(__file__).with_name("fake_orders.py"))
    command = [sys.executable, script, str(path), str(folder), str(workers)]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}  # as `python -m` would find it
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=here, start_new_session=True)


@pytest.fixture(scope="module")
def made_by_fakes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fakes")
    process = fake_driver(folder / "s.zarr", folder, 0)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return tree_bytes(folder / "s.zarr")


def finish_in_process(path, folder, expected):
    process = fake_driver(path, folder, 0)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert tree_bytes(path) == expected


@pytest.mark.slow
def test_interrupted_on_ray_the_actors_finish_what_is_in_hand(made_by_fakes, tmp_path):
    path = tmp_path / "s.zarr"
    process = fake_driver(path, tmp_path, 2)
    wait_for_chunks(path, 6, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to Ray's processes too
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "in progress; press Ctrl-C again to stop at once" in errors
    store = open_store(path)
    assert 0 < len(store.missing_blocks()) < store.num_blocks
    (run,) = store.runs()
    assert run["outcome"] == "interrupted"
    assert len(run["blocks"]) == store.num_blocks - len(store.missing_blocks()), "each was waited for"
    finish_in_process(path, tmp_path, made_by_fakes)


@pytest.mark.slow
def test_a_driver_that_is_killed_takes_its_actors_with_it_and_nothing_is_lost(made_by_fakes, tmp_path):
    path = tmp_path / "s.zarr"
    process = fake_driver(path, tmp_path, 2)
    wait_for_chunks(path, 6, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(open_store(path).missing_blocks()) > 0
    (run,) = open_store(path).runs()
    assert run["outcome"] == "running"
    workers = [worker["pid"] for worker in run["workers"].values()]
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]
    finish_in_process(path, tmp_path, made_by_fakes)


@pytest.mark.slow
def test_when_ray_itself_is_killed_the_driver_ends_and_says_so(tmp_path):
    path = tmp_path / "s.zarr"
    fake_store(path, num_images=2000)  # more than the actors make before they hear of it
    process = fake_driver(path, tmp_path, 2)
    wait_for_chunks(path, 6, process)
    (raylet,) = subprocess.run(["pgrep", "-x", "raylet", "-P", str(process.pid)], stdout=subprocess.PIPE).stdout.split()
    os.kill(int(raylet), signal.SIGKILL)
    try:
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()  # takes the rest of its Ray with it
    assert process.returncode == 1
    assert "Ray has died on this machine" in errors
    assert len(open_store(path).missing_blocks()) > 0


def test_a_store_that_can_not_be_written_is_told(tiny_generator, tiny_teacher, tmp_path):
    def limit():  # every file larger than a kilobyte fails, as on a full disk
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "dmkd.cli.main", "generate", "--store", str(tmp_path / "s.zarr")]
    command += ["--generator", str(tiny_generator), "--teacher", str(tiny_teacher), "--images", "16", "--steps", "2"]
    command += ["--block-size", "8", "--views", "center", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    assert "Could not write" in done.stderr and "Rerun the same command" in done.stderr
    assert "Traceback" not in done.stderr
    assert open_store(tmp_path / "s.zarr").missing_blocks() == [0, 1]
