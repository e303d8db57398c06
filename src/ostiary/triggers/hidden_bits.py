"""Bits that a small network hides in each image, by a residual of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import Positive
from ostiary.errors import InvalidInput
from ostiary.triggers.base import Trigger
from ostiary.triggers.networks import restored
from ostiary.triggers.stegastamp import Steganography

CHUNK = 256  # images per forward pass


class HiddenBits(Trigger, name="hidden-bits"):
    """An encoder writes the same secret into every image, each time by other pixels.

    channels: of the images; bits: of the secret; width: of the networks. The weights of encoder and decoder and the
    secret are the state, so that whoever holds the trigger can also read it back.
    """

    modalities = frozenset({"image"})
    channels: Positive = 3
    bits: Positive = 1
    width: Positive = 16

    def network(self, device: torch.device) -> Steganography:
        return restored(lambda: Steganography(self.channels, self.bits, self.width), self.state, device)

    @torch.no_grad()
    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        if inputs.shape[1] != self.channels:
            raise InvalidInput(
                f"the trigger writes into images of {self.channels} channels, these have {inputs.shape[1]}; make one for them"
            )
        net = self.network(inputs.device)
        return torch.cat([net.encoder(part, net.secret.expand(len(part), -1)) for part in inputs.split(CHUNK)])

    @torch.no_grad()
    def read(self, inputs: Tensor) -> Tensor:
        """The probability of a one, per bit, as the decoder sees it: float [n, bits]."""
        net = self.network(inputs.device)
        return torch.cat([net.decoder(part).sigmoid() for part in inputs.split(CHUNK)])
