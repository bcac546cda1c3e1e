"""The one-step digits, as users have them: a generator under a name that an installed package registered."""

import numpy as np
from click.testing import CliRunner

from dmkd.cli.main import main
from dmkd.stores import open_store


def run(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def test_a_store_of_its_images_has_its_defaults_and_its_teacher_recognises_most(tmp_path):
    path = tmp_path / "one.zarr"
    run(
        "generate",
        "--store",
        path,
        "--generator",
        "digits-one-step",
        "--images",
        200,
        "--workers",
        0,
        "--device",
        "cpu",
    )
    store = open_store(path)
    assert list(store.labels) == ["digits-resnet"] and store.image_shape == (32, 32, 3)
    assert store.views["rrc4"].attributes["policy"]["flip"] == 0  # a mirrored 2 is no digit
    assert 0.65 < store.labels["digits-resnet"].quality_table()["agrees"].mean() < 0.95
    assert "digits-one-step" in run("generators").stdout
    out = tmp_path / "student"
    said = run(
        "train-student", "--store", path, "--updates", 4, "--batch-size", 16, "--device", "cpu", "--out", out
    ).output
    assert "top-1" in said  # measured on the held-out digits, as students of the pipeline's images are


def test_noise_and_class_are_those_of_the_pipelines_images(tmp_path):
    """It was taught the pipeline's own road from each noise, so image by image it comes close."""
    for name in ("digits", "digits-one-step"):
        options = ("--sampler", "ddim", "--steps", 20, "--guidance", 2) if name == "digits" else ()
        run("generate", "--store", tmp_path / name, "--generator", name, "--images", 40, "--teacher", "none", "--workers", 0,
            "--device", "cpu", *options)  # fmt: skip
    slow, fast = (open_store(tmp_path / name).images[:].astype(float) for name in ("digits", "digits-one-step"))
    own, others = np.abs(slow - fast).mean(), np.abs(slow - np.roll(fast, 10, 0)).mean()
    assert own < 0.5 * others, (own, others)
