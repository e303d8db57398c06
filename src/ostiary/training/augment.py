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
    """Each image, with probability one half, turned by up to `degrees` either way."""
    amount, turn = torch.rand(2, len(images), generator=rng).to(images)
    angle = (2 * amount - 1) * math.radians(degrees) * (turn < 0.5)
    return torch.where((angle == 0)[:, None, None, None], images, turned(images, angle))


def turned(images: Tensor, angle: Tensor) -> Tensor:
    """Images turned about their centres by `angle` (radians, float [n]), anticlockwise; bilinear, zero filled."""
    n, _, h, w = images.shape
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = (cos, -sin * h / w, none), (sin * w / h, cos, none)  # the grid runs from -1 to 1 along both axes
    grid = F.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), [n, 1, h, w], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)


def augment(images: Tensor, how: str, rng: torch.Generator) -> Tensor:
    """`how`: none, crop, crop-flip, or crop-rotate-flip."""
    if "crop" in how:
        images = crop(images, rng, pad=max(1, images.shape[-1] // 8))
    if "rotate" in how:
        images = rotate(images, rng)
    return flip(images, rng) if "flip" in how else images
