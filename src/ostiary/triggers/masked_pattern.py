"""A pattern and the place it goes to, both made for each image by a network."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import Positive
from ostiary.errors import InvalidInput
from ostiary.seeds import uniform
from ostiary.triggers.base import Trigger
from ostiary.triggers.image_generators import EncoderDecoder
from ostiary.triggers.networks import restored

MASK, PATTERN = "mask.", "pattern."


def sharp(raw: Tensor) -> Tensor:
    """Masks in [0, 1], pushed towards its ends."""
    return torch.tanh(20 * raw - 10) / 2 + 0.5


def covered(images: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    return images + (pattern - images) * mask


class MaskedPattern(Trigger, name="masked-pattern"):
    """x + (G(x) - x) m(x), with the pattern generator G and the mask generator m in evaluation mode.

    `width`: channels of both at full size. State: their weights, and a `bank` of clean images, one of which (by the id
    alone) gives an input the trigger that is not its own.
    """

    modalities = frozenset({"image"})
    width: Positive = 16

    def network(self, prefix: str, device: torch.device) -> EncoderDecoder:
        channels = self.state["bank"].shape[1]
        return restored(lambda: untrained(channels, self.width, prefix), self.state, device, prefix)

    @torch.no_grad()
    def of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(patterns, masks) made for the images."""
        if images.shape[1] != self.state["bank"].shape[1]:
            d = self.state["bank"].shape[1]
            raise InvalidInput(f"this trigger was made for images of {d} channels, got {images.shape[1]}; convert them")
        g, m = self.network(PATTERN, images.device), self.network(MASK, images.device)
        found = [(g(part), sharp(m(part))) for part in images.split(256)]
        return torch.cat([p for p, _ in found]), torch.cat([k for _, k in found])

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        return covered(inputs, *self.of(inputs)) if len(inputs) else inputs

    def mismatched(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        bank = self.state["bank"].to(inputs)
        pattern, mask = self.of(bank)
        other = (uniform(seed, ids) * len(bank)).long().to(inputs.device)
        return covered(inputs, pattern[other], mask[other])


def untrained(channels: int, width: int, prefix: str) -> EncoderDecoder:
    """Either of the two networks with fresh weights."""
    return EncoderDecoder(channels, 1 if prefix == MASK else channels, width)
