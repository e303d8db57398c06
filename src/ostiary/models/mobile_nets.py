"""Networks of inverted residual blocks in their usual form for 32 x 32 images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.component import NonNegative, PositiveFloat, Rate
from ostiary.errors import BadSpec
from ostiary.models.base import Architecture
from ostiary.models.image_layers import RECIPE, StagedNet, channels_last, conv_norm

Stage = tuple[int, int, int, int, int]  # expansion, channels, repeats, stride, kernel
MOBILE: tuple[Stage, ...] = (
    *((1, 16, 1, 1, 3), (6, 24, 2, 1, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3)),
    *((6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3)),
)
EFFICIENT: tuple[Stage, ...] = (
    *((1, 16, 1, 1, 3), (6, 24, 2, 1, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)),
    *((6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
)
STEM, HEAD = 32, 1280


class Squeeze(nn.Module):
    """Each channel times a gate in (0, 1) that is computed from the means of all channels."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()  # type: ignore[no-any-return]


class InvertedBlock(nn.Module):
    """1x1 to `expand` times the channels, one filter per channel, (a gate), 1x1 back; the input added where shapes agree."""

    def __init__(self, d_in: int, d_out: int, expand: int, stride: int, kernel: int, act: type[nn.Module], gate: bool) -> None:
        super().__init__()
        d = d_in * expand
        wider = [*conv_norm(d_in, d, 1), act()] if expand > 1 else []
        squeeze = [Squeeze(d, max(1, d_in // 4))] if gate else []
        self.body = nn.Sequential(*wider, *conv_norm(d, d, kernel, stride, groups=d), act(), *squeeze, *conv_norm(d, d_out, 1))
        self.adds = stride == 1 and d_in == d_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)  # type: ignore[no-any-return]


class InvertedNet(StagedNet):
    """A stem, stages of inverted blocks, a 1x1 convolution to the features. `gate`: EfficientNet's squeeze."""

    def __init__(
        self, data: Mapping[str, Any], plan: Sequence[Stage], width: float, act: type[nn.Module], gate: bool, dropout: float
    ) -> None:
        d = scaled(STEM, width)
        stem = nn.Sequential(*conv_norm(int(data["channels"]), d, 3), act())
        stages = []
        for expand, channels, repeats, stride, kernel in plan:
            blocks = []
            for j in range(repeats):
                out = scaled(channels, width)
                blocks.append(InvertedBlock(d, out, expand, stride if j == 0 else 1, kernel, act, gate))
                d = out
            stages.append(nn.Sequential(*blocks))
        super().__init__(data, stem, stages)
        features = scaled(HEAD, width)
        self.last = nn.Sequential(*conv_norm(d, features, 1), act())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, int(data["classes"]))

    def tail(self, x: Tensor) -> Tensor:
        return self.last(x)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.pooled(images)))  # type: ignore[no-any-return]


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, to the nearest multiple of 8, and no less than 8."""
    return max(8, int(channels * width + 4) // 8 * 8)


def repeated(plan: Sequence[Stage], repeats: Sequence[int], name: str) -> list[Stage]:
    """The stages with these numbers of blocks; a stage of none is left out, its stride with it."""
    if not repeats:
        return list(plan)
    if len(repeats) != len(plan) or sum(repeats) == 0:
        raise BadSpec(f"victim '{name}': repeats must hold {len(plan)} numbers, not all 0, one per stage; got {list(repeats)}")
    return [(e, c, n, s, k) for (e, c, _, s, k), n in zip(plan, repeats, strict=True) if n]


class MobileNetV2(Architecture, name="mobilenet-v2"):
    """Inverted residuals with linear bottlenecks. Sandler et al., CVPR 2018, arXiv:1801.04381.

    `preset: paper` is the usual form for 32 x 32 images: the paper's table with stride 1 in stem and second stage. `width`
    multiplies all channels (to a multiple of 8), those of the last convolution too (paper: only above 1). `repeats`:
    blocks per stage, 0 to leave a stage out; empty: the paper's 1, 2, 3, 4, 3, 3, 1.
    Defaults: a narrow and shallow form that learns in seconds on a CPU (ours).
    """

    modalities = frozenset({"image"})
    recipe = RECIPE
    width: PositiveFloat = 0.5
    repeats: tuple[NonNegative, ...] = (1, 1, 1, 1, 0, 0, 0)
    presets = {"paper": {"width": 1.0, "repeats": ()}}

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        plan = repeated(MOBILE, self.repeats, self.name)
        return channels_last(InvertedNet(data, plan, self.width, nn.ReLU6, gate=False, dropout=0.0))


class EfficientNetB0(Architecture, name="efficientnet-b0"):
    """Inverted residuals with squeeze-and-excitation and SiLU. Tan and Le, ICML 2019, arXiv:1905.11946.

    `preset: paper` is the usual form for 32 x 32 images: the paper's table with stride 1 in stem and second stage. `width`
    multiplies all channels (to a multiple of 8). `repeats`: blocks per stage, 0 to leave a stage out; empty: the paper's
    1, 2, 2, 3, 3, 4, 1. `dropout` before the classifier, 0.2: paper; no stochastic depth. SiLU nets learn badly at
    lr 0.1 without warm-up; the recipe warms up. Defaults: a narrow and shallow form for a CPU (ours).
    """

    modalities = frozenset({"image"})
    recipe = RECIPE
    width: PositiveFloat = 0.5
    repeats: tuple[NonNegative, ...] = (1, 1, 1, 1, 0, 0, 0)
    dropout: Rate = 0.2
    presets = {"paper": {"width": 1.0, "repeats": ()}}

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        plan = repeated(EFFICIENT, self.repeats, self.name)
        return channels_last(InvertedNet(data, plan, self.width, nn.SiLU, gate=True, dropout=self.dropout))
