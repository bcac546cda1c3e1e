import shutil

import numpy as np
import pytest
import torch
from conftest import make_teacher
from safetensors.torch import load_file

from dmkd.classifiers.classifier import check_classes, load_classifier, state_dict_sha256
from dmkd.stores import DmkdError, UsageError


def test_a_folder_is_loaded_with_its_weights_and_its_preprocessing(tiny_teacher):
    teacher = load_classifier(str(tiny_teacher))
    assert (teacher.name, teacher.architecture) == ("tiny-resnet", "test_resnet")
    assert (teacher.num_classes, teacher.input_size, teacher.interpolation) == (10, 32, "bicubic")
    assert teacher.mean == (0.5, 0.5, 0.5) and teacher.class_names == [str(i) for i in range(10)]
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    weights = load_file(tiny_teacher / "model.safetensors")
    assert all(torch.equal(value, weights[key]) for key, value in teacher.model.state_dict().items())


def test_a_student_is_called_after_its_run(tiny_teacher, tmp_path):
    """So that `label --teacher teacher` and then `train-student --labels teacher` fit together."""
    run = tmp_path / "teacher"
    shutil.copytree(tiny_teacher, run / "student")
    shutil.copytree(tiny_teacher, run / "best")
    assert {load_classifier(str(source)).name for source in (run, run / "student", run / "best")} == {"teacher"}


def test_logits_are_those_of_the_model_on_normalised_pixels(tiny_teacher):
    teacher = load_classifier(str(tiny_teacher))
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = teacher.model((pixels.float() / 255 - 0.5) / 0.5)
    logits = teacher.logits(pixels)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected)


def test_a_checkpoint_needs_its_architecture_and_gives_the_same_model(tiny_teacher, tmp_path):
    file = tiny_teacher / "model.safetensors"
    by_folder = load_classifier(str(tiny_teacher))
    by_file = load_classifier(f"test_resnet={file}")
    assert by_file.sha256 == by_folder.sha256
    assert by_file.architecture == "test_resnet", "no tag of weights that these are not"
    wrapped = {"state_dict": {f"module.{key}": value for key, value in load_file(file).items()}}
    torch.save(wrapped, tmp_path / "run.pth")
    assert load_classifier(f"test_resnet={tmp_path / 'run.pth'}").sha256 == by_folder.sha256
    with pytest.raises(UsageError, match=r"Which architecture has .* resnet18="):
        load_classifier(str(file))
    with pytest.raises(DmkdError, match="could not be loaded as test_efficientnet"):
        load_classifier(f"test_efficientnet={file}")


def test_a_checkpoint_that_runs_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(
        DmkdError, match="contains code .* save only the state_dict, or convert it to safetensors"
    ) as told:
        load_classifier(f"test_resnet={tmp_path / 'evil.pth'}")
    assert "weights_only" not in str(told.value) and "\x1b" not in str(told.value)
    assert not (tmp_path / "owned").exists()


def test_the_hash_is_of_every_weight(tiny_teacher):
    model = load_classifier(str(tiny_teacher)).model
    before = state_dict_sha256(model)
    model.fc.bias.data[3] += 1e-6
    assert state_dict_sha256(model) != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet35", "no model 'resnet35'; did you mean .*resnet34"),
        ("digits-resnot", "did you mean .*digits-resnet"),
        ("resnet18.nonsense", r"no pretrained weights 'resnet18.nonsense'; there are .*resnet18\.tv_in1k"),
        ("test_vit4=./nothing.safetensors", "no checkpoint"),
        ("./nothing/here", "There is no model at"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, message):
    with pytest.raises(UsageError, match=message):
        load_classifier(name)


def test_a_missing_hub_names_what_is_wanted_and_what_to_do():
    with pytest.raises(DmkdError, match=r"weights of resnet18\.tv_in1k .* from the hub .*ARCHITECTURE=FILE"):
        load_classifier("resnet18.tv_in1k")


def test_classes_that_do_not_match_are_refused(tmp_path, tiny_teacher):
    teacher = load_classifier(str(tiny_teacher))
    check_classes(teacher, [str(i) for i in range(10)], "s.zarr")
    check_classes(teacher, [f"digit {i}" for i in range(10)], "s.zarr")  # other words for the same classes
    with pytest.raises(UsageError, match=r"knows 10 classes and s\.zarr has 7"):
        check_classes(teacher, list("abcdefg"), "s.zarr")
    with pytest.raises(UsageError, match="in another order"):
        check_classes(teacher, [str(i) for i in reversed(range(10))], "s.zarr")


def test_the_canonical_box_is_the_evaluation_view(tmp_path):
    teacher = load_classifier(str(make_teacher(tmp_path / "t")))
    teacher.crop_pct, teacher.input_size = 0.875, 224
    np.testing.assert_allclose(teacher.canonical_box((256, 256)), (16 / 256, 16 / 256, 224 / 256, 224 / 256))
