"""Image augmentations as batched tensor operations, one random draw per image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(images: Tensor, rng: torch.Generator, pad: int = 4) -> Tensor:
    """Random crop after zero padding by `pad` pixels, all images by one gather."""
    n, c, h, w = images.shape
    big = F.pad(images, (pad,) * 4)
    top, left = torch.randint(0, 2 * pad + 1, (2, n), generator=rng)
    rows = top[:, None] + torch.arange(h)
    columns = left[:, None] + torch.arange(w)
    image, channel = torch.arange(n)[:, None, None, None], torch.arange(c)[:, None, None]
    return big[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Horizontal flip of each image with probability one half."""
    turn = torch.rand(len(images), generator=rng) < 0.5
    return torch.where(turn[:, None, None, None], images.flip(3), images)


def augment(images: Tensor, how: str, rng: torch.Generator) -> Tensor:
    """`how`: none, crop, or crop-flip."""
    if "crop" in how:
        images = crop(images, rng, pad=max(1, images.shape[-1] // 8))
    return flip(images, rng) if "flip" in how else images
