"""What is no store, or no store any more, is told in one sentence by every command that looks at one."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import filled_store
from PIL import Image

from dmkd.cli.main import main

COMMANDS = {
    "inspect": ["inspect", "{path}"],
    "inspect --json": ["inspect", "--store", "{path}", "--json"],
    "view": ["view", "{path}", "--out", "sheet.png"],
    "card": ["card", "{path}"],
    "verify": ["verify", "{path}"],
    "verify --repair": ["verify", "{path}", "--repair"],
    "evaluate": ["evaluate", "digits-resnet", "--data", "{path}", "--device", "cpu"],
    "evaluate a model there": ["evaluate", "{path}", "--data", "digits", "--device", "cpu"],
}


def nothing(path):
    pass


def text_file(path):
    path.write_text("hello")


def empty_folder(path):
    path.mkdir()


def images(path):
    path.mkdir()
    for number in range(3):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path / f"{number}.png")


def image_folders(path):
    for name in ("cats", "dogs"):
        images_of_class = path / name
        path.mkdir(exist_ok=True)
        images(images_of_class)


def cut_off_root(path):
    filled_store(path, num_images=32)
    cut(path / "zarr.json")


def empty_root(path):
    filled_store(path, num_images=32)
    (path / "zarr.json").write_text("")


def no_attributes(path):
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')


def an_array(path):
    path.mkdir()
    store = filled_store(path / "inner", num_images=32)
    path.joinpath("zarr.json").write_text((Path(store.path) / "images/zarr.json").read_text())


def cut(file):
    file.write_text(file.read_text()[:40])


PLACES = [nothing, text_file, empty_folder, images, image_folders, cut_off_root, empty_root, no_attributes, an_array]
# A contact sheet of classes draws no views; measuring a model on a store's images needs neither views nor labels.
NOT_NEEDED = [("view", "views/views"), ("evaluate", "views/views"), ("evaluate", "labels/teacher")]
URLS = ["http://example.org/s.zarr", "https://example.org/s.h5", "file:///s.zarr", "s3://"]


def dmkd(command, path):
    return CliRunner().invoke(main, [word.format(path=path) for word in COMMANDS[command]])


def files(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def check(done, sentence=""):
    assert done.exit_code in (1, 2), done.output
    told = done.stderr.splitlines()
    errors = [line for line in told if line.startswith("Error: ")]
    assert len(errors) == 1 and "unexpected" not in errors[0] and "Traceback" not in done.output
    assert sentence in errors[0]


@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_store_is_told_in_one_sentence(tmp_path, monkeypatch, command, make):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "s.zarr")
    before = files(tmp_path)
    check(dmkd(command, "s.zarr"))
    assert files(tmp_path) == before


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_url_is_no_store(tmp_path, monkeypatch, command, url):
    monkeypatch.chdir(tmp_path)
    check(dmkd(command, url))
    assert files(tmp_path) == {}


STORE_COMMANDS = [command for command in COMMANDS if "model" not in command]


@pytest.mark.parametrize("make", [cut_off_root, empty_root], ids=lambda make: make.__name__)
@pytest.mark.parametrize("command", STORE_COMMANDS)
def test_a_store_whose_metadata_is_cut_off_is_damaged(tmp_path, monkeypatch, command, make):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "s.zarr")
    done = dmkd(command, "s.zarr")
    check(done, "s.zarr/zarr.json is damaged (")
    assert done.exit_code == 1


@pytest.mark.parametrize("node", ["images", "views/views", "labels/teacher"])
@pytest.mark.parametrize("command", STORE_COMMANDS)
def test_metadata_below_the_root_that_is_cut_off_is_told_where_it_is_needed(tmp_path, monkeypatch, command, node):
    monkeypatch.chdir(tmp_path)
    filled_store(tmp_path / "s.zarr", num_images=32, image_shape=(32, 32, 3))
    cut(tmp_path / "s.zarr" / node / "zarr.json")
    before = files(tmp_path)
    done = dmkd(command, "s.zarr")
    damaged = f"s.zarr/{node}/zarr.json is damaged ("
    if (command, node) in NOT_NEEDED:
        assert done.exit_code == 0, done.output
        return
    if command.startswith("verify"):
        assert done.exit_code == 1 and damaged in " ".join(done.output.split())
    else:
        check(done, damaged)
    assert files(tmp_path) == before
