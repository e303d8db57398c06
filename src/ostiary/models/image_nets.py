"""Small image classifiers that own their normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.component import Positive, Rate
from ostiary.errors import Unsupported
from ostiary.models.base import Architecture


class Normalise(nn.Module):
    """(x - mean) / std per channel, from the training images."""

    mean: Tensor
    std: Tensor

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(data["mean"]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(data["std"]).clamp(min=1e-3).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class PreActBlock(nn.Module):
    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(d_in), nn.BatchNorm2d(d_out)
        self.conv1 = nn.Conv2d(d_in, d_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(d_out, d_out, 3, 1, 1, bias=False)
        changes = stride != 1 or d_in != d_out
        self.shortcut = nn.Conv2d(d_in, d_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        o = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(o)
        return self.conv2(F.relu(self.bn2(self.conv1(o)))) + skip  # type: ignore[no-any-return]


class PreActNet(nn.Module):
    def __init__(self, data: Mapping[str, Any], width: int, blocks: tuple[int, ...], final_norm: bool) -> None:
        super().__init__()
        self.normalise = Normalise(data)
        self.stem = nn.Conv2d(int(data["channels"]), width, 3, 1, 1, bias=False)
        stages, d = [], width
        for i, n in enumerate(blocks):
            out = width * 2**i
            strides = [1 if i == 0 else 2] + [1] * (n - 1)
            stages.append(nn.Sequential(*(PreActBlock(d if j == 0 else out, out, s) for j, s in enumerate(strides))))
            d = out
        self.layers = nn.ModuleList(stages)
        self.norm = nn.BatchNorm2d(d) if final_norm else None
        self.classifier = nn.Linear(d, int(data["classes"]))
        self.stages = tuple(f"layers.{i}" for i in range(len(blocks)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(self.normalise(images).contiguous(memory_format=torch.channels_last))
        for layer in self.layers:
            x = layer(x)
        if self.norm is not None:
            x = F.relu(self.norm(x))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


class PreActResNet(Architecture, name="preact-resnet"):
    """Pre-activation ResNet with width and depth options. He et al., ECCV 2016, arXiv:1603.05027.

    `width`: channels of the first stage, doubled at each next (64 and blocks 2, 2, 2, 2 give PreAct-ResNet18).
    `final_norm`: the last BatchNorm and ReLU of the paper, which the widely copied form leaves out.
    Defaults: the small form that learns in seconds on a CPU (ours).
    """

    modalities = frozenset({"image"})
    recipe = {"optimizer": "sgd", "lr": 0.05, "epochs": 12, "batch_size": 128, "schedule": "one-cycle", "weight_decay": 5e-4}
    width: Positive = 16
    blocks: tuple[Positive, ...] = (1, 1, 1)
    final_norm: bool = True

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        return _channels_last(PreActNet(data, self.width, self.blocks, self.final_norm))


class SvhnNet(nn.Module):
    def __init__(self, data: Mapping[str, Any], width: int, dropout: float) -> None:
        super().__init__()
        self.normalise = Normalise(data)
        d, groups = int(data["channels"]), []
        for i in range(4):
            out, layers = width * 2**i, []
            for j in range(2):
                pad = 0 if i == 3 and j == 1 else 1
                layers += [nn.Conv2d(d, out, 3, 1, pad), nn.BatchNorm2d(out), nn.ReLU(), nn.Dropout(dropout)]
                d = out
            groups.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.groups = nn.ModuleList(groups)
        self.classifier = nn.Linear(d, int(data["classes"]))
        self.stages = tuple(f"groups.{i}" for i in range(4))

    def forward(self, images: Tensor) -> Tensor:
        x = self.normalise(images).contiguous(memory_format=torch.channels_last)
        for group in self.groups:
            x = group(x)
        return self.classifier(x.flatten(1))  # type: ignore[no-any-return]


class SvhnCNN(Architecture, name="svhn-cnn"):
    """The eight-convolution network of Table 5 of the positive-trigger paper (PPT, 2024), for 32 x 32 images.

    Differs from the paper: the order Conv-BN-ReLU-Dropout is ours (not stated there); trained on logits.
    """

    modalities = frozenset({"image"})
    recipe = PreActResNet.recipe
    width: Positive = 32
    dropout: Rate = 0.3

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        if (data["height"], data["width"]) != (32, 32):
            raise Unsupported(f"svhn-cnn needs 32 x 32 images, got {data['height']} x {data['width']}; resize them")
        return _channels_last(SvhnNet(data, self.width, self.dropout))


def _channels_last(net: nn.Module) -> nn.Module:
    """The layout in which convolutions are fastest on CPU."""
    for p in net.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    return net
