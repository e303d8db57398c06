"""Residual networks in their CIFAR form: a 3x3 stem without pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.component import Positive
from ostiary.models.base import Architecture
from ostiary.models.image_layers import RECIPE, Projection, StagedNet, channels_last, conv_norm

Block = Callable[[int, int, int], nn.Module]  # channels in, channels out, stride


class PreActBlock(nn.Module):
    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(d_in), nn.BatchNorm2d(d_out)
        self.conv1 = nn.Conv2d(d_in, d_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(d_out, d_out, 3, 1, 1, bias=False)
        changes = stride != 1 or d_in != d_out
        self.shortcut = Projection(d_in, d_out, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        o = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(o)
        return self.conv2(F.relu(self.bn2(self.conv1(o)))) + skip  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(d_in, d_out, 3, stride)
        self.conv2, self.bn2 = conv_norm(d_out, d_out, 3)
        changes = stride != 1 or d_in != d_out
        self.shortcut = nn.Sequential(Projection(d_in, d_out, stride), nn.BatchNorm2d(d_out)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + skip)


def doubling(block: Block, width: int, blocks: Sequence[int]) -> Sequence[nn.Module]:
    """Stages of `blocks` blocks each; from one to the next, twice the channels at half the size."""
    stages, d = [], width
    for i, n in enumerate(blocks):
        out = width * 2**i
        strides = [1 if i == 0 else 2] + [1] * (n - 1)
        stages.append(nn.Sequential(*(block(d if j == 0 else out, out, s) for j, s in enumerate(strides))))
        d = out
    return stages


class PreActNet(StagedNet):
    def __init__(self, data: Mapping[str, Any], width: int, blocks: Sequence[int], final_norm: bool) -> None:
        stem = nn.Conv2d(int(data["channels"]), width, 3, 1, 1, bias=False)
        super().__init__(data, stem, doubling(PreActBlock, width, blocks))
        d = width * 2 ** (len(blocks) - 1)
        self.norm = nn.BatchNorm2d(d) if final_norm else None
        self.classifier = nn.Linear(d, int(data["classes"]))

    def tail(self, x: Tensor) -> Tensor:
        return x if self.norm is None else F.relu(self.norm(x))


class PreActResNet(Architecture, name="preact-resnet"):
    """Pre-activation ResNet with width and depth options. He et al., ECCV 2016, arXiv:1603.05027.

    `width`: channels of the first stage, doubled at each next (64 and blocks 2, 2, 2, 2 give PreAct-ResNet18).
    `final_norm`: the last BatchNorm and ReLU of the paper, which the form that benchmarks copy leaves out (11,171,146 weights
    for ten classes): signed features change what pruning and spectral scores see. Their tables take `final_norm: false`.
    Defaults: the small form that learns in seconds on a CPU (ours).
    """

    modalities = frozenset({"image"})
    recipe = RECIPE
    width: Positive = 16
    blocks: tuple[Positive, ...] = (1, 1, 1)
    final_norm: bool = True
    presets = {"paper": {"width": 64, "blocks": (2, 2, 2, 2)}}

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        return channels_last(PreActNet(data, self.width, self.blocks, self.final_norm))


class PostActNet(StagedNet):
    def __init__(self, data: Mapping[str, Any], width: int, blocks: Sequence[int]) -> None:
        stem = nn.Sequential(*conv_norm(int(data["channels"]), width, 3), nn.ReLU())
        super().__init__(data, stem, doubling(BasicBlock, width, blocks))
        self.classifier = nn.Linear(width * 2 ** (len(blocks) - 1), int(data["classes"]))


class ResNet(Architecture, name="resnet"):
    """ResNet with width and depth options. He et al., CVPR 2016, arXiv:1512.03385.

    `width`: channels of the first stage, doubled at each next. `preset: paper` (width 64, blocks 2, 2, 2, 2) is ResNet18
    with the stem that is usual for 32 x 32 images: 3 x 3, stride 1, no pooling (the paper's own is for 224 x 224), and
    1 x 1 convolutions where the shape changes. Defaults: the small form that learns in seconds on a CPU (ours).
    """

    modalities = frozenset({"image"})
    recipe = RECIPE
    width: Positive = 16
    blocks: tuple[Positive, ...] = (1, 1, 1)
    presets = {"paper": {"width": 64, "blocks": (2, 2, 2, 2)}}

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        return channels_last(PostActNet(data, self.width, self.blocks))
