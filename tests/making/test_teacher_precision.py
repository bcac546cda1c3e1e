"""What a teacher computes in is said, recorded, and part of what its labels are."""

import numpy as np
import pytest
import torch
from conftest import filled_store, make_teacher, tree_bytes

from dmkd.classifiers.classifier import Classifier
from dmkd.classifiers.load import load_classifier
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate, label
from dmkd.making.asked import check_labels
from dmkd.making.resolve import TeacherPrecision
from dmkd.runtime.progress import Silent
from dmkd.stores import MismatchError, UsageError, open_store

HERE = RunOptions(workers=0, device="cpu")


def relabel(path, teacher, precision=None, name=None):
    label(str(path), LabelOptions((str(teacher),), teacher_precision=precision, name=name), HERE, Silent())
    return open_store(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory, tiny_generator):
    path = tmp_path_factory.mktemp("precision") / "s.zarr"
    options = ImageOptions(generator=str(tiny_generator), images=16, sampler="ddim", steps=2, block_size=16)
    generate(str(path), options, LabelOptions(("none",)), HERE, Silent())
    return path


def test_labels_in_another_precision_are_another_label_set(images, tiny_teacher):
    relabel(images, tiny_teacher, "bfloat16", "half")
    store = relabel(images, tiny_teacher, "float32", "whole")
    half, whole = store.labels["half"], store.labels["whole"]
    assert (half.precision, whole.precision) == ("bfloat16", "float32")
    assert half.teacher == {**whole.teacher, "precision": "bfloat16"} and half.identity != whole.identity
    difference = np.abs(half.logits(slice(None)) - whole.logits(slice(None)))
    assert 0 < difference.max() < 0.1, "rounded, and no more than that"


def test_labels_go_on_in_the_precision_that_they_were_begun_in(tmp_path, tiny_generator, tiny_teacher):
    def make(path, images, **labels):
        options = ImageOptions(generator=str(tiny_generator), images=images, sampler="ddim", steps=2, block_size=16)
        return generate(str(path), options, LabelOptions(**labels), HERE, Silent())[0]

    wanted = {"teachers": (str(tiny_teacher),), "teacher_precision": "bfloat16"}
    make(tmp_path / "whole.zarr", 32, **wanted)
    make(tmp_path / "grown.zarr", 16, **wanted)
    make(tmp_path / "grown.zarr", 32)
    relabel(tmp_path / "grown.zarr", tiny_teacher)
    assert tree_bytes(tmp_path / "grown.zarr") == tree_bytes(tmp_path / "whole.zarr")
    with pytest.raises(MismatchError, match="teacher.precision: the store has bfloat16, you asked for float32"):
        relabel(tmp_path / "grown.zarr", tiny_teacher, "float32")
    with pytest.raises(UsageError, match="no labels of --teacher-precision float32"):
        make(tmp_path / "grown.zarr", 32, teacher_precision="float32")


def test_on_a_gpu_new_labels_are_tf32_and_old_ones_stay_float32(tmp_path):
    old = filled_store(tmp_path / "s.zarr").labels["teacher"]
    assert "precision" not in old.teacher
    assert [TeacherPrecision(None, device).of(None) for device in ("cuda", "cuda:1", "cpu", "mps")] == [
        "tf32", "tf32", "float32", "float32",
    ]  # fmt: skip
    assert TeacherPrecision(None, "cuda").of(old) == "float32" and TeacherPrecision("tf32", "cuda").of(old) == "tf32"


def test_a_precision_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="--teacher-precision must be one of float32, tf32, bfloat16, not 'half'"):
        check_labels(LabelOptions(teacher_precision="half"))
    with pytest.raises(
        UsageError, match="tf32 is a mode of NVIDIA GPUs, and the device is cpu: use float32 or bfloat16"
    ):
        TeacherPrecision("tf32", "cpu")


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_products_are_of_this_precision_for_as_long_as_the_teacher_runs(tmp_path, precision, monkeypatch):
    seen = []

    def switches():
        return (
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu"),
        )  # fmt: skip

    before = switches()
    teacher = load_classifier(str(make_teacher(tmp_path / "t")), precision=precision)
    teacher.model.register_forward_pre_hook(lambda *_: seen.append(switches()))
    logits = teacher.logits(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert seen == [(precision == "tf32", precision == "tf32", precision == "bfloat16")] and switches() == before
    assert logits.dtype == torch.float32


def test_the_last_layer_is_found_whatever_the_teacher_computes_in(tmp_path):
    weight, _ = load_classifier(str(make_teacher(tmp_path / "t")), precision="bfloat16").head()
    assert weight.shape[0] == 10


def test_on_a_gpu_a_teacher_is_fed_channels_last(tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "_layout", lambda self, device: torch.channels_last)
    teacher = load_classifier(str(make_teacher(tmp_path / "t")))
    fed = []
    teacher.model.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    assert isinstance(teacher, Classifier)
    teacher.logits(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    convolutions = [m.weight for m in teacher.model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in [*fed, *convolutions])
