"""A label codec that only this file knows: one entry in ``CODECS`` makes it a codec like the others, for every command."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from array_api_compat import array_namespace
from click.shell_completion import BashComplete
from click.testing import CliRunner
from codec_contract import CodecContract

from dmkd.cli.main import main
from dmkd.stores import codecs, open_store
from dmkd.stores.codecs import Codec, Coder
from dmkd.stores.codecs.base import checked
from dmkd.stores.layout import ArraySpec


@dataclass(frozen=True)
class Sign8(Codec):
    step: float = 0.25

    name = "sign8"
    help = "a byte a class, whole multiples of that step"
    example = "sign8:0.25"
    parameter = "a step"

    def bind(self, num_classes, constants):
        return Sign8Coder(num_classes, self.step)


@dataclass(frozen=True, eq=False)
class Sign8Coder(Coder):
    step: float

    def arrays(self, num_views):
        return {"multiples": ArraySpec((num_views, self.num_classes), "int8", ("view", "class"), 0, "zstd")}

    def encode(self, values):
        checked(values, self.num_classes, "Logits", 127 * self.step)
        return {"multiples": np.rint(values / self.step).astype(np.int8)}

    def decode(self, arrays, temperature=1.0):
        xp = array_namespace(arrays["multiples"])
        return xp.astype(arrays["multiples"], xp.float32) * self.step


@pytest.fixture(autouse=True)
def sign8(monkeypatch):
    monkeypatch.setitem(codecs.CODECS, "sign8", Sign8)


class TestSign8(CodecContract):
    @pytest.fixture(params=["sign8:0.25", "sign8:1"])
    def name(self, request):
        return request.param


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DMKD_STORE", raising=False)
    return tmp_path


def dmkd(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.breaks_metadata  # the schema knows nothing of it
def test_every_command_takes_it(here, tiny_generator, tiny_teacher):
    # fmt: off
    options = ["--store", "s.zarr", "--generator", tiny_generator, "--teacher", tiny_teacher, "--images", 32, "--block-size", 16,
               "--steps", 2, "--sampler", "ddim", "--views", "rrc:2", "--codec", "sign8:0.125", "--device", "cpu"]
    # fmt: on
    planned = json.loads(dmkd("plan", *options, "--json"))
    assert planned["recipe"]["codec"] == "sign8:0.125"
    array = planned["arrays"]["labels/tiny-resnet/multiples"]
    assert array == {"bytes": 2 * (16 * 3 * 10 + 4), "bytes_are": "at most", "files": 3}

    assert "sign8:0.125" in dmkd("generate", *options)
    assert "sign8:0.125" in dmkd("inspect")
    assert "sign8:0.125" in dmkd("plan", "--device", "cpu")
    label_set = open_store("s.zarr").labels["tiny-resnet"]
    assert str(label_set.codec) == "sign8:0.125" and set(np.unique(label_set.logits([0]) % 0.125)) == {0}
    assert json.loads(dmkd("verify", "--json"))["findings"] == []
    dmkd("verify", "--regenerate", 1, "--device", "cpu")

    arguments = ["--student", "test_resnet", "--epochs", 1, "--device", "cpu", "--out", "run"]
    dmkd("train-student", *arguments)
    assert (Path("run") / "student").is_dir()


def test_the_report_measures_it_and_all_others_beside_it(here, tiny_generator, tiny_teacher):
    # fmt: off
    dmkd("generate", "--store", "s.zarr", "--generator", tiny_generator, "--teacher", "none", "--images", 32, "--block-size", 16,
         "--steps", 2, "--sampler", "ddim", "--device", "cpu")
    # fmt: on
    options = ["codec-report", "--teacher", tiny_teacher, "--device", "cpu", "--json"]
    measured = json.loads(dmkd(*options, "--codec", "sign8:1", "--codec", "sign8:0.01"))["codecs"]
    assert list(measured) == ["sign8:1", "sign8:0.01"] and measured["sign8:1"]["rmse"] > measured["sign8:0.01"]["rmse"]
    assert list(json.loads(dmkd(*options))["codecs"])[-2:] == ["topk:10", "sign8:0.25"]
    mistyped = CliRunner().invoke(main, [str(argument) for argument in (*options, "--codec", "sign8:x")])
    assert mistyped.exit_code == 2 and "Codec sign8 takes a step, as in sign8:0.25, not 'x'." in mistyped.stderr


def test_help_and_completion_offer_it():
    assert "sign8:0.25 (a byte a class, whole multiples of that step)" in " ".join(dmkd("label", "--help").split())
    for command in ("generate", "label", "plan", "codec-report"):
        found = BashComplete(main, {}, "dmkd", "_DMKD_COMPLETE").get_completions([command, "--codec"], "s")
        assert [item.value for item in found] == ["sign8:0.25"]
