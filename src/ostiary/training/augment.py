"""Image augmentations as batched tensor operations, one random draw per image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.modality.image import shift, turned

Distortion = Literal["rotate", "shift", "flip", "crop", "blur", "erase"]


def crop(images: Tensor, rng: torch.Generator, pad: int = 4) -> Tensor:
    """Random crop after zero padding by `pad` pixels."""
    return shift(images, pad, rng)


def flip(images: Tensor, rng: torch.Generator, p: float = 0.5) -> Tensor:
    """Horizontal flip of each image with probability `p`."""
    turn = (torch.rand(len(images), generator=rng) < p).to(images.device)
    return torch.where(turn[:, None, None, None], images.flip(3), images)


def rotate(images: Tensor, rng: torch.Generator, degrees: float = 10.0, p: float = 0.5) -> Tensor:
    """Each image, with probability `p`, turned by up to `degrees` either way."""
    amount, turn = torch.rand(2, len(images), generator=rng).to(images)
    angle = (2 * amount - 1) * math.radians(degrees) * (turn < p)
    return torch.where((angle == 0)[:, None, None, None], images, turned(images, angle))


def blur(images: Tensor, rng: torch.Generator, least: float = 0.1, most: float = 2.0) -> Tensor:
    """Each image smoothed by a Gaussian of its own sigma, uniform between `least` and `most` pixels; weights that would fall
    beyond the border go to what is within."""
    sigma = (least + (most - least) * torch.rand(len(images), 1, 1, generator=rng)).to(images)

    def along(side: int) -> Tensor:  # [n, 1, side, side]: what each place takes from each
        place = torch.arange(side).to(images)
        return (-0.5 * ((place[:, None] - place) / sigma).square()).softmax(2)[:, None]

    h, w = images.shape[2:]
    return (along(h) @ images @ along(w).transpose(2, 3)).clamp(0, 1)


def erase(images: Tensor, rng: torch.Generator) -> Tensor:
    """In each image a rectangle of a fifth to three tenths of the area, 1/2 to 1 times as tall as wide, filled with noise."""
    n, _, h, w = images.shape
    draws = torch.rand(4, n, 1, generator=rng).to(images)
    area, aspect = (0.2 + 0.1 * draws[0]) * h * w, 0.5 + 0.5 * draws[1]
    sides = (area * aspect).sqrt().clamp(max=h), (area / aspect).sqrt().clamp(max=w)
    starts = draws[2] * (h - sides[0]), draws[3] * (w - sides[1])
    rows, columns = (
        (at + 0.5 >= start) & (at + 0.5 < start + side)
        for at, start, side in zip((torch.arange(s).to(images) for s in (h, w)), starts, sides, strict=True)
    )
    noise = torch.rand(images.shape, generator=rng).to(images)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], noise, images)


def moved(images: Tensor, rng: torch.Generator, reach: float = 0.2) -> Tensor:
    """Each image shifted by up to `reach` of each side, zero filled (bilinear)."""
    by = (2 * torch.rand(len(images), 2, generator=rng) - 1) * 2 * reach  # of half a side
    return turned(images, by.new_zeros(len(images)).to(images), by.to(images))


def distorted(images: Tensor, rng: torch.Generator, how: Sequence[Distortion]) -> Tensor:
    """Images changed by these in turn, each by a draw of its own, as FCT's authors do: turned by any angle, shifted by up to a
    fifth, flipped, cropped after padding, blurred, a part erased."""
    for name in how:
        match name:
            case "rotate":
                images = rotate(images, rng, degrees=180.0, p=1.0)
            case "shift":
                images = moved(images, rng)
            case "flip":
                images = flip(images, rng, p=1.0)
            case "crop":
                images = augment(images, "crop", rng)
            case "blur":
                images = blur(images, rng)
            case "erase":
                images = erase(images, rng)
    return images


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
