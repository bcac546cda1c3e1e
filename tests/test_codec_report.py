import json

import pytest
from click.testing import CliRunner
from conftest import tree_bytes

from dmkd.cli.main import main
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.runtime.progress import Silent


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny_generator):
    path = tmp_path_factory.mktemp("report") / "s.zarr"
    options = ImageOptions(generator=str(tiny_generator), images=48, sampler="ddim", steps=2, block_size=16)
    generate(str(path), options, LabelOptions(("none",)), RunOptions(0, "cpu"), Silent())
    return path


def report(store, teacher, *more):
    arguments = ["codec-report", "--store", str(store), "--teacher", str(teacher), "--device", "cpu", *more]
    return CliRunner().invoke(main, arguments)


def test_every_codec_is_measured_and_nothing_is_written(store, tiny_teacher, tmp_path):
    before = tree_bytes(store)
    done = report(store, tiny_teacher, "--views", "rrc:3", "--json", "--plot", str(tmp_path / "p.png"))
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    codecs = result["codecs"]
    assert {"float16", "uint8", "features", "klt:0.5", "topk:10"} <= set(codecs) and "topk:50" not in codecs
    assert result["measured_on_views"] == 16 * 4 and codecs["float16"]["bytes_per_view_raw"] == 20
    assert all(set(numbers["tv"]) == {"1", "4", "10", "20"} for numbers in codecs.values())
    assert codecs["float16"]["tv"]["1"] < codecs["klt:0.5"]["tv"]["1"]
    assert tree_bytes(store) == before and not (store / "views").exists() and not (store / "labels").exists()
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_the_table_has_a_row_a_codec(store, tiny_teacher):
    done = report(store, tiny_teacher, "--codec", "uint8", "--codec", "klt:0.1")
    assert done.exit_code == 0, done.output
    assert "uint8" in done.stdout and "klt:0.1" in done.stdout and "features" not in done.stdout


def test_what_can_not_be_done_is_told_before_the_work(store, tiny_teacher):
    done = report(store, tiny_teacher, "--codec", "klt:zero")
    assert done.exit_code == 2 and "Codec klt takes a step" in done.stderr
    done = report(store, tiny_teacher, "--plot", "plot.txt")
    assert done.exit_code == 2 and "give a .png, .svg or .pdf" in done.stderr
