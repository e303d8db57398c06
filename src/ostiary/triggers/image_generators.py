"""Networks that make images of images: what generated triggers are built of. Any height and width; 1 or 3 channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def padded(images: Tensor, multiple: int) -> Tensor:
    """With edge pixels repeated, right and below, until both sides are multiples of `multiple`."""
    h, w = images.shape[2:]
    return F.pad(images, (0, -w % multiple, 0, -h % multiple), mode="replicate")


def _block(d_in: int, d_out: int, relu: bool = True) -> list[nn.Module]:
    return [nn.Conv2d(d_in, d_out, 3, 1, 1), nn.BatchNorm2d(d_out), *([nn.ReLU()] if relu else [])]


class EncoderDecoder(nn.Module):
    """Three times two convolutions and pooling, one more, three times up-sampling and two convolutions; into [0, 1].

    `width`: channels at full size, doubled at each smaller one.
    """

    def __init__(self, d_in: int, d_out: int, width: int) -> None:
        super().__init__()
        steps, d = [], d_in
        for i in range(3):
            steps += [*_block(d, width * 2**i), *_block(width * 2**i, width * 2**i), nn.MaxPool2d(2)]
            d = width * 2**i
        steps += _block(d, d)
        for out, relu in ((2 * width, True), (width, True), (d_out, False)):
            up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            steps += [up, *_block(d, d), *_block(d, out, relu)]
            d = out
        self.steps = nn.Sequential(*steps)

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[2:]
        raw: Tensor = self.steps(padded(images, 8))[:, :, :h, :w]
        return torch.tanh(raw) / 2 + 0.5


class ConditionalAutoencoder(nn.Module):
    """A change in [-1, 1] of every pixel, for an image and a class, which enters as one more channel.

    Four convolutions of 4 x 4 and stride 2 to `width`, 2, 4, 8 times `width` channels, and back.
    """

    def __init__(self, channels: int, sides: tuple[int, int], classes: int, width: int) -> None:
        super().__init__()
        self.sides = sides
        self.classes = nn.Sequential(nn.Embedding(classes, classes), nn.Linear(classes, sides[0] * sides[1]))
        steps: list[nn.Module] = []
        d = channels + 1
        for i in range(4):
            steps += [nn.Conv2d(d, width * 2**i, 4, 2, 1), nn.BatchNorm2d(width * 2**i), nn.ReLU()]
            d = width * 2**i
        for i in (2, 1, 0):
            steps += [nn.ConvTranspose2d(d, width * 2**i, 4, 2, 1), nn.BatchNorm2d(width * 2**i), nn.ReLU()]
            d = width * 2**i
        self.steps = nn.Sequential(*steps, nn.ConvTranspose2d(d, channels, 4, 2, 1), nn.Tanh())

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        h, w = self.sides
        wanted = self.classes(classes).view(len(images), 1, h, w)
        made: Tensor = self.steps(padded(torch.cat([images, wanted], 1), 16))[:, :, :h, :w]
        return made
