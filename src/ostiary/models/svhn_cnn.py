"""The plain convolutional network of the positive-trigger paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ostiary.component import Positive, Rate
from ostiary.errors import Unsupported
from ostiary.models.base import Architecture
from ostiary.models.image_layers import RECIPE, Normalise, channels_last


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
    recipe = RECIPE
    width: Positive = 32
    dropout: Rate = 0.3

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        if (data["height"], data["width"]) != (32, 32):
            raise Unsupported(f"svhn-cnn needs 32 x 32 images, got {data['height']} x {data['width']}; resize them")
        return channels_last(SvhnNet(data, self.width, self.dropout))
