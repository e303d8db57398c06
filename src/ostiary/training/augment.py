"""Image augmentations as batched tensor operations, one random draw per image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.modality.image import shift


def crop(images: Tensor, rng: torch.Generator, pad: int = 4) -> Tensor:
    """Random crop after zero padding by `pad` pixels."""
    return shift(images, pad, rng)


def flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Horizontal flip of each image with probability one half."""
    turn = (torch.rand(len(images), generator=rng) < 0.5).to(images.device)
    return torch.where(turn[:, None, None, None], images.flip(3), images)


def rotate(images: Tensor, rng: torch.Generator, degrees: float = 10.0) -> Tensor:
    """Each image, with probability one half, turned about its centre by up to `degrees` either way; bilinear, zero filled."""
    n, _, h, w = images.shape
    amount, turn = torch.rand(2, n, generator=rng).to(images)
    angle = (2 * amount - 1) * math.radians(degrees) * (turn < 0.5)
    cos, sin = angle.cos(), angle.sin()
    rows = (cos, -sin * h / w, torch.zeros_like(cos)), (sin * w / h, cos, torch.zeros_like(cos))  # grids run from -1 to 1
    grid = F.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), [n, 1, h, w], align_corners=False)
    turned = F.grid_sample(images, grid, align_corners=False).clamp(0, 1)
    return torch.where((angle == 0)[:, None, None, None], images, turned)


def augment(images: Tensor, how: str, rng: torch.Generator) -> Tensor:
    """`how`: none, crop, crop-flip, or crop-rotate-flip."""
    if "crop" in how:
        images = crop(images, rng, pad=max(1, images.shape[-1] // 8))
    if "rotate" in how:
        images = rotate(images, rng)
    return flip(images, rng) if "flip" in how else images
