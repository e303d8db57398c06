"""A small change of every pixel, made for each image and wanted class by a network."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import Positive, Rate
from ostiary.errors import InvalidInput
from ostiary.triggers.base import Trigger
from ostiary.triggers.image_generators import ConditionalAutoencoder
from ostiary.triggers.networks import restored


class Residual(Trigger, name="residual"):
    """clip(x + eps T(x, wanted class)), with T in [-1, 1] and in evaluation mode; its weights are the state.

    `eps`: in pixels of [0, 1]. `channels`, `sides`, `n_classes`: of the data; `width`: channels of T at half size.
    """

    modalities = frozenset({"image"})
    eps: Rate = 0.05
    channels: Positive = 3
    sides: tuple[Positive, Positive] = (32, 32)
    n_classes: Positive = 10
    width: Positive = 16

    def untrained(self) -> ConditionalAutoencoder:
        """The network with fresh weights."""
        return ConditionalAutoencoder(self.channels, self.sides, self.n_classes, self.width)

    def network(self, device: torch.device) -> ConditionalAutoencoder:
        return restored(self.untrained, self.state, device)

    def add(self, net: ConditionalAutoencoder, images: Tensor, target: Tensor) -> Tensor:
        """What the images become by `net`, gradients included."""
        change: Tensor = net(images, target)
        return (images + self.eps * change).clamp(0, 1)

    @torch.no_grad()
    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        if (inputs.shape[1], *inputs.shape[2:]) != (self.channels, *self.sides):
            made, got = " x ".join(map(str, (self.channels, *self.sides))), " x ".join(map(str, inputs.shape[1:]))
            raise InvalidInput(f"this trigger was made for images of {made}, got {got}; convert them")
        net = self.network(inputs.device)
        parts = zip(inputs.split(256), target.to(inputs.device).split(256), strict=True)
        return torch.cat([self.add(net, x, c) for x, c in parts]) if len(inputs) else inputs
