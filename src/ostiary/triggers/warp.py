"""Warped images: smooth random displacement fields as sampling grids (WaNet, Nguyen & Tran, ICLR 2021, arXiv:2102.10369)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def warp_grid(k: int, strength: float, height: int, width: int, generator: Generator) -> Tensor:
    """Where each pixel is fetched from: float [h, w, 2], (x, y) in [-1, 1] from corner to corner.

    k x k random displacements of mean size one, bicubic in between, times `strength` / side (the authors' scale: about
    `strength` / 2 pixels), cut at the border.
    """
    points = 2 * torch.rand(1, 2, k, k, generator=generator) - 1
    field = F.interpolate(points / points.abs().mean(), (height, width), mode="bicubic", align_corners=True)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    shift = strength * field[0].permute(1, 2, 0) / torch.tensor([width, height])
    return (torch.stack([x, y], 2) + shift).clamp(-1, 1)


def jittered(grids: Tensor, noise: Tensor) -> Tensor:
    """The grids displaced once more, by `noise` / side: in [-1, 1], float [n, h, w, 2], in WaNet."""
    height, width = noise.shape[1:3]
    return (grids + noise / noise.new_tensor([width, height])).clamp(-1, 1)


def warped(images: Tensor, grids: Tensor) -> Tensor:
    """The images [n, c, h, w] fetched through one grid [h, w, 2], or one each [n, h, w, 2]; bilinear."""
    each = grids.to(images).expand(len(images), *grids.shape[-3:])
    return F.grid_sample(images, each, align_corners=True).clamp(0, 1)
