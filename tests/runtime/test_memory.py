"""Memory that is freed is kept for the next use, on glibc, and nothing else changes."""

import os
import platform
import subprocess
import sys

import pytest
from conftest import tree_bytes

# A user's own setting turns ours off; this one is glibc's default.
OFF = {"MALLOC_TOP_PAD_": "131072"}

CHURN = """
import resource, numpy as np
from dmkd.runtime.devices import make_deterministic
make_deterministic("cpu", 1)
for _ in range(20):
    arrays = [np.ones(2**20) for _ in range(10)]  # 8 MiB each
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def python(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_memory_is_used_again():
    kept, returned = (int(python("-c", CHURN, **environment)) for environment in ({}, OFF))
    assert returned - kept > 50_000, "page faults: 20 rounds of 80 MiB are 400,000 pages, fewer where pages are huge"


@pytest.mark.slow
def test_labels_are_the_same_to_the_bit(tiny_generator, tiny_teacher, tmp_path):
    for name, environment in (("kept.zarr", {}), ("returned.zarr", OFF)):
        # fmt: off
        python("-m", "dmkd.cli.main", "generate", "--store", str(tmp_path / name), "--generator", str(tiny_generator),
               "--teacher", str(tiny_teacher), "--images", "16", "--steps", "2", "--views", "rrc:2", "--device", "cpu",
               **environment)
        # fmt: on
    assert tree_bytes(tmp_path / "kept.zarr") == tree_bytes(tmp_path / "returned.zarr")
