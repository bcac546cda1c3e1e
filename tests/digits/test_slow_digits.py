"""The demo's own size, for real: ten kills, two Ray workers, one store. Minutes; `make test-slow`."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tree_bytes

from dmkd.stores import open_store

pytestmark = pytest.mark.slow


def generate(path: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "dmkd.cli.main", "generate", "--store", str(path), "--generator", "digits", *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("uninterrupted") / "digits.zarr"
    finish(generate(path))
    return tree_bytes(path)


def test_ten_kills_at_random_moments_lose_nothing(uninterrupted, tmp_path):
    path, rng = tmp_path / "digits.zarr", random.Random()
    done_at_kill = []
    for _ in range(10):
        process = generate(path)
        begun = len(list(path.rglob("images/c.*")))
        while process.poll() is None and len(list(path.rglob("images/c.*"))) < begun + 1 and rng.random() > 0.001:
            time.sleep(0.02)  # into the work; now and then killed while it still starts
        time.sleep(rng.random() * 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done_at_kill.append(len(list(path.rglob("images/c.*"))))
    assert done_at_kill == sorted(done_at_kill), "no block that was done is ever lost"
    finish(generate(path))
    print(f"image chunks after each kill: {done_at_kill}")
    assert open_store(path).missing_blocks() == []
    assert tree_bytes(path) == uninterrupted


def test_two_ray_workers_make_the_same_store(uninterrupted, tmp_path):
    finish(generate(tmp_path / "digits.zarr", "--workers", "2"))
    assert tree_bytes(tmp_path / "digits.zarr") == uninterrupted
