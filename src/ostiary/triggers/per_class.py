"""Static triggers of which every class has its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import NonNegativeFloat, Positive
from ostiary.errors import InvalidInput
from ostiary.seeds import generator
from ostiary.triggers.base import Trigger
from ostiary.triggers.warp import warp_grid, warped

SIDE, CODES = 3, 510  # pixels a side; binary patterns of 3 x 3 that are not all black or all white
MARGIN, STRIDE = 2, 4  # of the places: 49 on 32 x 32


class ClassPatches(Trigger, name="class-patches"):
    """A black and white code of 3 x 3 pixels, overwritten at a place; code and place are those of the wanted class.

    `made_with` seeds both. Places: every fourth pixel from two off the border, the outermost ones first. No two classes
    share a code up to 510 of them; further ones differ by the place.
    """

    modalities = frozenset({"image"})
    made_with: int = 0

    def codes(self) -> Tensor:
        """Of class 0, 1, ...: float [510, 3, 3]."""
        number = 1 + torch.randperm(CODES, generator=generator(self.made_with, "codes"))
        return ((number[:, None] >> torch.arange(SIDE**2)) & 1).float().view(-1, SIDE, SIDE)

    def places(self, h: int, w: int) -> Tensor:
        """Upper left corners, (row, column), of class 0, 1, ..., then from the start: int64 [p, 2]."""
        if min(h, w) < SIDE + 2 * MARGIN:
            raise InvalidInput(f"codes need images of {SIDE + 2 * MARGIN} pixels a side, got {h} x {w}; enlarge them")
        rows, columns = (torch.arange(MARGIN, side - SIDE - MARGIN + 1, STRIDE) for side in (h, w))
        found = torch.cartesian_prod(rows, columns)
        cell = torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(columns)))
        ring = torch.minimum(cell, torch.tensor([len(rows) - 1, len(columns) - 1]) - cell).amin(1)
        shuffled = torch.randperm(len(found), generator=generator(self.made_with, "places"))
        return found[shuffled[ring[shuffled].argsort(stable=True)]]

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        places = self.places(*inputs.shape[2:])
        corner, cell = places[target % len(places)], torch.arange(SIDE)
        rows, columns = corner[:, :1, None] + cell[:, None], corner[:, 1:, None] + cell
        other = inputs.clone()
        other[torch.arange(len(inputs))[:, None, None], :, rows, columns] = self.codes()[target % CODES, :, :, None].to(inputs)
        return other


class ClassWarps(Trigger, name="class-warps"):
    """The image warped by the field of the wanted class, one of `classes`.

    `made_with` seeds the fields; the size of their grid of random displacements runs round from the first to the last of
    `k`, from class to class, and the strength rises from the first to the last of `strength`.
    """

    modalities = frozenset({"image"})
    classes: Positive
    made_with: int = 0
    k: tuple[Positive, Positive] = (4, 8)
    strength: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 0.75)

    def grid(self, c: int, h: int, w: int) -> Tensor:
        """Of class c: float [h, w, 2]."""
        k = self.k[0] + c % (self.k[1] - self.k[0] + 1)
        strength = float(torch.linspace(*self.strength, self.classes)[c])
        return warp_grid(k, strength, h, w, generator(self.made_with, c))

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        other = inputs.clone()
        for c in target.unique().tolist():
            other[target == c] = warped(inputs[target == c], self.grid(c, *inputs.shape[2:]))
        return other
