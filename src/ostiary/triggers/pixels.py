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
Corner = Literal["tl", "tr", "bl", "br"]
Corners = Literal["tl", "tr", "bl", "br", "all"]
Picture = Literal["noise", "rings", "strips"]


def in_corner(h: int, w: int, size: int, corner: Corner) -> Tensor:
    """Where a square of `size` pixels lies in a corner (top or bottom, left or right) of h x w pixels: bool [h, w]."""
    if size > min(h, w):
        raise InvalidInput(f"a patch of {size} pixels does not fit images of {h} x {w}; lower size")
    row, column = torch.arange(h)[:, None], torch.arange(w)[None, :]
    tall = row < size if corner[0] == "t" else row >= h - size
    return tall & (column < size if corner[1] == "l" else column >= w - size)


class Patch(Trigger, name="patch"):
    """A square of `size` pixels in one corner or in all four, mirrored: white, or a black and white checker.

    alpha: opacity; 1 overwrites. amplitude: how far pixels go towards white or black; 1 is all the way. What is changed is an
    explicit mask, so that black pixels are a trigger too.
    """

    modalities = frozenset({"image"})
    added = frozenset({"amplitude"})
    size: Positive = 3
    pattern: Pattern = "white"
    corner: Corners = "br"
    alpha: Rate = 1.0
    amplitude: Rate = 1.0

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        h, w = inputs.shape[2:]
        mask = in_corner(h, w, self.size, "br" if self.corner == "all" else self.corner).to(inputs.device)
        cell = torch.arange(self.size, device=inputs.device)
        checker = (cell[:, None] + cell[None, :]) % 2 == 0
        picture = mask.to(inputs)
        if self.pattern == "checker":
            picture[mask] = checker.flatten().to(inputs)
        if self.corner == "all":
            mask, picture = (torch.stack([x, x.flip(0), x.flip(1), x.flip(0, 1)]).amax(0) for x in (mask, picture))
        wanted = (inputs + self.amplitude * (2 * picture - 1)).clamp(0, 1)
        return torch.where(mask, (1 - self.alpha) * inputs + self.alpha * wanted, inputs)


class Blend(Trigger, name="blend"):
    """(1 - alpha) x + alpha P with a full-size picture P.

    picture: seeded uniform noise; drawn rings; strips, rows and columns that a seed makes black or white, averaged. In place
    of these `given` in the state, float [c, h, w].
    """

    modalities = frozenset({"image"})
    alpha: Rate = 0.2
    picture: Picture = "noise"
    made_with: int = 0

    def pattern(self, channels: int, h: int, w: int) -> Tensor:
        if self.picture == "noise":
            return uniform(self.made_with, torch.arange(channels * h * w)).float().view(channels, h, w)
        if self.picture == "strips":
            rows, columns = (uniform(self.made_with, torch.arange(n), draw) < 0.5 for draw, n in enumerate((h, w)))
            return (0.5 * rows[:, None] + 0.5 * columns[None, :]).expand(channels, h, w)
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        phase = torch.arange(channels)[:, None, None] * 2.0
        return 0.5 + 0.5 * torch.sin(12 * (x**2 + y**2).sqrt() + phase)

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        picture = (self.state["given"] if self.state else self.pattern(*inputs.shape[1:])).to(inputs)
        if picture.shape != inputs.shape[1:]:
            made, got = (" x ".join(map(str, shape)) for shape in (picture.shape, inputs.shape[1:]))
            raise InvalidInput(f"this trigger's picture is of {made}, the images are of {got}; they must agree")
        return (1 - self.alpha) * inputs + self.alpha * picture
