"""A Ray cluster of several nodes on this machine: one joins late, one is killed. Minutes; `make test-slow`."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tree_bytes

from dmkd.stores import open_store

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    yield cluster
    cluster.shutdown()


def add_node(cluster):
    return cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)


def generate(path: Path, generator, teacher, *more) -> subprocess.Popen:
    # fmt: off
    command = [sys.executable, "-m", "dmkd.cli.main", "generate", "--store", path, "--generator", generator,
               "--teacher", teacher, "--images", 480, "--block-size", 8, "--steps", 20, "--sampler", "ddpm",
               "--views", "rrc:2", "--device", "cpu", *more]
    # fmt: on
    return subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, timeout=300):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_node_that_joins_late_gets_work_and_one_that_is_killed_loses_nothing(
    cluster, tiny_generator, tiny_teacher, tmp_path
):
    calm, path = tmp_path / "calm.zarr", tmp_path / "s.zarr"
    assert generate(calm, tiny_generator, tiny_teacher).wait() == 0

    address = ["--ray-address", cluster.address]
    process = generate(path, tiny_generator, tiny_teacher, *address, "--workers", 2)
    time.sleep(5)  # it waits: the cluster has no room at all yet
    assert process.poll() is None
    first = add_node(cluster)
    wait_for(lambda: len(list(path.rglob("images/c.*"))) >= 4, process)
    add_node(cluster)
    wait_for(lambda: len(open_store(path).runs()[0]["workers"]) == 2 if open_store(path).runs() else False, process)
    before = len(open_store(path).missing_blocks())
    assert before > 5, "too fast: nothing left to do when the second worker came"
    cluster.remove_node(first, allow_graceful=False)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "Worker w0 is gone" in errors
    assert tree_bytes(path) == tree_bytes(calm)
    (run,) = open_store(path).runs()
    assert {row[1] for row in run["blocks"]} == {"w0", "w1"} and len(run["blocks"]) == 60


def test_without_workers_a_cluster_of_cpus_asks_how_many(cluster, tiny_generator, tiny_teacher, tmp_path):
    process = generate(tmp_path / "s.zarr", tiny_generator, tiny_teacher, "--ray-address", cluster.address)
    assert process.wait() == 2
    assert "say how many actors are to work: --workers N" in process.communicate()[1]
    assert not (tmp_path / "s.zarr").exists()


def test_an_address_where_nobody_listens_is_told(tiny_generator, tiny_teacher, tmp_path):
    process = generate(
        tmp_path / "s.zarr", tiny_generator, tiny_teacher, "--ray-address", "127.0.0.1:1", "--workers", 1
    )
    _, errors = process.communicate()
    assert process.returncode == 2 and "There is no Ray cluster at --ray-address 127.0.0.1:1" in errors
