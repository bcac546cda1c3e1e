import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from conftest import CLASS_NAMES, TEACHER, filled_store, new_store
from safetensors.torch import load_file

from dmkd.classifiers import load_classifier
from dmkd.stores import DmkdError, MismatchError, UsageError
from dmkd.train import train
from dmkd.training_recipe import defaults_for, resolve_training


def fast(**changes):
    options = {"student": "test_resnet", "epochs": 2, "batch_size": 32, "lr": 0.01}
    return {**options, **changes}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """64 images of 32x32 whose class is their brightness; the 'teacher' says so."""
    import numpy as np

    from dmkd.stores import create_store, parse_codec

    path = tmp_path_factory.mktemp("train") / "s.zarr"
    store = create_store(
        str(path),
        recipe={"generator": "none"},
        num_images=64,
        image_shape=(32, 32, 3),
        class_names=CLASS_NAMES,
        block_size=16,
    )
    components = ("top", "left", "height", "width", "flip")
    description = {"size": 32, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center", "first": True}
    store.add_view_set("center", 1, components, description)
    store.add_label_set(
        "teacher", teacher=TEACHER, source="t", view_set="center", codec=parse_codec("float16"), num_classes=10
    )
    for block in range(4):
        class_ids = (np.arange(16) % 10).astype(np.int32)
        images = np.broadcast_to((class_ids * 25).astype(np.uint8)[:, None, None, None], (16, 32, 32, 3)).copy()
        logits = np.eye(10, dtype=np.float32)[class_ids][:, None] * 8
        views = np.tile(np.array([0, 0, 1, 1, 0], np.float32), (16, 1, 1))
        quality = np.zeros((16, 3), np.float32)
        store.write_block(
            block,
            images=images,
            class_ids=class_ids,
            views={"center": views},
            labels={"teacher": (logits, quality)},
        )
    return store


def run(store, out, **options):
    _, recipe = resolve_training(store, fast(**options))
    return train(recipe, store, Path(out), device="cpu")


def test_a_student_learns_what_the_teacher_says(store, tmp_path):
    summary = run(store, tmp_path, epochs=40, optimizer="adamw", lr=5e-3, temperature=4.0, schedule="cosine")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 40 and losses[-1] < losses[0] / 4
    assert summary["agreement"] > 0.9


def test_the_student_is_a_timm_model_that_anyone_can_load(store, tmp_path):
    summary = run(store, tmp_path)
    folder = Path(summary["student"])
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True)
    by_hand = timm.create_model("test_resnet", num_classes=10)
    by_hand.load_state_dict(load_file(folder / "model.safetensors"))
    by_dmkd = load_classifier(str(folder))
    assert by_dmkd.input_size == 32 and by_dmkd.class_names == store.class_names
    x = torch.randn(2, 3, 32, 32)
    for model in (by_timm, by_hand):
        torch.testing.assert_close(model.eval()(x), by_dmkd.model(x))


def test_the_summary_says_what_was_done_with_what(store, tmp_path):
    run(store, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["training"]["student"] == "test_resnet" and summary["training"]["temperature"] == 10.0
    assert summary["store"]["identity"] == store.identity and summary["store"]["images"] == 64
    assert summary["labels"] == {"teacher": store.labels["teacher"].identity}
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0] or summary["versions"]["torch"]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_the_same_seed_gives_the_same_student_and_another_seed_another(store, tmp_path):
    runs = (run(store, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    a, b, c = (load_file(Path(summary["student"]) / "model.safetensors") for summary in runs)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


TRAIN = """
import sys
from pathlib import Path
from dmkd.stores import open_store
from dmkd.train import train
from dmkd.training_recipe import resolve_training
store = open_store(sys.argv[1])
_, recipe = resolve_training(store, {"student": "test_resnet", "epochs": 6, "batch_size": 8, "lr": 0.01})
train(recipe, store, Path(sys.argv[2]), device="cpu")
"""


def test_killed_and_started_again_the_weights_are_the_same_to_the_bit(store, tmp_path):
    def start(out):
        command = [sys.executable, "-c", TRAIN, store.path, str(out)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    whole = start(tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    for epochs in (1, 3):
        process = start(tmp_path / "killed")
        metrics = tmp_path / "killed" / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= epochs):
            time.sleep(0.005)
        time.sleep(random.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "summary.json").exists()
    again = start(tmp_path / "killed")
    assert again.wait() == 0, again.stderr.read()
    a = load_file(tmp_path / "whole/student/model.safetensors")
    b = load_file(tmp_path / "killed/student/model.safetensors")
    assert all(torch.equal(a[key], b[key]) for key in a)
    lines = [[json.loads(x)["loss"] for x in (tmp_path / n / "metrics.jsonl").open()] for n in ("whole", "killed")]
    assert lines[0] == lines[1] and len(lines[0]) == 6


def test_a_run_of_another_recipe_is_refused(store, tmp_path):
    run(store, tmp_path)
    with pytest.raises(MismatchError, match=r"training\.lr: the store has 0\.01, you asked for 0\.02.*--out"):
        run(store, tmp_path, lr=0.02)


def test_a_finished_run_is_not_repeated(store, tmp_path):
    first = run(store, tmp_path)
    before = (tmp_path / "student/model.safetensors").stat().st_mtime_ns
    weights = load_file(tmp_path / "student/model.safetensors")
    again = run(store, tmp_path)
    assert again["loss"] == first["loss"]
    assert before <= (tmp_path / "student/model.safetensors").stat().st_mtime_ns
    assert all(torch.equal(v, load_file(tmp_path / "student/model.safetensors")[k]) for k, v in weights.items())


def test_a_loss_that_blows_up_is_told(store, tmp_path):
    with pytest.raises(DmkdError, match=r"The loss became (nan|inf).*lower --lr"):
        run(store, tmp_path, lr=1e30, epochs=5)


def test_hard_labels_need_no_label_set(tmp_path):
    store = filled_store(tmp_path / "s.zarr", num_images=32, image_shape=(32, 32, 3))
    _, recipe = resolve_training(store, fast(loss="hard"))
    assert recipe.labels is None and recipe.view_set == "views"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "nobody"}, "no label set 'nobody'; it has teacher"),
        ({"loss": "mse"}, "--loss must be one of kl, dkd, hard"),
        ({"optimizer": "lion"}, "--optimizer must be one of"),
        ({"schedule": "linear"}, "--schedule must be one of"),
        ({"temperature": 0.0}, "--temperature must be greater than 0"),
        ({"epochs": 0}, "--epochs must be greater than 0"),
        ({"batch_size": 0}, "--batch-size must be greater than 0"),
    ],
)
def test_options_that_can_not_be_are_refused(store, options, message):
    with pytest.raises(UsageError, match=message):
        resolve_training(store, fast(**options))


def test_an_unknown_student_is_answered_with_the_nearest(store, tmp_path):
    with pytest.raises(UsageError, match=r"no student architecture 'resnet19'; did you mean .*resnet18"):
        run(store, tmp_path, student="resnet19")


def test_several_label_sets_must_be_chosen_from(tmp_path):
    from dmkd.stores import parse_codec

    store = new_store(tmp_path / "s.zarr")
    more = {"teacher": {"name": "u"}, "source": "u", "view_set": "views", "num_classes": 10}
    store.add_label_set("other", codec=parse_codec("float16"), **more)
    with pytest.raises(UsageError, match=r"several label sets: choose with --labels \(other, teacher\)"):
        resolve_training(store, fast())


def test_the_schedule_fits_the_store(tmp_path):
    assert defaults_for(new_store(tmp_path / "small.zarr"))[1]["batch_size"] == 128
    large = new_store(tmp_path / "large.zarr", num_images=4, block_size=4, image_shape=(256, 256, 3))
    name, values = defaults_for(large)
    assert name == "dm-kd" and values["student"] == "resnet18" and values["temperature"] == 10
    assert (values["epochs"], values["batch_size"], values["lr"]) == (100, 256, 0.1)
    _, recipe = resolve_training(large, {"optimizer": "adamw"})
    assert recipe.lr == 1e-3, "SGD's rate would blow AdamW up"
