import shutil

import numpy as np
import pytest
import torch
from conftest import make_teacher
from safetensors.torch import load_file

from dmkd.classifiers.load import load_classifier
from dmkd.classifiers.teachers import of_classes
from dmkd.recipes.class_list import ClassList, imagenet_classes
from dmkd.runtime.weights_hash import state_dict_sha256
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
    assert of_classes(teacher, numbers(range(10)), "s.zarr has") is teacher
    other_words = ClassList(tuple(f"digit {i}" for i in range(10)))
    assert of_classes(teacher, other_words, "s.zarr has") is teacher
    with pytest.raises(UsageError, match=r"knows 10 classes and s\.zarr has 7"):
        of_classes(teacher, ClassList(tuple("abcdefg")), "s.zarr has")


def numbers(ids):
    return ClassList(tuple(map(str, ids)))


def test_a_teacher_is_fitted_to_classes_by_their_names(tiny_teacher):
    teacher = load_classifier(str(tiny_teacher))
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    for ids in (list(reversed(range(10))), [7, 2, 5]):  # in another order, and some of them
        fitted = of_classes(teacher, numbers(ids), "s.zarr has")
        assert torch.equal(fitted.logits(pixels), teacher.logits(pixels)[:, ids])
        assert fitted.class_names == list(map(str, ids)) and fitted.num_classes == len(ids)
        assert fitted.to_json() == {**teacher.to_json(), "outputs": ids}
        weight, bias = fitted.head()
        np.testing.assert_array_equal(weight, teacher.head()[0][ids])
        np.testing.assert_array_equal(bias, teacher.head()[1][ids])
        assert of_classes(fitted, numbers(ids), "s.zarr has") is fitted
    with pytest.raises(
        UsageError, match=r"does not know 4 of the 5 classes that s\.zarr has \(10, 11, 12, …\): use one"
    ):
        of_classes(teacher, numbers(range(9, 14)), "s.zarr has")
    with pytest.raises(UsageError, match=r"does not know 9 of the 10 classes"):  # 9 is not where it would be by number
        of_classes(teacher, numbers(range(9, 19)), "s.zarr has")


def test_a_nameless_teacher_knows_the_classes_that_were_chosen_from_as_many(tmp_path):
    teacher = load_classifier(str(make_teacher(tmp_path / "t")))
    teacher.class_names = None
    chosen = ClassList(("a", "b", "c"), None, ((1, 4, 9), 10))
    assert of_classes(teacher, chosen, "s.zarr has").outputs == (1, 4, 9)
    with pytest.raises(UsageError, match=r"knows 10 classes and s\.zarr has 3"):
        of_classes(teacher, ClassList(("a", "b", "c"), None, ((1, 4, 9), 11)), "s.zarr has")
    with pytest.raises(UsageError, match=r"knows 10 classes and s\.zarr has 3"):
        of_classes(teacher, ClassList(("a", "b", "c")), "s.zarr has")


def test_a_teacher_of_a_thousand_classes_knows_imagenets(tmp_path):
    teacher = load_classifier(str(make_teacher(tmp_path / "t", num_classes=1000)))
    teacher.class_names = None
    imagenet = imagenet_classes()
    assert of_classes(teacher, imagenet, "s.zarr has") is teacher
    hundred = imagenet.subset([134, 517, 999])  # two of them are called crane
    assert of_classes(teacher, hundred, "s.zarr has").outputs == (134, 517, 999)
    by_folder = ClassList(("n02012849", "n01440764"))
    assert of_classes(teacher, by_folder, "s.zarr has").outputs == (134, 0)
    assert of_classes(teacher, ClassList(("goldfish", "tabby_cat", "Persian cat")), "s.zarr has").outputs == (
        1,
        281,
        283,
    )
    with pytest.raises(UsageError, match=r"does not know 1 of the 2 classes that s\.zarr has \(crane\)"):
        of_classes(teacher, ClassList(("goldfish", "crane")), "s.zarr has")


def test_the_canonical_box_is_the_evaluation_view(tmp_path):
    teacher = load_classifier(str(make_teacher(tmp_path / "t")))
    teacher.crop_pct, teacher.input_size = 0.875, 224
    np.testing.assert_allclose(teacher.canonical_box((256, 256)), (16 / 256, 16 / 256, 224 / 256, 224 / 256))
