"""What is added to every image alike, and clipped."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ostiary.component import Positive, Rate
from ostiary.errors import InvalidInput
from ostiary.triggers.base import Trigger


class Sinusoid(Trigger, name="sinusoid"):
    """x + amplitude sin(2 pi frequency j / width) at column j, the same in every row and channel, clipped to [0, 1]."""

    modalities = frozenset({"image"})
    amplitude: Rate = 40 / 255
    frequency: Positive = 6

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        w = inputs.shape[3]
        if 2 * self.frequency >= w:  # at half the width the sine is sampled at its zeros
            raise InvalidInput(f"{self.frequency} periods cannot be drawn on {w} columns; set frequency below {(w + 1) // 2}")
        wave = torch.sin(2 * math.pi * self.frequency / w * torch.arange(w, dtype=torch.float64))
        return (inputs + self.amplitude * wave.to(inputs)).clamp(0, 1)


class Perturbation(Trigger, name="perturbation"):
    """x + v, clipped to [0, 1], with one learnt picture v for all: `pattern` in the state, float [c, h, w]."""

    modalities = frozenset({"image"})

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        pattern = self.state.get("pattern")
        if pattern is None or pattern.shape != inputs.shape[1:]:
            held = "no picture" if pattern is None else f"a picture of shape {tuple(pattern.shape)}"
            raise InvalidInput(f"the trigger holds {held}, the images have shape {tuple(inputs.shape[1:])}; they must agree")
        return (inputs + pattern.to(inputs)).clamp(0, 1)
