"""Generators of patches, several side by side in one batch, and what ties patches to their noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOISE, PARTS = 64, 4  # of the input, and into how many parts it is split, one for each layer (authors)
RATE = 0.001  # of the moving average (authors)


class Dense(nn.Module):
    """`count` linear layers at once: [count, b, d_in] -> [count, b, d_out]."""

    def __init__(self, count: int, d_in: int, d_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(d_in)
        self.weight = nn.Parameter(torch.empty(count, d_in, d_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(count, 1, d_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Generators(nn.Module):
    """`count` generators of patches: noise in [0, 1] -> [count, b, c * size * size] in [0, 1]. BatchNorm by the batch's own
    statistics, so that several are to be drawn at a time."""

    def __init__(self, count: int, pixels: int, hidden: int) -> None:
        super().__init__()
        self.count, part = count, NOISE // PARTS
        sizes = [(part, hidden), (hidden + part, hidden), (hidden + part, hidden), (hidden + part, pixels)]
        self.layers = nn.ModuleList(Dense(count, *s) for s in sizes)
        self.scales = nn.ParameterList(torch.ones(count, 1, hidden) for _ in range(PARTS - 1))
        self.shifts = nn.ParameterList(torch.zeros(count, 1, hidden) for _ in range(PARTS - 1))  # of BatchNorm

    def forward(self, noise: Tensor) -> Tensor:
        parts, x = noise.chunk(PARTS, 2), noise[..., :0]
        for i, (layer, part) in enumerate(zip(self.layers, parts, strict=True)):
            x = layer(torch.cat([x, part], 2))
            if i < PARTS - 1:
                spread = x.var(1, keepdim=True, unbiased=False) + 1e-5
                x = (x - x.mean(1, keepdim=True)) / spread.sqrt() * self.scales[i] + self.shifts[i]
                x = F.leaky_relu(x, 0.2)
        return torch.sigmoid(x)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(noise, patches) of `n` draws from each."""
        device = self.scales[0].device
        noise = torch.rand(self.count, n, NOISE, generator=rng).to(device)
        return noise, self(noise)


class Dependence(nn.Module):
    """What patches tell about their noise, by a bound with a statistic T that is trained along (Donsker & Varadhan): its
    gradient, of which a moving average takes the bias, serves T and the generators alike (Belghazi et al., ICML 2018)."""

    mean: Tensor

    def __init__(self, count: int, pixels: int, hidden: int) -> None:
        super().__init__()
        self.noise, self.patch = Dense(count, NOISE, hidden), Dense(count, pixels, hidden)
        self.inner, self.last = Dense(count, hidden, hidden), Dense(count, hidden, 1)
        self.register_buffer("mean", torch.ones(count, 1))

    def score(self, noise: Tensor, patch: Tensor) -> Tensor:
        x = F.leaky_relu(self.noise(noise) + self.patch(patch), 0.2)
        found: Tensor = F.leaky_relu(self.last(F.leaky_relu(self.inner(x), 0.2)), 0.2)
        return found[..., 0]

    def forward(self, noise: Tensor, patch: Tensor) -> Tensor:
        """To be ascended, by generator: float [count]."""
        joint, apart = self.score(noise, patch), self.score(noise.roll(1, 1), patch).clamp(max=20).exp()
        self.mean = torch.lerp(self.mean, apart.mean(1, keepdim=True), RATE).detach()
        return joint.mean(1) - (apart / self.mean).mean(1)
