"""Tiny teachers of other libraries and of a user's own, for tests."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

SMALL = "shufflenet_v2_x0_5"  # of torchvision: 1.4 M weights

OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.last = nn.Linear(32, classes)

    def forward(self, pixels):
        return self.last(self.body(pixels).view(len(pixels), -1))

def net(classes=10):
    torch.manual_seed(0)
    return Net(classes)

def teacher():
    fed = dict(input_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=1)
    return net(), {**fed, "class_names": ["class 9", *(f"name {number}" for number in range(8, -1, -1))]}

def plain():
    return net()

def like_timm():
    return net(), dict(input_size=(3, 48, 48), interpolation="bicubic")

def like_torchvision():
    from torchvision.models import ResNet50_Weights
    return net(), ResNet50_Weights.DEFAULT.transforms()

def unknown_key():
    return net(), dict(size=32)

def unknown_interpolation():
    return net(), dict(interpolation="best")

def names():
    return net(), dict(class_names=["a", "b"])

def softmax():
    return nn.Sequential(net(), nn.Softmax(1))

def maps():
    return nn.Conv2d(3, 10, 3)

def restless():
    class Restless(Net):
        def forward(self, pixels):
            return super().forward(pixels) + torch.rand(1)
    return Restless()

def infinite():
    return nn.Sequential(net(), nn.Threshold(1e9, float("nan")))

def nothing():
    return None

def failing():
    raise OSError("the disk is full")
"""


def of_ten(model_name: str, file: Path) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(model_name, weights=None, num_classes=10).eval()
    torch.save(model.state_dict(), file)
    return model


def save_hf_resnet(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers", reason="needs transformers (pip install 'dmkd[t2i]')")
    torch.manual_seed(0)
    names = {
        0: "class 9",
        **{number: f"name {9 - number}" for number in range(1, 10)},
    }  # the generator's, in another order
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10, id2label=names
    )
    model = transformers.ResNetForImageClassification(config).eval()
    with torch.no_grad():
        model.classifier[1].weight.mul_(9)
    model.save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(folder)
    return folder


def enter_own_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder the current one, with a module of one's own in it, ``own_teachers``."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_teachers", raising=False)
    (folder / "own_teachers.py").write_text(OWN)
    return folder


def register(folder: Path) -> None:
    """A package in this folder, as if it were installed, that registers the teacher ``pets-resnet``."""
    metadata = folder / "pets-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pets\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[dmkd.teachers]\npets-resnet = own_teachers:teacher\n")
    sys.path.insert(0, str(folder))
