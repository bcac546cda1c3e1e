"""Maps of files: there as long as they are used, whatever becomes of the file, and without a descriptor each."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import filled_store

from dmkd.stores.packing import pack
from dmkd.stores.trees.mapping import map_file, map_part


def maps_of(path):
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_part_is_mapped_until_nobody_uses_it_and_can_not_be_written(tmp_path):
    file = tmp_path / "file"
    content = np.random.default_rng(0).integers(0, 256, 10_000, np.uint8)
    file.write_bytes(content.tobytes())
    with open(file, "rb") as opened:
        part = map_part(opened.fileno(), 5_001, 3_000)
    view = part[10:20].view(np.uint16)
    whole = map_file(str(file))
    np.testing.assert_array_equal(whole, content)
    np.testing.assert_array_equal(part, content[5_001:8_001])
    with pytest.raises(ValueError, match="read-only"):
        part[0] = 1
    assert maps_of(file) == 2
    del part, whole
    gc.collect()
    assert maps_of(file) == 1
    np.testing.assert_array_equal(view.view(np.uint8), content[5_011:5_021])
    os.unlink(file)
    np.testing.assert_array_equal(view.view(np.uint8), content[5_011:5_021])
    del view
    gc.collect()
    assert maps_of(file) == 0


def test_what_is_not_there_is_said(tmp_path):
    assert map_file(str(tmp_path / "nothing")) is None
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ValueError, match="too short"):
        map_file(str(tmp_path / "empty"))
    (tmp_path / "short").write_bytes(b"abc")
    with open(tmp_path / "short", "rb") as opened, pytest.raises(ValueError, match="too short"):
        map_part(opened.fileno(), 1, 3)


@pytest.mark.parametrize("packed", [False, True])
def test_a_store_has_more_blocks_than_a_process_may_open_files(tmp_path, packed):
    store = filled_store(tmp_path / "s.zarr", num_images=1600)  # 100 blocks
    if packed:
        pack(store)
    program = (
        "import resource, sys; import dmkd, torch\n"
        "from dmkd.loading import Loader\n"
        "loader = Loader(dmkd.open_store(sys.argv[1]), labels={'teacher': 1.0}, batch_size=100, memory=0, threads=1)\n"
        "assert set(loader.places.values()) == {'mapped', 'memory'}, loader.places\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "print(sum(len(batch) for epoch in range(2) for batch in loader.epoch(epoch)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, store.path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.split() == ["3200"], done.stderr[-2000:]
