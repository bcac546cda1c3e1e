"""A generator of the user's own, from its file to labels: as the manual shows it, interrupted, on Ray, made again."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import tree_bytes

from dmkd.stores import open_store

pytestmark = pytest.mark.xdist_group("ray")

PAGE = (Path(__file__).parents[1] / "docs/recipes/own-generator.md").read_text()
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

# Digits that are told apart by their brightness, some milliseconds an image so that a process can be killed in time.
BARS = """
import hashlib, os, time
import numpy as np

class Bars:
    class_names = tuple("0123456789")
    image_size = 32
    cpu_sub_batch = 8

    def __init__(self, width):
        self.width = width
        self.sha256 = hashlib.sha256(b"bars").hexdigest()

    def sample(self, class_ids, seeds):
        time.sleep(float(os.environ.get("BARS_SECONDS", 0.02)))
        images = np.stack([np.random.default_rng(int(seed)).integers(0, 128, (32, 32, 3), np.uint8) for seed in seeds])
        for image, class_id in zip(images, class_ids):
            image[:, : self.width] += np.uint8(12 * class_id)
        return images

def make(device, width=4):
    return Bars(width)
"""


def dmkd(folder, *arguments):
    """A command that is run in a folder which Python itself does not look for modules in (-P)."""
    command = [sys.executable, "-P", "-m", "dmkd.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder, *arguments):
    process = dmkd(folder, *arguments)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out


def options(store, workers=0):
    # fmt: off
    return ["generate", "--store", str(store), "--generator", "bars:make", "--generator-arg", "width=9", "--images", "96",
            "--block-size", "8", "--teacher", "digits-resnet", "--views", "rrc:2", "--device", "cpu", "--workers", str(workers)]
    # fmt: on


def generate(folder, store, workers=0):
    return dmkd(folder, *options(store, workers))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "bars.py").write_text(BARS)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder):
    process = generate(folder, "whole.zarr")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return tree_bytes(folder / "whole.zarr")


def kill_after(folder, process, store, chunks):
    deadline = time.monotonic() + 400
    while len(list((folder / store).rglob("c.*"))) < chunks:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_the_manuals_example_works_as_it_stands_in_less_than_25_lines(tmp_path):
    assert len(EXAMPLE.splitlines()) < 25
    (tmp_path / "mygen.py").write_text(EXAMPLE)
    commands = [shlex.split(line, comments=True) for line in PAGE.splitlines() if line.startswith("    dmkd ")]
    assert len(commands) == 3
    for words in commands:
        run(tmp_path, *words[1:])
    store = open_store(tmp_path / "mine.zarr")
    assert store.class_names == ["cat", "dog", "bird"] and store.image_shape == (64, 64, 3)
    assert store.recipe["generator_args"] == {"contrast": 2} and not store.missing_blocks()
    assert len(np.unique(store.images[:3].reshape(3, -1), axis=0)) == 3


@pytest.mark.slow
def test_it_is_killed_and_goes_on_with_what_the_store_has_recorded(folder, uninterrupted):
    kill_after(folder, generate(folder, "killed.zarr"), "killed.zarr", 12)
    missing = open_store(folder / "killed.zarr").missing_blocks()
    assert missing
    run(folder, "generate", "--store", "killed.zarr", "--device", "cpu")
    assert tree_bytes(folder / "killed.zarr") == uninterrupted
    assert "made by   bars:make, width=9" in run(folder, "inspect", "killed.zarr")


RAY_ELSEWHERE = """
import os, sys, ray
from dmkd.cli.main import main
ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)  # its workers' folder is this one
os.chdir(sys.argv[1])
main(sys.argv[2:])
"""


@pytest.mark.slow
def test_two_ray_workers_make_the_bytes_that_one_process_makes(folder, uninterrupted, tmp_path):
    command = [sys.executable, "-P", "-c", RAY_ELSEWHERE, str(folder), *options(folder / "ray.zarr", workers=2)]
    slow = {**os.environ, "BARS_SECONDS": "1"}  # no worker has made everything before the other one is there
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=slow)
    assert done.returncode == 0, done.stderr
    assert tree_bytes(folder / "ray.zarr") == uninterrupted
    (made,) = open_store(folder / "ray.zarr").runs()
    assert len(made["workers"]) == 2


@pytest.mark.slow
def test_killed_ten_times_on_two_ray_workers_the_store_is_the_same(folder, uninterrupted):
    kills = 0
    for chunks in np.linspace(2, len(uninterrupted) - 16, 10).astype(int):
        kill_after(folder, generate(folder, "often.zarr", workers=2), "often.zarr", chunks)
        kills += bool(open_store(folder / "often.zarr").missing_blocks())
    assert kills == 10
    process = generate(folder, "often.zarr", workers=2)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert tree_bytes(folder / "often.zarr") == uninterrupted


def test_what_is_made_again_is_what_was_stored_and_other_code_is_found_out(folder, uninterrupted, tmp_path):
    whole = folder / "whole.zarr"
    again = run(folder, "verify", whole, "--regenerate", 1, "--device", "cpu")
    assert "96 images: 0.0000% of the values differ" in again
    (tmp_path / "bars.py").write_text(BARS.replace("12 * class_id", "9 * class_id"))
    process = dmkd(tmp_path, "verify", whole, "--regenerate", 1, "--device", "cpu")
    out, _ = process.communicate()
    assert process.returncode == 1 and "The generator makes other images than those stored" in out
    (tmp_path / "bars.py").unlink()
    process = dmkd(tmp_path, "verify", whole, "--regenerate", 1, "--device", "cpu")
    out, _ = process.communicate()
    assert process.returncode == 1 and "there is no module 'bars'" in " ".join(out.split())
