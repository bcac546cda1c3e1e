"""A backend in one file: this one. It fulfils the contract of a tree, and every command works on it."""

import io
import json
import os
import shutil
import uuid
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import tree_bytes
from places import Folder
from test_trees import TestTree  # noqa: F401  # here it is run on the place below

from dmkd.cli.main import main
from dmkd.stores import UsageError, open_store
from dmkd.stores.image_codecs import parse_image_codec
from dmkd.stores.trees import tree


class ToyTree:
    """A folder of .npy files, each with its crc32 behind it, and of each node one JSON file that says what it is."""

    kind = "toy folder"
    a_kind = "a toy store"
    metadata_file = "node.json"
    image_files = False
    one_writer = False
    reads_at_once = 1

    def __init__(self, path):
        self.path = path

    def exists(self):
        return (Path(self.path) / "node.json").is_file()

    def taken(self):
        return os.path.lexists(self.path)

    def create_root(self):
        self.create_group("")

    def transaction(self):
        return nullcontext()

    def count_partials(self):
        return sum(1 for _ in Path(self.path).rglob("*.partial"))

    def sweep_partials(self):
        partials = list(Path(self.path).rglob("*.partial"))
        for partial in partials:
            partial.unlink()
        return len(partials)

    def create_group(self, node, attributes=None):
        if not (self._folder(node) / "node.json").exists():
            self._describe(node, attributes=dict(attributes or {}))
        elif attributes:
            self.set_attributes(attributes, node)

    def children(self, node):
        return sorted(file.parent.name for file in self._folder(node).glob("*/node.json"))

    names = children

    def attributes(self, node=""):
        return self._node(node)["attributes"]

    def set_attributes(self, attributes, node=""):
        description = self._node(node)
        self._describe(node, **{**description, "attributes": {**description["attributes"], **attributes}})

    def create_array(self, node, spec, num_rows, block_size, attributes=None):
        if parse_image_codec(spec.image_codec).lossy:
            raise UsageError("A toy holds raw pixels.")
        shutil.rmtree(self._folder(node), ignore_errors=True)
        array = {"shape": [num_rows, *spec.shape], "dtype": spec.dtype, "block_size": block_size}
        self._describe(node, attributes=dict(attributes or {}), array=array)

    def shape(self, node):
        return tuple(self._array(node)["shape"])

    def dtype(self, node):
        return np.dtype(self._array(node)["dtype"])

    def resize(self, node, num_rows):
        description, array = self._node(node), self._array(node)
        self._describe(node, **{**description, "array": {**array, "shape": [num_rows, *array["shape"][1:]]}})

    def write_constant(self, node, values):
        self._describe(node, attributes={})
        self.write_block(node, 0, values)

    def read_constant(self, node):
        self._node(node)
        return self._load(node, 0)

    def present_blocks(self, node):
        return set(self.chunk_bytes(node))

    def chunk_bytes(self, node):
        return {int(file.name.split(".")[1]): file.stat().st_size for file in self._folder(node).glob("c.*.npy")}

    def has_block(self, node, block):
        return os.path.exists(self.chunk_path(node, block))

    def write_block(self, node, block, rows):
        file = io.BytesIO()
        np.save(file, rows)
        self._write(
            Path(self.chunk_path(node, block)), file.getvalue() + zlib.crc32(file.getvalue()).to_bytes(4, "little")
        )

    def read_block(self, node, block):
        array = self._array(node)
        if not self.has_block(node, block):
            raise ValueError("there is no such chunk")
        return self._load(node, block)[: array["shape"][0] - block * array["block_size"]]

    def delete_block(self, node, block):
        Path(self.chunk_path(node, block)).unlink(missing_ok=True)

    def chunk_path(self, node, block):
        return str(self._folder(node) / f"c.{block}.npy")

    def look_again(self):
        pass

    def is_chunk_file(self, node, block):
        return True

    def has_plain_files(self, node):
        return False

    def for_each(self, work, blocks):
        self.map(work, blocks)

    def map(self, work, items):
        return [work(item) for item in items]

    def _folder(self, node):
        return Path(self.path) / node

    def _node(self, node):
        try:
            return json.loads((self._folder(node) / "node.json").read_text())
        except FileNotFoundError:
            raise KeyError(node) from None

    def _array(self, node):
        return self._node(node)["array"]

    def _describe(self, node, **description):
        self._write(self._folder(node) / "node.json", json.dumps(description).encode())

    def _load(self, node, block):
        content = Path(self.chunk_path(node, block)).read_bytes()
        if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
            raise ValueError("the checksum is wrong")
        return np.load(io.BytesIO(content))

    def _write(self, file, content):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
        partial.write_bytes(content)
        partial.replace(file)


class ToyPlace(Folder):
    suffix = ".toy"


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """The list of backends with one more."""
    toy = tree.Backend(
        claims=lambda path: path.endswith(".toy"),
        open=ToyTree,
        is_store=lambda path: (path / "node.json").is_file(),
    )
    monkeypatch.setattr(tree, "BACKENDS", (toy, *tree.BACKENDS))


@pytest.fixture
def place(tmp_path, request):
    return ToyPlace.new(tmp_path, request)


def test_every_command_works_on_it(place, tmp_path, monkeypatch, tiny_generator, tiny_teacher):
    def dmkd(*arguments):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, (arguments, done.output)
        return done.stdout

    monkeypatch.chdir(tmp_path)
    # fmt: off
    recipe = ["--generator", tiny_generator, "--teacher", tiny_teacher, "--images", 40, "--block-size", 16,
              "--sampler", "ddim", "--steps", 2, "--views", "rrc:2", "--workers", 0, "--device", "cpu"]
    # fmt: on
    dmkd("generate", "--store", "s.toy", *recipe)
    dmkd("generate", "--store", tmp_path / "elsewhere" / "s.zarr", *recipe)
    chunks = tree_bytes(tmp_path / "elsewhere/s.zarr")

    facts = json.loads(dmkd("inspect", "--json"))  # the only store here
    assert facts["path"] == "s.toy" and facts["complete"] and list(facts["label_sets"]) == ["tiny-resnet"]
    assert json.loads(dmkd("verify", "--json"))["sound"]
    train = [
        "--student",
        "test_resnet",
        "--labels",
        "tiny-resnet",
        "--epochs",
        1,
        "--batch-size",
        16,
        "--device",
        "cpu",
    ]
    dmkd("train-student", "--store", "s.toy", *train, "--out", "run")
    assert (tmp_path / "run/student/model.safetensors").exists()
    dmkd("convert", "s.toy", "elsewhere/converted.zarr")
    assert tree_bytes(tmp_path / "elsewhere/converted.zarr") == chunks
    dmkd("convert", "elsewhere/s.zarr", "elsewhere/back.toy")
    assert ToyPlace("elsewhere/back.toy").chunks() == place.chunks()

    # What is damaged is found, deleted and made again.
    before = place.chunks()
    place.write("images/c.1.npy", before["images/c.1.npy"][:-9] + b"123456789")
    assert "images, block 1" in dmkd("verify", "s.toy", "--repair")
    assert open_store("s.toy").missing_blocks() == [1]
    dmkd("generate", "--store", "s.toy", "--device", "cpu")
    assert place.chunks() == before


def test_sentences_speak_of_it_by_its_own_words(place, tmp_path):
    def error(*arguments):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 2
        return done.stderr

    place.litter()
    assert "it holds no toy folder" in error("inspect", place.path)
    new = tmp_path / "new.toy"
    arguments = ["generate", "--generator", "digits", "--store", new, "--image-codec", "webp", "--device", "cpu"]
    assert "a toy store holds raw pixels; --image-codec webp" in error(*arguments)
    assert not new.exists()
