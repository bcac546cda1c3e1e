"""The networks of the CIFAR papers: their size, their place in timm, and the checkpoints they read."""

import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F

from dmkd.cifar_models import CIFAR_MODELS
from dmkd.classifiers.load import load_classifier
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
# At 100 classes, counted in the networks of RepDistiller's and mdistiller's code.
OF_PAPERS = {
    "cifar_resnet8x4": 1_233_540,
    "cifar_resnet32x4": 7_433_860,
    "cifar_vgg8": 3_965_028,
    "cifar_vgg11": 9_277_284,
    "cifar_vgg13": 9_462_180,
}
SMALL = ["wrn_16_1", "wrn_16_2", "cifar_resnet20", "cifar_resnet8x4", "cifar_vgg8", "cifar_vgg11_bn", "cifar_resnet18"]


def test_the_parameters_are_as_many_as_published():
    def count(name, num_classes):
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name, num_classes=num_classes).parameters())

    assert {name: count(name, 10) / 1e6 for name in PUBLISHED} == pytest.approx(PUBLISHED, rel=0.01)
    assert {name: count(name, 100) for name in OF_PAPERS} == OF_PAPERS
    assert CIFAR_MODELS.keys() == {*PUBLISHED, *OF_PAPERS}


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
@pytest.mark.parametrize("name", ["wrn_16_1", "cifar_resnet20", "cifar_resnet8x4", "cifar_vgg8", "cifar_vgg11_bn"])
def test_images_of_other_sizes_are_taken(name, size):
    assert timm.create_model(name, num_classes=10).eval()(torch.randn(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("name", ["wrn_16_1", "cifar_resnet20", "cifar_resnet8x4", "cifar_vgg8", "cifar_vgg11_bn"])
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


def repdistiller_forward(weights, x, widths_of_blocks):
    """RepDistiller's VGG by its state dict alone, in evaluation mode."""
    for block, convolutions in enumerate(widths_of_blocks):
        for number in range(convolutions):
            conv, norm = (f"block{block}.{3 * number + part}" for part in (0, 1))
            x = F.conv2d(x, weights[f"{conv}.weight"], weights[f"{conv}.bias"], padding=1)
            statistics = (weights[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
            x = F.relu(F.batch_norm(x, *statistics))
        if block < 3:
            x = F.max_pool2d(x, 2)
    return F.linear(x.mean((2, 3)), weights["classifier.weight"], weights["classifier.bias"])


@pytest.mark.parametrize(
    ("name", "blocks"), [("cifar_vgg8", (1,) * 5), ("cifar_vgg11", (1, 1, 2, 2, 2)), ("cifar_vgg13", (2,) * 5)]
)
def test_a_paper_vggs_checkpoint_computes_here_what_it_computed_there(name, blocks, tmp_path):
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=100)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
    torch.save({"model": model.state_dict()}, tmp_path / "theirs.pth")
    read = load_classifier(f"{name}={tmp_path / 'theirs.pth'}")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(read.model(x), repdistiller_forward(model.state_dict(), x, blocks))
    with pytest.raises(DmkdError, match="could not be loaded as cifar_vgg11_bn"):  # whose poolings are others
        load_classifier(f"cifar_vgg11_bn={tmp_path / 'theirs.pth'}")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(timm.create_model("wrn_16_1", num_classes=10).state_dict(), tmp_path / "w.pth")
    with pytest.raises(DmkdError, match=r"w\.pth could not be loaded as wrn_16_2"):
        load_classifier(f"wrn_16_2={tmp_path / 'w.pth'}")


def test_whoever_loads_classifiers_knows_the_models():
    code = "import dmkd.classifiers.load, timm; print(timm.is_model('wrn_40_2'))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"
