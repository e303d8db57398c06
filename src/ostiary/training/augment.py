"""Image augmentations as batched tensor operations, one random draw per image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.modality.image import shift, turned


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


def augment(images: Tensor, how: str, rng: torch.Generator) -> Tensor:
    """`how`: none, crop, crop-flip, or crop-rotate-flip."""
    if "crop" in how:
        images = crop(images, rng, pad=max(1, images.shape[-1] // 8))
    if "rotate" in how:
        images = rotate(images, rng)
    return flip(images, rng) if "flip" in how else images


def views(images: Tensor, rng: torch.Generator) -> Tensor:
    """A random view of each image, as contrastive learning takes two of (Chen et al., SimCLR, ICML 2020, arXiv:2002.05709).

    A crop of 0.2 to 1 of the area and 3/4 to 4/3 in aspect, blown up to the old size; flipped with probability 0.5; colours
    jittered with 0.8; grey with 0.2.
    """
    n, channels = images.shape[:2]
    area, aspect = 0.2 + 0.8 * torch.rand(n, generator=rng), (4 / 3) ** (2 * torch.rand(n, generator=rng) - 1)
    size = torch.stack([area * aspect, area / aspect], 1).sqrt().clamp(max=1)  # width and height, as shares
    shift = (2 * torch.rand(n, 2, generator=rng) - 1) * (1 - size)
    turn = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = size[:, 0] * turn, size[:, 1], shift
    grid = F.affine_grid(affine.to(images), list(images.shape), align_corners=False)
    cropped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    coloured, faded = (torch.rand(2, n, 1, 1, 1, generator=rng) < torch.tensor([0.8, 0.2]).view(2, 1, 1, 1, 1)).unbind()
    cropped = torch.where(coloured, jitter(cropped, rng), cropped)
    return torch.where(faded, grey(cropped), cropped) if channels == 3 else cropped


def jitter(images: Tensor, rng: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation times 0.6 to 1.4, hue turned by up to a tenth of the circle about the grey axis,
    always in this order; the last two where there are colours."""
    n, channels = images.shape[:2]
    light, range_, colour = 0.6 + 0.8 * torch.rand(3, n, 1, 1, 1, generator=rng)
    angle = 0.2 * math.pi * (2 * torch.rand(n, 1, 1, 1, generator=rng) - 1)
    images = (images * light).clamp(0, 1)
    middle = grey(images).mean((1, 2, 3), keepdim=True)
    images = (middle + range_ * (images - middle)).clamp(0, 1)
    if channels != 3:
        return images
    images = (grey(images) + colour * (images - grey(images))).clamp(0, 1)
    mean, across = images.mean(1, keepdim=True), (images.roll(1, 1) - images.roll(-1, 1)) / math.sqrt(3)
    return (mean + angle.cos() * (images - mean) + angle.sin() * across).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Luma, one channel (ITU-R BT.601)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True)
