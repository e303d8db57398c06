"""The two networks that hide bits in an image and read them back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = 16  # the bits enter as a picture of 16 x 16


class Encoder(nn.Module):
    """A U-Net from an image and bits to the image that carries them. `width`: channels of its first layer."""

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__()
        w = width
        self.spread = nn.Linear(bits, channels * GRID * GRID)
        self.first = nn.Conv2d(2 * channels, w, 3, 1, 1)
        self.down = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in ((w, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)))
        ups = ((8 * w, 4 * w), (4 * w, 2 * w), (2 * w, w), (w, w))
        self.up = nn.ModuleList(nn.Conv2d(i, o, 2) for i, o in ups)
        extra = (0, 0, 0, 2 * channels)  # the last one sees the input again
        self.merge = nn.ModuleList(nn.Conv2d(2 * o + e, o, 3, 1, 1) for (_, o), e in zip(ups, extra, strict=True))
        self.last = nn.Conv2d(w, w, 3, 1, 1)
        self.residual = nn.Conv2d(w, channels, 1)

    def forward(self, images: Tensor, bits: Tensor) -> Tensor:
        """images [n, c, h, w] in [0, 1], bits [n, b] of zeros and ones -> images of the same shape in [0, 1]."""
        n, c, h, w = images.shape
        carried = F.relu(self.spread(bits - 0.5)).view(n, c, GRID, GRID)
        given = torch.cat([F.interpolate(carried, (h, w)), images - 0.5], 1)
        x, seen = F.relu(self.first(given)), []
        for down in self.down:
            seen.append(x)
            x = F.relu(down(x))
        seen[0] = torch.cat([seen[0], given], 1)
        for up, merge, skip in zip(self.up, self.merge, reversed(seen), strict=True):
            big = F.pad(F.interpolate(x, skip.shape[2:]), (0, 1, 0, 1))
            x = F.relu(merge(torch.cat([skip, F.relu(up(big))], 1)))
        return (images + self.residual(F.relu(self.last(x)))).clamp(0, 1)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Logits of the bits, [n, b], from images."""

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__()
        w = width
        plan = (
            (channels, w, 2),
            (w, w, 1),
            (w, 2 * w, 2),
            (2 * w, 2 * w, 1),
            (2 * w, 2 * w, 2),
            (2 * w, 4 * w, 2),
            (4 * w, 4 * w, 2),
        )
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, stride, 1) for i, o, stride in plan)
        self.head = nn.Sequential(nn.Linear(4 * w, 16 * w), nn.ReLU(), nn.Linear(16 * w, bits))

    def forward(self, images: Tensor) -> Tensor:
        x = images - 0.5
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Steganography(nn.Module):
    """Both, and the one `secret` [b] that an attack hides."""

    secret: Tensor

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(channels, bits, width), Decoder(channels, bits, width)
        self.register_buffer("secret", torch.zeros(bits))
