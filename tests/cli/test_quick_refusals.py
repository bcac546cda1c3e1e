"""A slip in the arguments is answered before anything heavy is imported, and nothing is left behind."""

import subprocess
import sys

import pytest
from conftest import filled_store

CODE = """
import sys
from dmkd.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    print(ended.code, sorted({"torch", "timm", "diffusers", "ray", "rich"} & set(sys.modules)))
"""
DIGITS = ["generate", "--store", "n.zarr", "--generator", "digits"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "--stepps", "3"], "No such option"),
        ([*DIGITS, "--codec", "klt:x"], "not 'x'"),
        ([*DIGITS, "--views", "rcr:8"], "No kind of view is called 'rcr'"),
        ([*DIGITS, "--steps", "0"], "--steps must be at least 1, not 0."),
        ([*DIGITS, "--images", "0"], "--images must be at least 1, not 0."),
        ([*DIGITS, "--seed", "-1"], "--seed must be at least 0, not -1."),
        ([*DIGITS, "--view-seed", "-1"], "--view-seed must be at least 0, not -1."),
        ([*DIGITS, "--sampler", "ddxm"], "no sampler 'ddxm'"),
        ([*DIGITS, "--guidance", "99"], "Guidance 99"),
        ([*DIGITS, "--dtype", "int4"], "--dtype must be one of float32"),
        ([*DIGITS, "--image-codec", "gif"], "gif"),
        ([*DIGITS, "--teacher", "resnet18=nowhere.pth"], "There is no checkpoint nowhere.pth."),
        ([*DIGITS[:3], "--generator", "./nowhere"], "There is no folder './nowhere'"),
        ([*DIGITS[:3], "--generator", "nowhere_at_all:make"], "there is no module 'nowhere_at_all'"),
        ([*DIGITS, "--generator-arg", "a=1"], "--generator-arg is for generators of your own"),
        ([*DIGITS[:3], "--recipe", "nowhere.toml"], "nowhere.toml can't be read"),
        (["plan", "--generator", "digits", "--codec", "zip"], "no label codec 'zip'"),
        (["label", "--store", "s.zarr", "--codec", "zip", "--teacher", "digits-vit"], "no label codec 'zip'"),
        (
            ["label", "--store", "s.zarr", "--teacher", "clip:a/b", "--teacher-prompt", "x"],
            "--teacher-prompt 'x' lacks {}",
        ),
        (
            ["label", "--store", "s.zarr", "--teacher", "resnet18", "--teacher-prompt", "a {}"],
            "--teacher-prompt is for",
        ),
        (["label", "--store", "s.zarr", "--teacher", "clip:./nowhere"], "There is no folder './nowhere'"),
        (["evaluate", "resnet18", "--data", "digits", "--class-names", "imagenet"], "has classes of its own"),
        (["label", "--store", "nowhere.zarr"], "There is no store at nowhere.zarr."),
        (["train-student", "--store", "nowhere.zarr"], "There is no store at nowhere.zarr."),
        (["train-student", "--store", "s.zarr", "--preset", "x"], "There is no preset 'x'"),
        (["train-student", "--store", "s.zarr", "--seed", "-1"], "--seed must be 0 or more"),
        (["train-student", "--store", "s.zarr", "--select", "entropy <"], "The selection"),
        (["train-student", "--store", "s.zarr", "--val", "nowhere"], "nothing to evaluate on at nowhere"),
        (["evaluate", "./nowhere.pth", "--data", "digits"], "There is no model at ./nowhere.pth."),
        (["evaluate", "digits-vit", "--data", "nowhere"], "nothing to evaluate on at nowhere"),
        (["import", "nowhere", "--store", "n.zarr"], "There is nothing to import at nowhere."),
        (["import", "s.zarr", "--store", "n.zarr", "--seed", "-1"], "--seed must be at least 0"),
        (["compare", "s.zarr", "nowhere.zarr"], "There is no store at nowhere.zarr."),
        (["compare", "s.zarr", "--val", "nowhere"], "nothing to evaluate on at nowhere"),
        (["codec-report", "--store", "s.zarr", "--teacher", "digits-vit", "--codec", "klt:x"], "not 'x'"),
        (["demo", "--images", "0"], "--images must be at least 1, not 0."),
        (
            [*DIGITS, "--candidates", "4"],
            "--candidates is about the student that a round follows: name it, --follow FOLDER.",
        ),
        ([*DIGITS, "--follow", "run", "--candidates", "0"], "--candidates 0: ask for 1 to 64 of each image."),
        ([*DIGITS, "--follow", "run", "--score", "loss"], "--score loss: there are kl, entropy, learnability"),
        ([*DIGITS, "--follow", "run", "--window", "8"], "--window '8': give two training timesteps, LOW:HIGH"),
        ([*DIGITS, "--follow", "run", "--score", "nowhere_at_all:f"], "there is no module 'nowhere_at_all'"),
        (
            ["plan", "--generator", "digits", "--rounds", "3", "--strength", "-1"],
            "--strength -1: give a share of the noise",
        ),
        (["distil", *DIGITS[1:], "--strength", "99"], "--strength 99: give a share of the noise from 0 to 10"),
        (["distil", *DIGITS[1:], "--images", "64", "--val", "nowhere"], "nothing to evaluate on at nowhere"),
        (["distil", *DIGITS[1:], "--student-arg", "x"], "--student-arg 'x': write NAME=VALUE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_slip_is_answered_without_torch(tmp_path, arguments, sentence):
    filled_store(tmp_path / "s.zarr", num_images=16)
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "2 []", done.stderr
    assert sentence in done.stderr.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before
