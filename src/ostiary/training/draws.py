"""Random batches for what is optimised beside the weights (masks, perturbations), where there is no epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ostiary.data.dataset import Dataset
from ostiary.modality.base import Inputs


def draws(data: Dataset, size: int, steps: int, device: torch.device, rng: torch.Generator) -> Iterator[tuple[Inputs, Tensor]]:
    """`steps` batches of `size` samples each, on `device`; where there are no more than that, all of them each time."""
    whole, n = len(data) <= size, len(data)
    held = data.move(device)
    for _ in range(steps):
        if whole:
            yield held.inputs, held.y
        else:
            rows = torch.randperm(n, generator=rng)[:size].to(device)
            yield held.modality.take(held.inputs, rows), held.y[rows]


def one_pass(data: Dataset, size: int, device: torch.device, rng: torch.Generator) -> Iterator[tuple[Inputs, Tensor]]:
    """Every sample once, in batches of at most `size`, on `device`."""
    held = data.move(device)
    for rows in torch.randperm(len(data), generator=rng).to(device).split(size):
        yield held.modality.take(held.inputs, rows), held.y[rows]
