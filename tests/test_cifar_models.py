"""The networks of the CIFAR papers: their size, their place in timm, and the checkpoints they read."""

import subprocess
import sys

import pytest
import timm
import torch

from dmkd.cifar_models import CIFAR_MODELS
from dmkd.classifiers.classifier import load_classifier
from dmkd.classifiers.students import create_student, save_student
from dmkd.stores import DmkdError

# Millions of parameters at 10 classes. He et al. 2016 (table 6) have 0.27, 0.46, 0.66, 0.85 and 1.7 for ResNet-20 to 110, whose
# shortcuts have no weights; with 1x1 convolutions there, chenyaofo/pytorch-cifar-models has 0.27, 0.47, 0.66 and 0.86.
PUBLISHED = {
    "wrn_16_1": 0.175,
    "wrn_16_2": 0.69,
    "wrn_40_1": 0.56,
    "wrn_40_2": 2.24,
    "cifar_resnet20": 0.27,
    "cifar_resnet32": 0.47,
    "cifar_resnet44": 0.66,
    "cifar_resnet56": 0.86,
    "cifar_resnet110": 1.73,
    "cifar_resnet18": 11.17,
    "cifar_resnet34": 21.28,
    "cifar_resnet50": 23.52,
    "cifar_vgg11_bn": 9.23,
}
SMALL = ["wrn_16_1", "wrn_16_2", "cifar_resnet20", "cifar_vgg11_bn", "cifar_resnet18"]


def test_the_parameters_are_as_many_as_published():
    counts = {}
    for name in CIFAR_MODELS:
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in timm.create_model(name, num_classes=10).parameters()) / 1e6
    assert counts == pytest.approx(PUBLISHED, rel=0.01)


@pytest.mark.parametrize("name", SMALL)
def test_a_model_is_all_that_timm_asks_of_one(name):
    model = timm.create_model(name, num_classes=100, in_chans=1).eval()
    x = torch.randn(2, 1, 32, 32)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert features.shape == (2, model.num_features) == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(features), model(x))
    assert model(x).shape == (2, 100) and model.default_cfg["input_size"] == (3, 32, 32)
    assert model.get_submodule(model.default_cfg["classifier"]) is model.get_classifier()
    assert model.get_submodule(model.default_cfg["first_conv"]).in_channels == 1
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)


@pytest.mark.parametrize("size", [8, 28, 64])
@pytest.mark.parametrize("name", ["wrn_16_1", "cifar_resnet20", "cifar_vgg11_bn"])
def test_images_of_other_sizes_are_taken(name, size):
    assert timm.create_model(name, num_classes=10).eval()(torch.randn(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name", ["wrn_16_1", "cifar_resnet20", "cifar_vgg11_bn"])
def test_a_signal_goes_through_at_the_start(name):
    """Activations neither vanish nor blow up, so that training can begin."""
    torch.manual_seed(0)
    maps = timm.create_model(name, num_classes=10).train().forward_features(torch.randn(16, 3, 32, 32))
    assert 0.1 < maps.std() < 10


def test_a_student_is_saved_and_found_again_with_its_own_normalisation(tmp_path):
    model = create_student("wrn_16_1", 100, image_size=32)
    preprocessing = {"input_size": 32, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    preprocessing |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    save_student(tmp_path, model, "wrn_16_1", [str(i) for i in range(100)], preprocessing)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = model.eval()((pixels / 255 - 0.5) / 0.5)
    torch.testing.assert_close(load_classifier(str(tmp_path)).logits(pixels), expected)


def test_a_teacher_is_a_checkpoint_with_its_name_in_front(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("wrn_16_2", num_classes=100)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    teacher = load_classifier(f"wrn_16_2={tmp_path / 'weights.pth'}")
    assert (teacher.num_classes, teacher.input_size, teacher.crop_pct) == (100, 32, 1.0)
    assert teacher.mean[0] == 0.5071, "CIFAR-100's statistics, as its classes are 100"
    weight, _ = teacher.head()
    assert weight.shape == (100, 128)


# Names as the public code has them -> names here.
FOREIGN = {
    "cifar_resnet18": {  # kuangliu/pytorch-cifar
        "linear.weight": "fc.weight",
        "linear.bias": "fc.bias",
        **{
            f"layer{stage}.0.shortcut.{part}": f"layer{stage}.0.downsample.{part}"
            for stage in (2, 3, 4)
            for part in ("0.weight", *(f"1.{x}" for x in ("weight", "bias", "running_mean", "running_var")))
        },
    },
    "cifar_vgg11_bn": {  # RepDistiller: block0 to block4, each convolution, batch norm, ReLU
        f"block{block}.{3 * number + part}.{kind}": f"features.{place + part}.{kind}"
        for block, places in enumerate([[0], [4], [8, 11], [15, 18], [22, 25]])
        for number, place in enumerate(places)
        for part, kinds in enumerate(
            [["weight", "bias"], ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]]
        )
        for kind in kinds
    },
}


@pytest.mark.parametrize("name", FOREIGN)
def test_public_checkpoints_with_other_names_are_read(name, tmp_path):
    torch.manual_seed(2)
    model = timm.create_model(name, num_classes=10).eval()
    theirs = {here: there for there, here in FOREIGN[name].items()}
    weights = {theirs.get(key, key): value for key, value in model.state_dict().items()}
    assert weights.keys() != model.state_dict().keys()
    torch.save(weights, tmp_path / "theirs.pth")
    read = load_classifier(f"{name}={tmp_path / 'theirs.pth'}")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in read.model.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(timm.create_model("wrn_16_1", num_classes=10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(DmkdError, match=r"w\.pth could not be loaded as wrn_16_2"):
        load_classifier(f"wrn_16_2={tmp_path / 'w.pth'}")


def test_whoever_loads_classifiers_knows_the_models():
    code = "import dmkd.classifiers, timm; print(timm.is_model('wrn_40_2'))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"
