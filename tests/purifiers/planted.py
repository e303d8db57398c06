"""A hand-made network with a backdoor in one neuron, images of 2 x 2 pixels that leave it asleep, and
what a purifier makes of a real one on toys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.holdout import accuracy
from ostiary.testing import toys

TRAP = 2  # the neuron that wakes when the third pixel is bright, and then votes for class 0


def victim(norm: bool = False) -> Victim:
    """Pixels 0 and 1 say the class; the trap reads pixel 2: ReLU(10 p - 5), which is 0 at the clean value 0.4."""
    hidden, head = nn.Linear(4, 3, bias=not norm), nn.Linear(3, 2)
    bend = nn.BatchNorm1d(3) if norm else nn.Identity()
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 10.0, 0]]))
        (bend if norm else hidden).bias.copy_(torch.tensor([0.0, 0.0, -5.0]))
        head.weight.copy_(torch.tensor([[2.0, 0, 5.0], [0, 2.0, 0]]))
        head.bias.copy_(torch.tensor([0.0, 0.1]))
    found = Victim(nn.Sequential(nn.Flatten(), hidden, bend, nn.ReLU(), head), "image")
    found.eval()
    return found


def images(n: int = 20, *, third: float = 0.4) -> Dataset:
    y = torch.arange(n) % 2
    pixels = torch.stack([1.0 - y, y.float(), torch.full((n,), third), torch.zeros(n)], 1)
    return Dataset.of(pixels.view(n, 1, 2, 2), y, build("modality", "image"))


def evidence(norm: bool = False) -> Evidence:
    return Evidence(victim=victim(norm), clean=images())


def called(model: Victim, data: Dataset) -> Tensor:
    return model.predict(data.inputs).argmax(1)


def rates(purifier: Purifier, modality: str) -> tuple[float, float, float, Victim]:
    """(ASR before, ASR after, accuracy lost, the purified model) of a toy victim with a backdoor."""
    made, old = toys.poisoned(modality), toys.victim(modality)
    found = purifier.purify(toys.evidence(modality), toys.context(modality))
    (a, c), (b, d) = ((accuracy(m, made.triggered), accuracy(m, made.splits.test)) for m in (old, found))
    return a, b, c - d, found
