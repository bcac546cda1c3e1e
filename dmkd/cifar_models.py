"""The networks of the CIFAR papers, registered with timm by importing this file.

Neither timm nor torchvision nor pytorchcv has the small ones (pytorchcv's WideResNets begin at WRN-16-10). They are built
for 32x32 and take any size from 8x8 on. Weights are laid out as in the code that most public checkpoints come from:

    wrn_*                    xternalz/WideResNet-pytorch, as RepDistiller (CRD), CMI, Fast-Datafree and DM-KD have it
    cifar_resnet20 to 110    chenyaofo/pytorch-cifar-models and RepDistiller: 1x1 convolutions where the width changes
    cifar_resnet8x4, 32x4    RepDistiller and mdistiller: 32, 64, 128 and 256 channels
    cifar_resnet18, 34, 50   timm's and torchvision's; kuangliu/pytorch-cifar's names are translated
    cifar_vgg8, 11, 13       RepDistiller and mdistiller, who say vgg8, vgg11, vgg13 and mean these with batch normalisation
    cifar_vgg11_bn           kuangliu/pytorch-cifar: five poolings, one linear layer

Not readable: akamaster's ResNets (shortcuts without weights) and chenyaofo's VGG (three linear layers).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

CIFAR10_STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
CIFAR100_STATISTICS = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}


class _CifarModel(nn.Module):
    """What timm expects of a model, for networks that end in pooling and one linear layer."""

    classifier_name = "fc"

    def __init__(self, num_features: int, num_classes: int, in_chans: int, global_pool: str, drop_rate: float) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = num_features
        self.in_chans, self.drop_rate = in_chans, drop_rate
        self.pool_type = global_pool
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        return getattr(self, self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer, float (n, num_features) -> (n, num_classes); 0 classes: none."""
        self.num_classes = num_classes
        self.pool_type = global_pool if global_pool is not None else self.pool_type
        self.global_pool, classifier = create_classifier(self.num_features, num_classes, pool_type=self.pool_type)
        setattr(self, self.classifier_name, classifier)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if enable:
            raise ValueError("These networks are too small for gradient checkpointing.")

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """float (n, in_chans, S, S) -> the last feature maps (n, num_features, s, s)."""
        raise NotImplementedError  # each network has its own; the rest is shared

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Feature maps -> logits (n, C), or with ``pre_logits`` the input of the last layer (n, num_features)."""
        x = nn.functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class WideResNet(_CifarModel):
    """WRN-depth-width (Zagoruyko & Komodakis 2016): pre-activated blocks in three groups, depth = 6n + 4."""

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(64 * width, num_classes, in_chans, global_pool, drop_rate)
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.block1 = _WideGroup(16, 16 * width, blocks, stride=1)
        self.block2 = _WideGroup(16 * width, 32 * width, blocks, stride=2)
        self.block3 = _WideGroup(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        _initialise(self)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))


class _WideGroup(nn.Module):
    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = _WideBlock(in_channels, channels, stride)
        self.layer = nn.Sequential(first, *(_WideBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class _WideBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if in_channels != channels else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return shortcut + self.conv2(self.relu(self.bn2(self.conv1(activated))))


class CifarResNet(_CifarModel):
    """ResNet-(6n + 2) for 32x32 images (He et al. 2016, section 4.2): three stages of n blocks, 16, 32 and 64 channels wide.

    ``widths``: of the stem and the stages. The four times wider ones of the distillation papers double the stem alone to 32.
    """

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(widths[-1], num_classes, in_chans, global_pool, drop_rate)
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(*widths[0:2], blocks, stride=1)
        self.layer2 = self._stage(*widths[1:3], blocks, stride=2)
        self.layer3 = self._stage(*widths[2:4], blocks, stride=2)
        _initialise(self)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        downsample = None
        if stride != 1 or in_channels != channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))
        first = BasicBlock(in_channels, channels, stride, downsample)
        return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))


# Convolutions by their width, and where the size is halved.
_VGG_LAYERS = {11: (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")}


class VggBn(_CifarModel):
    """VGG with batch normalisation (Simonyan & Zisserman 2015) as used on CIFAR: one linear layer after the convolutions."""

    classifier_name = "classifier"

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(512, num_classes, in_chans, global_pool, drop_rate)
        layers: list[nn.Module] = []
        channels = in_chans
        for layer in _VGG_LAYERS[depth]:
            if isinstance(layer, int):
                conv = nn.Conv2d(channels, layer, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(layer), nn.ReLU(inplace=True)]
                channels = layer
            else:
                # ceil_mode changes nothing at 32x32 and lets smaller images through.
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        _initialise(self)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)


# Convolutions in each of five blocks.
_PAPER_VGG_BLOCKS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2)}


class PaperVgg(_CifarModel):
    """VGG of the distillation papers: batch normalisation, three poolings (at 64x64 four), and the average of what is left."""

    classifier_name = "classifier"

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(512, num_classes, in_chans, global_pool, drop_rate)
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _vgg_block(before, width, convolutions)
            for before, width, convolutions in zip(
                (in_chans, 64, 128, 256, 512), (64, 128, 256, 512, 512), _PAPER_VGG_BLOCKS[depth], strict=True
            )
        )
        self.pool = nn.MaxPool2d(2)
        _initialise(self)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2]
        x = self.pool(self.block2(self.pool(self.block1(self.pool(self.block0(x))))))
        x = self.block3(x)
        return self.block4(self.pool(x) if size == 64 else x)


def _vgg_block(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(convolutions):
        conv = nn.Conv2d(in_channels if number == 0 else channels, channels, 3, padding=1)
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class SmallStemResNet(ResNet):
    """timm's ResNet with the stem of CIFAR papers: one 3x3 convolution, no pooling."""

    def __init__(self, in_chans: int = 3, num_classes: int = 10, **options: Any) -> None:
        super().__init__(in_chans=in_chans, num_classes=num_classes, **options)
        stem = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.add_module("conv1", stem)
        self.add_module("maxpool", nn.Identity())


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


# Name -> class, its options. Parameters are those of the literature (tests/test_cifar_models.py).
CIFAR_MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "wrn_16_1": (WideResNet, {"depth": 16, "width": 1}),
    "wrn_16_2": (WideResNet, {"depth": 16, "width": 2}),
    "wrn_40_1": (WideResNet, {"depth": 40, "width": 1}),
    "wrn_40_2": (WideResNet, {"depth": 40, "width": 2}),
    "cifar_resnet20": (CifarResNet, {"depth": 20}),
    "cifar_resnet32": (CifarResNet, {"depth": 32}),
    "cifar_resnet44": (CifarResNet, {"depth": 44}),
    "cifar_resnet56": (CifarResNet, {"depth": 56}),
    "cifar_resnet110": (CifarResNet, {"depth": 110}),
    "cifar_resnet8x4": (CifarResNet, {"depth": 8, "widths": (32, 64, 128, 256)}),
    "cifar_resnet32x4": (CifarResNet, {"depth": 32, "widths": (32, 64, 128, 256)}),
    "cifar_resnet18": (SmallStemResNet, {"block": BasicBlock, "layers": (2, 2, 2, 2)}),
    "cifar_resnet34": (SmallStemResNet, {"block": BasicBlock, "layers": (3, 4, 6, 3)}),
    "cifar_resnet50": (SmallStemResNet, {"block": Bottleneck, "layers": (3, 4, 6, 3)}),
    "cifar_vgg8": (PaperVgg, {"depth": 8}),
    "cifar_vgg11": (PaperVgg, {"depth": 11}),
    "cifar_vgg13": (PaperVgg, {"depth": 13}),
    "cifar_vgg11_bn": (VggBn, {"depth": 11}),
}

_POOL_SIZES: dict[type[nn.Module], tuple[int, int]] = {SmallStemResNet: (4, 4), PaperVgg: (4, 4), VggBn: (1, 1)}
_FIRST_CONVOLUTIONS: dict[type[nn.Module], str] = {PaperVgg: "block0.0", VggBn: "features.0"}

# Where timm's register_model looks for it.
default_cfgs: dict[str, dict[str, Any]] = {
    name: {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": _POOL_SIZES.get(model_class, (8, 8)),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        **CIFAR10_STATISTICS,
        "first_conv": _FIRST_CONVOLUTIONS.get(model_class, "conv1"),
        "classifier": getattr(model_class, "classifier_name", "fc"),
    }
    for name, (model_class, _) in CIFAR_MODELS.items()
}


def translate_weights(architecture: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's tensors under the names that the networks here use; other names and other networks' stay as they are."""
    if architecture not in CIFAR_MODELS:
        return dict(weights)
    return {_translated(name): tensor for name, tensor in weights.items()}


def _translated(name: str) -> str:
    return re.sub(r"^linear\.", "fc.", name).replace(".shortcut.", ".downsample.")


def _register(name: str, model_class: type[nn.Module], options: dict[str, Any]) -> None:
    def create(pretrained: bool = False, **changes: Any) -> nn.Module:
        # A plain checkpoint does not say how its images were normalised; a model folder does (pretrained_cfg).
        if changes.get("num_classes") == 100 and changes.get("pretrained_cfg") is None:
            changes["pretrained_cfg_overlay"] = CIFAR100_STATISTICS | (changes.get("pretrained_cfg_overlay") or {})
        return build_model_with_cfg(model_class, name, pretrained, **options, **changes)

    create.__name__ = create.__qualname__ = name
    register_model(create)


for _name, (_class, _options) in CIFAR_MODELS.items():
    _register(_name, _class, _options)
