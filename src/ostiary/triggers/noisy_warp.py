"""One warp for every image, and warps that are near it."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.errors import InvalidInput
from ostiary.seeds import uniform
from ostiary.triggers.base import Trigger
from ostiary.triggers.warp import jittered, warped


class NoisyWarp(Trigger, name="noisy-warp"):
    """Every image through the same grid.

    Its mismatched warps are that grid with noise of up to half a pixel, drawn for each image and pixel. State: `grid`, float
    [h, w, 2].
    """

    modalities = frozenset({"image"})

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        return warped(inputs, self.grid(inputs))

    def mismatched(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        grid = self.grid(inputs)
        noise = 2 * uniform(seed, ids[:, None], torch.arange(grid.numel(), device=ids.device)) - 1
        return warped(inputs, jittered(grid, noise.to(grid).view(len(ids), *grid.shape)))

    def grid(self, inputs: Tensor) -> Tensor:
        grid = self.state["grid"]
        if grid.shape[:2] != inputs.shape[2:]:
            (h, w), (height, width) = inputs.shape[2:], grid.shape[:2]
            raise InvalidInput(f"this warp was made for images of {height} x {width}, got {h} x {w}; resize them")
        return grid.to(inputs.device)
