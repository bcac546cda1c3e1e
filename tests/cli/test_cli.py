"""The command line as users type it: what it prints, where, and with which exit code."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import block_arrays, filled_store, new_store
from PIL import Image

from dmkd.cli.main import COMMANDS, main
from dmkd.stores import Store


def dmkd(*arguments, **options):
    return CliRunner().invoke(main, [str(a) for a in arguments], **options)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DMKD_STORE", raising=False)
    return tmp_path


def generate_arguments(generator, teacher, *more):
    # fmt: off
    return ["generate", "--generator", generator, "--teacher", teacher, "--images", 32, "--block-size", 16,
            "--steps", 2, "--sampler", "ddim", "--views", "rrc:2", "--device", "cpu", *more]
    # fmt: on


def test_help_is_instant_and_imports_nothing_heavy():
    code = "import sys; from dmkd.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print({'torch', 'ray', 'zarr', 'timm', 'diffusers', 'rich'} & set(sys.modules))"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert time.perf_counter() - start < 5, "half a second on a quiet machine"
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_waits_for_nothing_and_ends_with_examples_that_parse(command):
    code = f"import sys; from dmkd.cli.main import main\ntry: main(['{command}', '--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'ray', 'timm', 'diffusers', 'rich'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    examples = re.split(r"\n(?=[A-Z].*:\n)", done.stdout.split("Examples:")[1])[0]
    lines = [line.strip() for line in examples.splitlines() if line.strip().startswith("dmkd ")]
    assert lines
    for line in lines:
        words = shlex.split(line.split("   ")[0])[1:]  # a remark stands three spaces behind
        assert words[0] == command
        parsed = main.get_command(None, command).make_context(command, words[1:], resilient_parsing=False)
        assert parsed.params


def test_the_three_commands_of_the_readme(here, tiny_generator, tiny_teacher, other_teacher):
    done = dmkd(*generate_arguments(tiny_generator, tiny_teacher), "--store", "imnet.zarr")
    assert done.exit_code == 0, done.output
    assert "32 of 32, 32x32, complete" in done.stdout
    done = dmkd("label", "--teacher", other_teacher, "--device", "cpu")  # the only store here is meant
    assert done.exit_code == 0, done.output
    assert "tiny-efficientnet" in done.stdout
    done = dmkd(
        "train-student", "--labels", "tiny-resnet", "--student", "test_resnet", "--epochs", 1, "--device", "cpu"
    )
    assert done.exit_code == 0, done.output
    assert "KL at T=10" in done.stdout and "students/imnet-test_resnet-tiny-resnet" in done.stdout
    student = here / "students/imnet-test_resnet-tiny-resnet/student"
    done = dmkd("evaluate", student, "--data", "imnet.zarr", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["images"] == 32 and 0 <= result["top1"] <= result["top5"] <= 1
    done = dmkd("evaluate", student, "--data", "imnet.zarr", "--device", "cpu")
    assert re.search(rf"top-1 +{100 * result['top1']:.2f} %", done.stdout)


def test_inspect_as_json_has_what_a_script_needs(here):
    store = filled_store(here / "s.zarr")
    facts = json.loads(dmkd("inspect", "--json").stdout)
    assert facts["images"] == 100 and facts["complete"] is True and facts["missing_blocks"] == []
    assert list(facts["label_sets"]) == ["teacher"]
    (here / "s.zarr/images/c.3.0.0.0").unlink()
    facts = json.loads(dmkd("inspect", store.path, "--json").stdout)
    assert facts["complete"] is False and facts["missing_blocks"] == [3]
    assert "1 of 7 blocks missing" in dmkd("inspect", store.path).stdout


def test_card_and_view_as_json_name_what_they_made(here):
    filled_store(here / "s.zarr", num_images=16)
    made = json.loads(dmkd("card", "--licence", "cc-by-4.0", "--json").stdout)
    assert made["store"] == "s.zarr" and made["licence"] == "cc-by-4.0"
    assert made["card"] == dmkd("card").stdout != ""
    made = json.loads(dmkd("view", "--count", 2, "--json").stdout)
    with Image.open(here / made["file"]) as picture:
        assert picture.size == (made["width"], made["height"])


def test_another_generator_is_named_not_its_hash(here, tiny_generator, tiny_teacher):
    arguments = generate_arguments(tiny_generator, tiny_teacher)
    assert dmkd(*arguments, "--store", "s.zarr").exit_code == 0
    done = dmkd("generate", "--store", "s.zarr", "--generator", "digits", "--device", "cpu")
    assert done.exit_code == 2
    assert "s.zarr was made by tiny, and you asked for digits: leave --generator out, or" in error_of(done)
    assert not re.search(r"[0-9a-f]{20}", done.stderr)


def test_a_default_teacher_of_other_classes_is_refused_before_its_weights_are_asked_for(
    here, tiny_generator, monkeypatch
):
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("the weights were asked for"))
    done = dmkd("generate", "--store", "s.zarr", "--generator", tiny_generator, "--images", 4, "--device", "cpu")
    assert done.exit_code == 2 and not (here / "s.zarr").exists()
    sentence = "Teacher resnet18.tv_in1k knows 1,000 classes and generator tiny makes 10"
    assert sentence in error_of(done) and "--teacher none" in error_of(done)


def test_a_file_called_model_gives_its_labels_the_name_of_its_architecture(here, tiny_generator, tiny_teacher):
    (here / "a").mkdir()
    (here / "b").mkdir()
    for place in ("a/model.safetensors", "b/model.safetensors", "mine.safetensors"):
        shutil.copy(Path(tiny_teacher) / "model.safetensors", here / place)
    arguments = generate_arguments(tiny_generator, "test_resnet=a/model.safetensors", "--store", "s.zarr")
    both = dmkd(*arguments, "--teacher", "test_resnet=b/model.safetensors")
    assert both.exit_code == 2 and "would both be called 'test_resnet'" in error_of(both) and "--name" in error_of(both)
    assert not (here / "s.zarr").exists()
    assert dmkd(*arguments).exit_code == 0
    done = dmkd("label", "--teacher", "test_resnet=mine.safetensors", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert list(json.loads(dmkd("inspect", "--json").stdout)["label_sets"]) == ["mine", "test_resnet"]


def test_averages_are_over_blocks_that_have_images_and_labels(here):
    store = new_store(here / "s.zarr")
    arrays = block_arrays(store, 2)
    arrays["labels"]["teacher"][1][:, 0] = arrays["class_ids"]
    store.write_block(2, **arrays)
    facts = json.loads(dmkd("inspect", "s.zarr", "--json").stdout)["label_sets"]["teacher"]
    assert facts["agreement"] == 1.0 and facts["quality_images"] == 16


def test_results_go_to_stdout_and_progress_to_stderr(here, tiny_generator, tiny_teacher):
    done = dmkd(*generate_arguments(tiny_generator, tiny_teacher), "--store", "s.zarr", "--json")
    assert json.loads(done.stdout)["complete"] is True
    assert "32/32 images" in done.stderr


def error_of(done):
    lines = [line for line in done.stderr.splitlines() if line.startswith(("Error: ", "Usage"))]
    assert "Traceback" not in done.output
    return lines[-1]


@pytest.mark.parametrize("name", ["s.h5", "s.hdf5", "S.HDF5", "s.zarr"])
def test_the_only_store_here_is_found_in_every_form(here, name):
    (here / "not-a-store.hdf5").write_text("hello")
    (here / "folder.h5").mkdir()
    filled_store(here / name, num_images=16)
    done = dmkd("inspect", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["path"] == name


def test_which_store_is_meant(here, monkeypatch):
    done = dmkd("inspect")
    assert done.exit_code == 2 and "No store is named and this folder has none" in error_of(done)
    filled_store(here / "a.zarr", num_images=16)
    (here / "not-a-store").mkdir()
    (here / "not-a-store/zarr.json").write_text("{}")
    assert dmkd("inspect").exit_code == 0
    filled_store(here / "b.zarr", num_images=16)
    done = dmkd("inspect")
    assert done.exit_code == 2 and "several stores in this folder (a.zarr, b.zarr)" in error_of(done)
    monkeypatch.setenv("DMKD_STORE", "b.zarr")
    assert json.loads(dmkd("inspect", "--json").stdout)["path"] == "b.zarr"
    assert json.loads(dmkd("inspect", "a.zarr", "--json").stdout)["path"] == "a.zarr"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["inspect", "nothing.zarr"], 2, "There is no store at nothing.zarr."),
        (["label", "--store", "s.zarr", "--teacher", "resnet35"], 2, "no model 'resnet35'; did you mean"),
        (["label", "--store", "s.zarr", "--teacher", "digits-resnet", "--codec", "zip"], 2, "no label codec 'zip'"),
        (["label", "--store", "s.zarr", "--teacher", "resnet18.tv_in1k"], 2, "knows 1,000 classes and s.zarr has 10"),
        (["evaluate", "resnet18.tv_in1k", "--data", "s.zarr"], 1, "could not be downloaded from the hub"),
        (["train-student", "--store", "s.zarr", "--student", "resnet19"], 2, "no student architecture 'resnet19'"),
        (["train-student", "--store", "s.zarr", "--labels", "x"], 2, "no label set 'x'; it has teacher"),
        (["train-student", "--store", "s.zarr", "--temperature", "-1"], 2, "--temperature must be greater than 0"),
        (["train-student", "--store", "s.zarr", "--device", "tpu"], 2, "--device 'tpu' is not a device"),
        (["evaluate", "digits-resnet", "--data", "nothing"], 2, "nothing to evaluate on at nothing"),
        (["generate", "--store", "n.zarr", "--generator", "digits", "--steps", "0"], 2, "0"),
        (["generate", "--store", "n.zarr", "--generator", "digits", "--guidance", "99"], 2, "Guidance 99"),
        (["generate", "--store", "n.zarr", "--generator", "digits", "--views", "rrc:0"], 2, "random views"),
        (
            ["generate", "--store", "n.zarr", "--generator", "digits", "--workers", "-1"],
            2,
            "--workers must be 0 or more",
        ),
        (["generate", "--store", "n.zarr", "--generator", "./nowhere"], 2, "nowhere"),
        (["generate", "--store", "n.zarr"], 1, "facebook/DiT-XL-2-256"),
    ],
)
def test_bad_input_gets_one_sentence_and_harms_nothing(here, arguments, code, sentence):
    filled_store(here / "s.zarr", num_images=16, image_shape=(32, 32, 3))
    before = {f: f.stat().st_mtime_ns for f in here.rglob("*")}
    done = dmkd(*arguments)
    assert done.exit_code == code, done.output
    assert sentence in error_of(done)
    assert not (here / "n.zarr").exists()
    assert {f: t for f, t in before.items() if f.is_file()} == {
        f: f.stat().st_mtime_ns for f in here.rglob("*") if f.is_file()
    }


def test_an_unexpected_error_is_one_line_and_debug_shows_where(here, monkeypatch):
    filled_store(here / "s.zarr", num_images=16)
    monkeypatch.setattr(Store, "views", property(lambda self: 1 / 0))
    done = dmkd("inspect", "s.zarr")
    assert done.exit_code == 1 and "ZeroDivisionError: division by zero (unexpected; set DMKD_DEBUG=1" in error_of(done)
    done = dmkd("inspect", "s.zarr", env={"DMKD_DEBUG": "1"})
    assert isinstance(done.exception, ZeroDivisionError)


def test_wrong_options_are_clicks_business(here):
    done = dmkd("generate", "--stepps", "3")
    assert done.exit_code == 2 and "No such option" in done.stderr


def test_a_log_gets_plain_lines(here, tiny_generator, tiny_teacher):
    command = [sys.executable, "-m", "dmkd.cli.main", *map(str, generate_arguments(tiny_generator, tiny_teacher))]
    done = subprocess.run(
        [*command, "--store", "s.zarr"], capture_output=True, text=True, check=True, env={**os.environ, "TERM": "dumb"}
    )
    lines = done.stderr.splitlines()
    assert 'sampler = "ddim"' in lines and "generate: 32 of 32 images to do" in lines
    assert "32/32 images in 0:00:" in lines[-1] and "\x1b" not in done.stderr


def test_the_store_is_the_same_by_any_path(here, tiny_generator, tiny_teacher):
    dmkd(*generate_arguments(tiny_generator, tiny_teacher), "--store", "s.zarr")
    (here / "elsewhere").mkdir()
    (here / "s.zarr").rename(here / "elsewhere/moved.zarr")
    done = dmkd(*generate_arguments(tiny_generator, tiny_teacher), "--store", Path("elsewhere/moved.zarr"), "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["complete"] is True


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is_and_takes(command):
    for option in main.get_command(None, command).params:
        if not isinstance(option, click.Option) or option.name == "help":
            continue
        assert option.help and option.help.endswith("."), option.name
        assert option.is_flag or option.metavar or isinstance(option.type, click.Choice), option.name
