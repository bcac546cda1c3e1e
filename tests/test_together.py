"""Real commands on one store at the same time, and labelling where images are missing."""

import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from conftest import tree_bytes

from dmkd.cli.main import main
from dmkd.stores import open_store
from dmkd.stores.at_work import RunsAtWork


def dmkd(*arguments):
    command = [sys.executable, "-m", "dmkd.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def generate(path, generator, images, *, steps=200):
    # fmt: off
    return dmkd("generate", "--store", path, "--generator", generator, "--teacher", "none", "--images", images,
                "--block-size", 8, "--steps", steps, "--sampler", "ddim", "--device", "cpu")
    # fmt: on


def finish(process):
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return errors


def label(path, teacher):
    return dmkd("label", "--store", path, "--teacher", teacher, "--views", "rrc:1", "--device", "cpu")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_generator, tiny_teacher):
    """The chunks of a store that one process made after the other."""
    path = tmp_path_factory.mktemp("alone") / "s.zarr"
    finish(generate(path, tiny_generator, 96))
    finish(label(path, tiny_teacher))
    return tree_bytes(path)


def wait_until_at_work(path, process):
    while process.poll() is None and not (path / "runs").exists():
        time.sleep(0.05)
    while process.poll() is None and not RunsAtWork(open_store(str(path)).chunks.tree).besides(""):
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]


@pytest.mark.slow
def test_a_second_generate_shares_the_work_and_label_follows_both(alone, tiny_generator, tiny_teacher, tmp_path):
    path = tmp_path / "s.zarr"
    first = generate(path, tiny_generator, 96)
    wait_until_at_work(path, first)
    second, labelling = generate(path, tiny_generator, 96), label(path, tiny_teacher)
    told = [finish(process) for process in (first, second, labelling)]
    assert tree_bytes(path) == alone
    store = open_store(str(path))
    blocks = [row[0] for run in store.runs() if run["command"] == "generate" for row in run["blocks"]]
    assert set(blocks) == set(range(12)) and len(blocks) <= 12 + 5, "twice only what both had in hand"
    assert "96/96 images" in told[2]
    assert "not there yet" not in told[2]


def test_labelling_says_what_has_no_images_and_counts_what_it_labels(tiny_generator, tiny_teacher, tmp_path):
    path = tmp_path / "s.zarr"
    finish(generate(path, tiny_generator, 40, steps=1))
    store = open_store(str(path))
    store.grow(96)
    arguments = ["label", "--store", str(path), "--teacher", str(tiny_teacher), "--views", "rrc:1", "--device", "cpu"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "40/40 images" in done.stderr and "/96 images" not in done.stderr
    assert (
        "56 of 96 images are not there yet" in done.stderr and "run `dmkd generate`, then `dmkd label`" in done.stderr
    )
