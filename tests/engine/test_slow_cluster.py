"""A Ray cluster of several nodes on this machine: one joins late, one is killed. Minutes; `make test-slow`."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TESTS, tree_bytes

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


def generate(path: Path, *more) -> subprocess.Popen:
    command = [sys.executable, "-m", "dmkd.cli.main", "generate", "--store", path, "--generator", "digits", *more]
    return subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)


def fake_driver(path: Path, *more) -> subprocess.Popen:
    script = TESTS / "fake_orders.py"
    command = [sys.executable, str(script), str(path), str(path.parent), *map(str, more)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, timeout=300):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_node_that_joins_late_gets_work_and_one_that_is_killed_loses_nothing(cluster, tmp_path):
    calm = filled_by_one_process(tmp_path)
    path = tmp_path / "s.zarr"
    process = fake_driver(path, 2, cluster.address, 1200)
    wait_for(path.exists, process)
    time.sleep(5)  # it waits: the cluster has no room at all yet
    assert process.poll() is None and not open_store(path).runs()
    first = add_node(cluster)
    wait_for(lambda: len(list(path.rglob("images/c.*"))) >= 4, process)
    add_node(cluster)
    wait_for(lambda: len(open_store(path).runs()[0]["workers"]) == 2, process)
    assert len(open_store(path).missing_blocks()) > 10, "too fast: little was left when the second worker came"
    cluster.remove_node(first, allow_graceful=False)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "Worker w0 is gone" in errors
    assert tree_bytes(path) == calm
    (run,) = open_store(path).runs()
    assert {row[1] for row in run["blocks"]} == {"w0", "w1"} and len(run["blocks"]) == 300


def filled_by_one_process(folder):
    """The bytes of the same store, calmly made: a fake makes image i of i alone, whatever happens."""
    process = fake_driver(folder / "calm.zarr", 0, "", 1200)
    assert process.wait() == 0, process.communicate()[1]
    return tree_bytes(folder / "calm.zarr")


def test_without_workers_a_cluster_of_cpus_asks_how_many(cluster, tmp_path):
    process = generate(tmp_path / "s.zarr", "--ray-address", cluster.address)
    assert process.wait() == 2
    assert "say how many actors are to work: --workers N" in process.communicate()[1]
    assert not (tmp_path / "s.zarr").exists()


def test_an_address_where_nobody_listens_is_told(tmp_path):
    process = generate(tmp_path / "s.zarr", "--ray-address", "127.0.0.1:1")
    _, errors = process.communicate()
    assert process.returncode == 2 and "There is no Ray cluster at --ray-address 127.0.0.1:1" in errors
