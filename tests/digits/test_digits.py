"""The bundled digits: nothing held out was trained on, and every asset is what the build's log says."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

from dmkd import digits
from dmkd.digits import data

FOLDER = digits.PIPELINE.parent


@pytest.fixture(scope="module")
def stored():
    with np.load(FOLDER / "heldout.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def real():
    """scikit-learn's digits and the build's split: originals, class ids, training rows, held-out rows."""
    pytest.importorskip("sklearn")
    originals, class_ids = data.load_originals()
    return originals, class_ids, *data.split(class_ids)


@pytest.fixture(scope="module")
def build_log():
    return json.loads(digits.BUILD_LOG.read_text())


def as_set(digests):
    return {row.tobytes() for row in digests}


def test_no_heldout_digit_is_among_the_stored_training_digests(stored):
    heldout = as_set(data.digests(stored["originals"]))
    training = as_set(stored["training_sha256"])
    assert len(stored["originals"]) == 360
    assert len(stored["training_sha256"]) == 1437
    assert not heldout & training


def test_split_of_sklearn_gives_the_stored_digests_and_originals(stored, real):
    originals, class_ids, train, heldout = real
    assert not set(train) & set(heldout)
    assert len(train) + len(heldout) == len(originals) == 1797
    np.testing.assert_array_equal(data.digests(originals[train]), stored["training_sha256"])
    np.testing.assert_array_equal(originals[heldout], stored["originals"])
    np.testing.assert_array_equal(class_ids[heldout], stored["class_ids"])


def test_heldout_images_are_the_upsampled_originals(stored):
    images, class_ids = digits.heldout()
    assert images.shape == (360, 32, 32, 3) and images.dtype == np.uint8
    assert class_ids.shape == (360,) and class_ids.dtype == np.int32
    np.testing.assert_array_equal(images, data.upsample(stored["originals"]))


def test_heldout_is_stratified():
    _, class_ids = digits.heldout()
    counts = np.bincount(class_ids, minlength=10)
    assert counts.min() >= 35 and counts.max() <= 37


@pytest.mark.parametrize("name", sorted(digits.TEACHERS))
def test_teacher_reaches_the_logged_accuracy(name, build_log):
    from dmkd.digits import measure

    images, class_ids = digits.heldout()
    correct = measure.count_correct(measure.load_teacher(digits.TEACHERS[name]), images, class_ids)
    assert abs(correct - build_log["teachers"][name]["heldout_correct"]) <= 1


def test_teachers_are_two_strong_ones_and_a_weak_one(build_log):
    accuracy = {name: row["heldout_accuracy"] for name, row in build_log["teachers"].items()}
    assert set(accuracy) == set(digits.TEACHERS)
    assert accuracy["digits-resnet"] >= 0.99
    assert accuracy["digits-vit"] >= 0.98
    assert 0.90 <= accuracy["digits-weak"] <= 0.96


@pytest.mark.parametrize("name", sorted(digits.TEACHERS))
def test_teacher_config_says_how_to_feed_it(name):
    config = json.loads((digits.TEACHERS[name] / "config.json").read_text())
    feeding = config["pretrained_cfg"]
    assert config["num_classes"] == feeding["num_classes"] == 10
    assert config["label_names"] == [str(digit) for digit in range(10)]
    assert feeding["input_size"] == [3, 32, 32]
    assert feeding["interpolation"] == "bicubic" and feeding["crop_pct"] == 1.0
    assert len(feeding["mean"]) == len(feeding["std"]) == 3


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import DiTPipeline

    return DiTPipeline.from_pretrained(digits.PIPELINE)


def test_pipeline_is_a_learned_sigma_dit_with_a_null_class(pipeline):
    transformer = pipeline.transformer
    assert transformer.config.out_channels == 2 * transformer.config.in_channels
    for block in transformer.transformer_blocks:
        assert block.norm1.emb.class_embedder.embedding_table.num_embeddings == 11
    assert pipeline.labels == {str(digit): digit for digit in range(10)}


def test_guided_samples_are_the_asked_digits(pipeline):
    from dmkd.digits import measure

    class_ids = np.arange(60) % 10
    images = measure.sample(pipeline, pipeline.scheduler, class_ids, steps=10, guidance=4.0, seed=5)
    judged = measure.judge(measure.load_teacher(digits.TEACHERS["digits-resnet"]), images, class_ids)
    assert judged["agreement"] >= 0.8


def test_autoencoder_returns_heldout_digits(pipeline):
    import torch

    from dmkd.digits import measure

    images, _ = digits.heldout()
    pixels = measure.to_unit(images[:32])
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mean
        error = (pipeline.vae.decode(latents).sample - pixels).pow(2).mean().item()
    assert error < 0.005  # on a scale of -1..1; all black gives 0.7
    assert 0.5 < latents.std().item() * pipeline.vae.config.scaling_factor < 1.5


def test_weights_are_float16_safetensors_and_all_assets_below_8_mb():
    weights = list(FOLDER.rglob("*.safetensors"))
    assert len(weights) == 3 + len(digits.TEACHERS)  # transformer, VAE, one-step model
    for file in weights:
        with safe_open(file, "np") as tensors:
            dtypes = {tensors.get_slice(name).get_dtype() for name in list(tensors.keys())}
        assert dtypes <= {"F16", "I64"}, file  # I64: batch norm's counters
    assets = [file for file in FOLDER.rglob("*") if file.suffix in {".safetensors", ".npz", ".json"}]
    assert sum(file.stat().st_size for file in assets) <= 8e6


def test_no_bundled_json_names_a_path_of_the_machine_that_built_it():
    for file in [*FOLDER.glob("*.json"), *digits.PIPELINE.rglob("*.json"), *FOLDER.glob("teachers/*/*.json")]:
        assert "_name_or_path" not in file.read_text() and '"/' not in file.read_text(), file


def test_defaults_name_bundled_things():
    defaults = digits.defaults()
    assert defaults["teacher"] in digits.TEACHERS
    assert 1 <= defaults["guidance"] <= 2 and defaults["images"] > 0 and defaults["steps"] > 0


def test_importing_digits_imports_neither_torch_nor_sklearn():
    code = "import sys, dmkd.digits; dmkd.digits.heldout(); print({'torch', 'sklearn', 'PIL'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent.parent
    )
    assert done.stdout.strip() == "set()"


def test_the_training_defaults_are_a_training_recipe():
    import dataclasses

    from dmkd.training.training_recipe import TrainingRecipe

    assert set(digits.defaults()["training"]) <= {field.name for field in dataclasses.fields(TrainingRecipe)}
