"""A store that can't be written is refused in one sentence, before a model is loaded or a block computed."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from PIL import Image

import dmkd.import_images
from dmkd.cli.main import main
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.import_images import ImportOptions, import_images
from dmkd.runtime.progress import Silent
from dmkd.stores.trees.hdf5_tree import Hdf5Tree
from dmkd.stores.trees.zarr_tree import ZarrTree

WRITES = ("create_group", "set_attributes", "create_array", "write_block", "delete_block", "resize")


@pytest.fixture(scope="module", params=["s.zarr", "s.h5"])
def made(request, tmp_path_factory, tiny_generator):
    """A store without labels."""
    path = str(tmp_path_factory.mktemp("made") / request.param)
    images = ImageOptions(str(tiny_generator), images=8, sampler="ddim", steps=1, block_size=8)
    return generate(path, images, LabelOptions(("none",)), RunOptions(0, "cpu"), Silent())[0].path


@pytest.fixture
def read_only(monkeypatch):
    access, statvfs = os.access, os.statvfs

    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def refuse_loading(*_, **__):
        raise AssertionError("a model was loaded")

    for verb in WRITES:
        monkeypatch.setattr(ZarrTree, verb, refuse)
        monkeypatch.setattr(Hdf5Tree, verb, refuse)
    monkeypatch.setattr(os, "access", lambda path, mode, **how: mode != os.W_OK and access(path, mode, **how))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=statvfs(path).f_flag | os.ST_RDONLY))
    monkeypatch.setattr("dmkd.classifiers.load._load", refuse_loading)
    monkeypatch.setattr("dmkd.making.blocks.load_generator", refuse_loading)


@pytest.mark.parametrize("command", ["label", "generate", "generate --images 16"])
def test_nothing_is_loaded_for_a_store_that_can_not_be_written(made, read_only, tiny_teacher, command):
    done = CliRunner().invoke(main, [*command.split(), "--store", made, "--teacher", str(tiny_teacher)])
    assert done.exit_code == 1, done.output
    assert f"Could not write {made}: the file system is read-only" in done.stderr and "unexpected" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def picture_folder(folder):
    for number in range(4):
        (folder / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"class{number % 2}/{number}.png")
    return folder


def test_an_import_that_can_not_be_written_is_refused_before_the_source_is_read(tmp_path, monkeypatch, request):
    pictures = picture_folder(tmp_path / "pictures")
    path = str(tmp_path / "s.zarr")
    import_images(path, str(pictures), ImportOptions(), Silent())
    request.getfixturevalue("read_only")
    monkeypatch.setattr(dmkd.import_images, "find_images", lambda *_: pytest.fail("the source was read"))
    done = CliRunner().invoke(main, ["import", str(pictures), "--store", path])
    assert done.exit_code == 1 and "the file system is read-only" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_process_without_permission_says_so(tmp_path, tiny_teacher):
    path = str(tmp_path / "s.zarr")
    import_images(path, str(picture_folder(tmp_path / "pictures")), ImportOptions(), Silent())
    subprocess.run(["chmod", "-R", "a-w", path], check=True)
    command = [sys.executable, "-m", "dmkd.cli.main", "label", "--store", path, "--teacher", str(tiny_teacher)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    subprocess.run(["chmod", "-R", "u+w", path], check=True)
    assert done.returncode == 1 and "no permission to write" in done.stderr and "unexpected" not in done.stderr
