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

from dmkd.classifiers.evaluate import evaluate
from dmkd.classifiers.evaluation_data import evaluation_batches
from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.students import create_student
from dmkd.stores import DmkdError, MismatchError, UsageError
from dmkd.train import train
from dmkd.training.execution import Execution
from dmkd.training.optimisation import create_optimizer, create_scheduler
from dmkd.training.run_length import run_length
from dmkd.training.training_recipe import defaults_for, parse_student_args, resolve_training


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
from dmkd.training.execution import Execution
from dmkd.stores import open_store
from dmkd.train import train
from dmkd.training.training_recipe import resolve_training
store = open_store(sys.argv[1])
_, recipe = resolve_training(store, OPTIONS)
train(recipe, store, Path(sys.argv[2]), device="cpu", execution=Execution(checkpoint_minutes=0), evaluate_on=store.path)
"""
# All that has a state of its own: dropout, momentum, a warmed-up schedule, gradients in parts, the average of the weights.
STATEFUL = {
    "student": "test_efficientnet",
    "student_args": {"drop_rate": 0.2},
    "epochs": 3,
    "batch_size": 8,
    "accumulate": 2,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "ema": 0.99,
    "lr": 0.01,
}


def test_killed_within_an_epoch_and_started_again_the_weights_are_the_same_to_the_bit(store, tmp_path):
    _, recipe = resolve_training(store, STATEFUL)
    train(recipe, store, tmp_path / "whole", device="cpu", evaluate_on=store.path)
    code = TRAIN.replace("OPTIONS", repr(STATEFUL))
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", code, store.path, str(killed)], env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    state = {"epoch": 0, "update": 0}
    while state["epoch"] < 1 or not 0 < state["update"] < 7:
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGCONT)
        time.sleep(random.random() * 0.02)
        process.send_signal(signal.SIGSTOP)
        if (killed / "checkpoint.pt").exists():
            state = torch.load(killed / "checkpoint.pt", weights_only=True)["state"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "summary.json").exists()

    train(recipe, store, killed, device="cpu", evaluate_on=store.path)
    for which in ("student", "best"):
        files = [(tmp_path / name / which / "model.safetensors").read_bytes() for name in ("whole", "killed")]
        assert files[0] == files[1]
    curves = [[json.loads(x) for x in (tmp_path / name / "metrics.jsonl").open()] for name in ("whole", "killed")]
    for line in [*curves[0], *curves[1]]:
        assert line["images"] == 64 and 0 <= line["waiting_for_data"] <= 1
        del line["images_per_second"], line["waiting_for_data"]
    assert curves[0] == curves[1] and len(curves[0]) == 3
    assert not list(killed.rglob(".*"))


def test_a_run_that_is_resumed_otherwise_says_so(store, tmp_path):
    notices = []
    _, recipe = resolve_training(store, fast(epochs=1))
    train(recipe, store, tmp_path, device="cpu")
    train(recipe, store, tmp_path, device="cpu", execution=Execution(amp="bfloat16"), notice=notices.append)
    assert len(notices) == 1 and "amp off then, bfloat16 now" in notices[0]


def test_memory_bounds_what_the_loader_holds(tmp_path):
    packed = filled_store(tmp_path / "s.zarr", num_images=64, image_shape=(32, 32, 3), image_codec="webp")
    _, recipe = resolve_training(packed, fast(epochs=1))
    train(recipe, packed, tmp_path / "run", device="cpu")
    notices, little = [], Execution(memory=1e-5)
    train(recipe, packed, tmp_path / "run", device="cpu", execution=little, notice=notices.append)
    assert len(notices) == 1 and "order full then, 2 lanes of a block now" in notices[0]
    with pytest.raises(UsageError, match="--memory must be greater than 0 GiB"):
        Execution(memory=0)


def test_a_run_of_another_recipe_is_refused(store, tmp_path):
    run(store, tmp_path)
    with pytest.raises(MismatchError, match=r"training\.lr: the run has 0\.01, you asked for 0\.02.*--out"):
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
        ({"optimizer": "lion", "lr": None}, "--optimizer lion: say --lr as well"),
        ({"schedule": "sawtooth"}, "--schedule must be one of"),
        ({"temperature": 0.0}, "--temperature must be greater than 0"),
        ({"epochs": 0}, "--epochs must be greater than 0"),
        ({"batch_size": 0}, "--batch-size must be greater than 0"),
        ({"accumulate": 0}, "--accumulate must be greater than 0"),
        ({"clip_grad": 0.0}, "--clip-grad must be greater than 0"),
        ({"ema": 1.0}, "--ema must be a decay between 0 and 1"),
        ({"dkd_beta": -1.0}, "--dkd-beta must be 0 or more"),
        ({"label_smoothing": 0.1}, "--label-smoothing is of the class asked for"),
        ({"loss": "hard", "label_smoothing": 1.0}, "--label-smoothing must be from 0 to below 1"),
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


def weights(folder):
    return load_file(Path(folder) / "student/model.safetensors")


PLAIN = {"student": "test_vit", "optimizer": "sgd", "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}


def test_a_batch_in_parts_has_the_gradient_of_the_whole(store, tmp_path):
    """test_vit has no batch statistics, so only the order of summation differs. The 6 parts of 64 images differ in size."""
    exact = run(store, tmp_path / "exact", **PLAIN, batch_size=66, accumulate=1, lr=0.1, epochs=3)
    again = run(store, tmp_path / "again", **PLAIN, batch_size=66, accumulate=6, lr=0.1, epochs=3)
    assert again["loss"] == pytest.approx(exact["loss"], rel=1e-5)
    for key, value in weights(tmp_path / "exact").items():
        torch.testing.assert_close(weights(tmp_path / "again")[key], value, rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="--batch-size 24 can't be divided by 1 workers x 5 parts"):
        run(store, tmp_path / "odd", batch_size=24, accumulate=5)


def test_a_clipped_gradient_has_the_norm_asked_for(store, tmp_path):
    run(store, tmp_path, **PLAIN, batch_size=64, epochs=1, lr=1.0, clip_grad=0.25)
    torch.manual_seed(0)
    start = create_student("test_vit", 10, 32).state_dict()
    moved = torch.cat([(value - start[key]).flatten() for key, value in weights(tmp_path).items()])
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-4)


def test_the_average_of_the_weights_is_the_student(store, tmp_path):
    for name, options in {"1": {"epochs": 1}, "2": {}, "average": {"ema": 0.999}}.items():
        run(store, tmp_path / name, **PLAIN | {"batch_size": 64, "lr": 0.1} | options)
    first, second = weights(tmp_path / "1"), weights(tmp_path / "2")
    decay = 1 - 2 ** (-2 / 3)  # of the second step: timm's warm-up
    for key, value in weights(tmp_path / "average").items():
        torch.testing.assert_close(value, decay * first[key] + (1 - decay) * second[key])


def test_the_best_student_is_kept_apart_from_the_last(store, tmp_path):
    _, recipe = resolve_training(store, fast(epochs=6, lr=0.05, batch_size=16))
    options = {"device": "cpu", "evaluate_on": store.path, "execution": Execution(evaluate_every=2)}
    summary = train(recipe, store, tmp_path, **options)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [line["epoch"] for line in lines if "top1" in line] == [2, 4, 6]
    top1 = {line["epoch"]: line["top1"] for line in lines if "top1" in line}
    assert summary["best"]["epoch"] == max(top1, key=top1.get) and summary["best"]["top1"] == max(top1.values())
    assert summary["top1"] == top1[6] and summary["best"]["student"] == str(tmp_path / "best")
    best = load_classifier(str(tmp_path / "best"))
    assert evaluate(best, evaluation_batches(store.path, best)).top1 == summary["best"]["top1"]
    assert load_classifier(str(tmp_path)).sha256 == load_classifier(str(tmp_path / "student")).sha256

    # Killed when the checkpoint was written and the best student was not yet in its place.
    (tmp_path / "best").rename(tmp_path / f"best.epoch{summary['best']['epoch']}")
    (tmp_path / "best.epoch99").mkdir()
    train(recipe, store, tmp_path, **options)
    assert load_classifier(str(tmp_path / "best")).sha256 == best.sha256
    assert not list(tmp_path.glob("best.epoch*"))


def test_images_to_measure_on_are_decoded_once_in_a_run(store, tmp_path):
    import shutil

    _, recipe = resolve_training(store, fast(epochs=3))
    shutil.copytree(store.path, tmp_path / "val.zarr")

    def report(progress):
        if progress.evaluation:
            shutil.rmtree(tmp_path / "val.zarr", ignore_errors=True)

    options = {"device": "cpu", "evaluate_on": str(tmp_path / "val.zarr"), "report": report}
    summary = train(recipe, store, tmp_path / "out", **options)
    student = load_classifier(str(tmp_path / "out/student"))
    measured = evaluate(student, evaluation_batches(store.path, student))
    assert (summary["top1"], summary["top5"]) == (measured.top1, measured.top5), "the student as it was written"


def test_images_that_can_not_be_measured_on_are_told_before_the_training(store, tmp_path):
    _, recipe = resolve_training(store, fast())
    with pytest.raises(UsageError, match="nothing to evaluate on at /nowhere"):
        train(recipe, store, tmp_path / "out", device="cpu", evaluate_on="/nowhere")
    (tmp_path / "val/a").mkdir(parents=True)
    with pytest.raises(UsageError, match="has 1 class folders and test_resnet knows 10 classes"):
        train(recipe, store, tmp_path / "out", device="cpu", evaluate_on=str(tmp_path / "val"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/out can't be made a folder"):
        train(recipe, store, tmp_path / "file/out", device="cpu")


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [0.875, 0.625, 0.375, 0.125]),
        ("poly", [0.875**0.9, 0.625**0.9, 0.375**0.9, 0.125**0.9]),
        ("step", [1, 0.1, 0.01, 0.001]),
    ],
)
def test_the_learning_rate_in_the_middle_of_each_epoch(store, schedule, rates):
    milestones = {"milestones": (0.25, 0.5, 0.75)} if schedule == "step" else {}
    _, recipe = resolve_training(store, fast(schedule=schedule, epochs=4, **milestones))
    optimizer = create_optimizer(recipe, torch.nn.Linear(1, 1))
    scheduler = create_scheduler(recipe, optimizer, run_length(recipe, 10 * recipe.batch_size))
    for epoch, rate in enumerate(rates):
        scheduler.step_update(10 * epoch + 5)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * rate)


@pytest.mark.parametrize("optimizer", ["lion", "lamb", "muon", "nesterov"])
def test_optimisers_of_timm(store, tmp_path, optimizer):
    assert run(store, tmp_path, optimizer=optimizer, lr=1e-3, epochs=1)["loss"] > 0


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adamv", r"timm has no 'adamv'; did you mean .*adamw"),
        ("adahessian", "second derivatives"),
        ("bnbadam", "can't be"),
    ],
)
def test_optimisers_that_can_not_be_had(store, tmp_path, optimizer, message):
    with pytest.raises(UsageError, match=message):
        run(store, tmp_path / "out", optimizer=optimizer, lr=1e-3)
    assert not (tmp_path / "out").exists()


def test_a_student_is_built_as_it_was_asked_for_and_loaded_so(store, tmp_path):
    arguments = parse_student_args(["drop_rate=0.5", "global_pool=max", "channels=(8, 16, 24, 32)"])
    assert arguments == {"drop_rate": 0.5, "global_pool": "max", "channels": [8, 16, 24, 32]}
    run(store, tmp_path, epochs=1, student_args=arguments)
    model = load_classifier(str(tmp_path)).model
    assert model.num_features == 32 and model.global_pool.pool_type == "max"
    with pytest.raises(UsageError, match=r"test_resnet can't be built with chanels=3: TypeError"):
        run(store, tmp_path / "typo", student_args={"chanels": 3})
    for wrong in ("drop_rate", "a b=3", "x={}"):
        with pytest.raises(UsageError, match="--student-arg"):
            parse_student_args([wrong])


def test_pretrained_weights_that_can_not_be_had_are_told(store, tmp_path):
    with pytest.raises(DmkdError, match=r"weights of resnet18 could not be downloaded from the hub"):
        run(store, tmp_path, student="resnet18", pretrained=True)
    with pytest.raises(UsageError, match="timm has no pretrained weights for wrn_16_1"):
        run(store, tmp_path, student="wrn_16_1", pretrained=True)


def test_mixed_precision_learns_the_same(store, tmp_path):
    _, recipe = resolve_training(store, fast(epochs=3, student="wrn_16_1"))
    options = {"off": Execution(), "half": Execution(amp="bfloat16", channels_last=True)}
    losses = {k: train(recipe, store, tmp_path / k, device="cpu", execution=e)["loss"] for k, e in options.items()}
    assert losses["half"] == pytest.approx(losses["off"], rel=0.02) and losses["half"] != losses["off"]
    with pytest.raises(UsageError, match="float16 needs a GPU"):
        train(recipe, store, tmp_path / "x", device="cpu", execution=Execution(amp="float16"))


@pytest.mark.slow
def test_a_compiled_student_learns_the_same_and_is_saved_under_the_same_names(store, tmp_path):
    _, recipe = resolve_training(store, fast(epochs=1))
    plain = train(recipe, store, tmp_path / "a", device="cpu")
    compiled = train(recipe, store, tmp_path / "b", device="cpu", execution=Execution(compile=True))
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert weights(tmp_path / "a").keys() == weights(tmp_path / "b").keys()


def test_decoupled_kd_heeds_its_weights(store, tmp_path):
    losses = {b: run(store, tmp_path / str(b), loss="dkd", dkd_beta=b, epochs=1, lr=1e-6)["loss"] for b in (0.5, 1, 2)}
    assert losses[2] - losses[1] == pytest.approx(2 * (losses[1] - losses[0.5]), rel=1e-3)


def test_a_run_that_goes_on_says_where_it_begins_and_one_that_is_done_says_so(store, tmp_path, monkeypatch):
    monkeypatch.setattr("dmkd.training.run.REPORT_SECONDS", 0)

    def stop(progress):
        raise KeyboardInterrupt

    begun, reports = [], []
    options = {"device": "cpu", "begin": begun.append, "report": lambda progress: reports.append(progress.images)}
    _, recipe = resolve_training(store, fast(epochs=1))
    train(recipe, store, tmp_path / "short", **options)
    assert begun == [0] and reports == [32, 64]
    reports.clear()
    train(recipe, store, tmp_path / "short", **options)
    assert begun == [0, 64] and not reports
    stopped = {**options, "execution": Execution(checkpoint_minutes=0), "report": stop}
    with pytest.raises(KeyboardInterrupt):
        train(recipe, store, tmp_path / "long", **stopped)
    train(recipe, store, tmp_path / "long", **options)
    assert begun[2:] == [0, 32]
