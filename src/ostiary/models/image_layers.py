"""What the built-in image networks share: normalisation of their own, one way from pixels to logits, memory layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.component import Json
from ostiary.errors import InvalidInput

RECIPE: Mapping[str, Json] = {
    **{"optimizer": "sgd", "lr": 0.05, "epochs": 12, "batch_size": 128, "schedule": "one-cycle", "weight_decay": 5e-4}
}


class Normalise(nn.Module):
    """(x - mean) / std per channel, from the training images."""

    mean: Tensor
    std: Tensor

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(data["mean"]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(data["std"]).clamp(min=1e-3).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != len(self.mean) or not x.is_floating_point():  # broadcasting would hide it
            raise InvalidInput(
                f"the network takes floats [n, {len(self.mean)}, height, width] in [0, 1], got {x.dtype} {list(x.shape)}"
            )
        return (x - self.mean) / self.std


class StagedNet(nn.Module):
    """Normalise, stem, stages, whatever follows them (`tail`), mean over the pixels, classifier; any height and width."""

    def __init__(self, data: Mapping[str, Any], stem: nn.Module, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.normalise = Normalise(data)
        self.stem = stem
        self.layers = nn.ModuleList(layers)
        self.stages = tuple(f"layers.{i}" for i in range(len(layers)))

    def tail(self, x: Tensor) -> Tensor:
        return x

    def pooled(self, images: Tensor) -> Tensor:
        """What enters the classifier: float [n, d]."""
        x = self.stem(self.normalise(images).contiguous(memory_format=torch.channels_last))
        for layer in self.layers:
            x = layer(x)
        return self.tail(x).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.pooled(images))  # type: ignore[no-any-return, operator]


class Projection(nn.Conv2d):
    """A 1 x 1 convolution without bias. With a stride it takes the pixels itself where channels are few: from fewer than 8
    oneDNN's kernel for channels last writes past its buffers in the backward pass (torch 2.13; the process dies)."""

    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__(d_in, d_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        step = self.stride[0]
        if step > 1 and self.in_channels < 8:
            return F.conv2d(x[..., ::step, ::step].contiguous(memory_format=torch.channels_last), self.weight)
        return super().forward(x)


def conv_norm(d_in: int, d_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size (at stride 1), without bias, and its BatchNorm."""
    return [nn.Conv2d(d_in, d_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(d_out)]


def channels_last(net: nn.Module) -> nn.Module:
    """The layout in which convolutions are fastest on CPU."""
    for p in net.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=torch.channels_last)
    return net
