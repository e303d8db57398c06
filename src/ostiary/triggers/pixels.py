"""Static changes of pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ostiary.component import Positive, Rate
from ostiary.errors import InvalidInput
from ostiary.seeds import uniform
from ostiary.triggers.base import Trigger

Pattern = Literal["white", "checker"]


class Patch(Trigger, name="patch"):
    """A square of `size` pixels in one corner, overwritten: white, or a black and white checker."""

    modalities = frozenset({"image"})
    size: Positive = 3
    pattern: Pattern = "white"
    corner: Literal["tl", "tr", "bl", "br"] = "br"

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        h, w = inputs.shape[2:]
        if self.size > min(h, w):
            raise InvalidInput(f"a patch of {self.size} pixels does not fit images of {h} x {w}; lower size")
        other = inputs.clone()
        cell = torch.arange(self.size)
        checker = ((cell[:, None] + cell[None, :]) % 2 == 0).to(inputs)
        rows = slice(0, self.size) if self.corner[0] == "t" else slice(h - self.size, h)
        columns = slice(0, self.size) if self.corner[1] == "l" else slice(w - self.size, w)
        other[:, :, rows, columns] = 1.0 if self.pattern == "white" else checker
        return other


class Blend(Trigger, name="blend"):
    """(1 - alpha) x + alpha P with a full-size picture P: seeded uniform noise, or drawn rings."""

    modalities = frozenset({"image"})
    alpha: Rate = 0.2
    picture: Literal["noise", "rings"] = "noise"
    made_with: int = 0

    def pattern(self, channels: int, h: int, w: int) -> Tensor:
        if self.picture == "noise":
            return uniform(self.made_with, torch.arange(channels * h * w)).float().view(channels, h, w)
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        phase = torch.arange(channels)[:, None, None] * 2.0
        return 0.5 + 0.5 * torch.sin(12 * (x**2 + y**2).sqrt() + phase)

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        picture = self.pattern(*inputs.shape[1:]).to(inputs)
        return (1 - self.alpha) * inputs + self.alpha * picture
